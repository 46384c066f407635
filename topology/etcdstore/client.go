package etcdstore

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
)

// Client is what the store uses of an etcd client. Every method keeps what
// clientv3 documents for it, errors included.
type Client interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	Txn(ctx context.Context) clientv3.Txn

	// Watch blocks until etcd has answered or ctx is done.
	Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan
	RequestProgress(ctx context.Context) error

	Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error)
	Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error)
	// Renew sends one renewal and returns the lease's time to live in seconds,
	// 0 when there is no such lease. clientv3's KeepAliveOnce would repeat the
	// request without a pause while etcd is down.
	Renew(ctx context.Context, id clientv3.LeaseID) (ttl int64, err error)

	// Reconnected is closed at the next connection to a member. A watch goes on
	// over it without a word, so this is the only sign that the server may be
	// another one than before.
	Reconnected() <-chan struct{}

	Close() error
}

// Backend makes a store's clients. Tests put a cluster in memory behind it.
type Backend interface {
	// Connect makes a client. It may succeed while etcd is down.
	Connect(ctx context.Context) (Client, error)
	// Probe is called when etcd did not answer. It returns why endpoints cannot
	// be used, and how many can be.
	Probe(ctx context.Context) (reasons []string, usable int)
}

// Connect implements Backend.
func (n *network) Connect(context.Context) (Client, error) {
	urls := make([]string, len(n.endpoints))
	for i, e := range n.endpoints {
		urls[i] = e.url
	}
	out := &netClient{conns: newConnections(), open: &openConns{all: map[*trackedConn]bool{}}}
	creds := insecure.NewCredentials()
	options := []grpc.DialOption{
		grpc.WithStatsHandler(out.conns),
		// gRPC's own backoff would grow to two minutes: for that long after its
		// return etcd would be reported as unreachable.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: grpcbackoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMost,
			},
			MinConnectTimeout: n.cfg.Timeout,
		}),
	}
	conf := clientv3.Config{
		Endpoints:            urls,
		Username:             n.cfg.Username,
		Password:             n.cfg.Password,
		DialTimeout:          n.cfg.Timeout,
		DialKeepAliveTime:    10 * time.Second, // the least gRPC allows
		DialKeepAliveTimeout: n.cfg.Timeout,
		Logger:               n.cfg.Logger,
	}
	if n.certs != nil {
		conf.TLS = n.certs.config() // makes the client use TLS at all
		creds = n.certs
	}
	options = append(options, grpc.WithTransportCredentials(tracked{creds, out.open}))
	conf.DialOptions = options
	c, err := clientv3.New(conf)
	if err != nil {
		return nil, err
	}
	out.Client = c
	return out, nil
}

// netClient is a client of a real etcd.
type netClient struct {
	*clientv3.Client
	conns *connections
	open  *openConns
}

// Renew implements Client.
func (c *netClient) Renew(ctx context.Context, id clientv3.LeaseID) (int64, error) {
	stream, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.CloseSend() }()
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
		return 0, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	return resp.TTL, nil
}

// Reconnected implements Client.
func (c *netClient) Reconnected() <-chan struct{} { return c.conns.next() }

// connections notices gRPC's connections. It implements stats.Handler.
type connections struct {
	mu   sync.Mutex
	made chan struct{}
}

func newConnections() *connections { return &connections{made: make(chan struct{})} }

func (c *connections) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made
}

// HandleConn implements stats.Handler.
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, begins := s.(*stats.ConnBegin); !begins {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.made)
	c.made = make(chan struct{})
}

// TagConn implements stats.Handler.
func (c *connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// TagRPC implements stats.Handler.
func (c *connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (c *connections) HandleRPC(context.Context, stats.RPCStats) {}
