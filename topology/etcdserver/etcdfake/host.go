package etcdfake

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/baize-net/baize/topology/etcdstore"
)

// brokenAfter is how long a host may be cut off before its connections are
// given up: gRPC's keepalive as etcdstore sets it, 10 s and an answer's 3 s.
const brokenAfter = 13 * time.Second

// Faults are what a host's network does to it.
type Faults struct {
	// Cut lets nothing through: requests wait until their deadline.
	Cut bool
	// Refused is a firewall that answers: requests fail at once.
	Refused bool
	// Delay comes on top of every request, half on each way.
	Delay time.Duration
	// LoseAnswers lets requests be executed and their answers get lost.
	LoseAnswers bool
	// StallWatches holds back what watches have to say; requests are answered.
	StallWatches bool
}

// Host is a machine with clients of a cluster. It implements
// etcdstore.Backend.
type Host struct {
	cluster *Cluster

	// All below is guarded by cluster.mu.
	faults   Faults
	cutSince time.Time
	random   *rand.Rand
	// connected is the generation that the host's connection is with.
	connected int
	made      chan struct{}
	watches   map[*watch]bool
}

var _ etcdstore.Backend = (*Host)(nil)

// Host returns a new machine. The same names and requests give the same
// latencies, so that tests can be repeated.
func (c *Cluster) Host(name string) *Host {
	seed := uint64(14695981039346656037)
	for _, b := range []byte(name) {
		seed = (seed ^ uint64(b)) * 1099511628211
	}
	return &Host{cluster: c, random: rand.New(rand.NewPCG(seed, 1)), connected: -1, made: make(chan struct{})}
}

// Set replaces the host's faults.
func (h *Host) Set(f Faults) {
	h.cluster.update(func() {
		switch {
		case f.Cut && !h.faults.Cut:
			h.cutSince = time.Now()
		case !f.Cut && h.faults.Cut && time.Since(h.cutSince) > brokenAfter:
			h.connected = -1
		}
		if f.Refused {
			h.connected = -1
		}
		h.faults = f
	})
}

// Connect implements etcdstore.Backend.
func (h *Host) Connect(context.Context) (etcdstore.Client, error) { return h.Client(), nil }

// Probe implements etcdstore.Backend.
func (h *Host) Probe(ctx context.Context) (reasons []string, usable int) {
	h.cluster.mu.Lock()
	f, down := h.faults, h.cluster.down
	h.cluster.mu.Unlock()
	switch {
	case f.Cut:
		sleep(ctx, etcdstore.DefaultTimeout)
		return []string{"fake: no answer"}, 0
	case f.Refused || down:
		return []string{"fake: connection refused"}, 0
	}
	return nil, 1
}

// connect makes the host's connection, if it has none with the running members.
// It needs cluster.mu.
func (h *Host) connect() {
	if h.connected != h.cluster.generation {
		h.connected = h.cluster.generation
		close(h.made)
		h.made = make(chan struct{})
		h.cluster.wake()
	}
}

// Client is a client of the cluster. It implements etcdstore.Client.
type Client struct {
	clientv3.KV
	clientv3.Lease
	host   *Host
	ctx    context.Context
	cancel context.CancelFunc
}

// Client returns a new client on the host.
func (h *Host) Client() *Client {
	ctx, cancel := context.WithCancel(context.Background())
	w := wire{h: h}
	return &Client{
		KV: clientv3.NewKVFromKVClient(w, nil), Lease: clientv3.NewLeaseFromLeaseClient(leaseWire{wire: w}, nil, time.Second),
		host: h, ctx: ctx, cancel: cancel,
	}
}

// Close implements etcdstore.Client.
func (c *Client) Close() error {
	c.cancel()
	return c.Lease.Close()
}

// Renew implements etcdstore.Client.
func (c *Client) Renew(ctx context.Context, id clientv3.LeaseID) (int64, error) {
	resp, err := wire{h: c.host}.renew(ctx, int64(id))
	if err != nil {
		return 0, err
	}
	return resp.TTL, nil
}

// Reconnected implements etcdstore.Client.
func (c *Client) Reconnected() <-chan struct{} {
	c.host.cluster.mu.Lock()
	defer c.host.cluster.mu.Unlock()
	return c.host.made
}

// latency is that of one way; it needs cluster.mu.
func (h *Host) latency() time.Duration {
	return h.faults.Delay/2 + 200*time.Microsecond + time.Duration(h.random.Int64N(int64(time.Millisecond)))
}

// arrive waits until a request is at a member that can answer it. It returns
// with cluster.mu held, unless there is an error.
func (h *Host) arrive(ctx context.Context, write bool) error {
	c := h.cluster
	c.mu.Lock()
	way := h.latency()
	c.mu.Unlock()
	if !sleep(ctx, way) {
		return status.FromContextError(ctx.Err()).Err()
	}
	var giveUp *time.Timer // most are answered at once
	late := false
	for {
		c.mu.Lock()
		changed := c.changed
		answered, err := h.answer(ctx, write, late)
		if answered && err == nil {
			return nil
		}
		c.mu.Unlock()
		if answered {
			return err
		}
		if giveUp == nil {
			giveUp = time.NewTimer(proposalTimeout)
			defer giveUp.Stop()
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
		case <-giveUp.C:
			late = true
		}
	}
}

// answer says what a member makes of a request; nothing is answered where it
// does not get there, or waits for a leader. It needs cluster.mu.
func (h *Host) answer(ctx context.Context, write, late bool) (answered bool, err error) {
	c := h.cluster
	switch {
	case h.faults.Cut:
		return false, nil
	case h.faults.Refused, c.down:
		return true, status.Error(codes.Unavailable, "connection error: desc = \"transport: connection refused\"")
	case c.noLeader && requiresLeader(ctx):
		return true, rpctypes.ErrGRPCNoLeader
	case c.noLeader:
		return late, rpctypes.ErrGRPCTimeout
	}
	h.connect()
	if write && c.noSpace {
		return true, rpctypes.ErrGRPCNoSpace
	}
	return true, nil
}

func requiresLeader(ctx context.Context) bool {
	md, _ := metadata.FromOutgoingContext(ctx)
	return slices.Contains(md.Get(rpctypes.MetadataRequireLeaderKey), rpctypes.MetadataHasLeader)
}

// call sends one request and waits for its answer.
func call[T any](ctx context.Context, h *Host, write bool, f func(*Cluster) (T, error)) (T, error) {
	var zero T
	if err := h.arrive(ctx, write); err != nil {
		return zero, err
	}
	c := h.cluster
	before, beforeLeases := c.db.rev, len(c.db.leases)
	out, err := f(c)
	if c.db.rev != before || len(c.db.leases) != beforeLeases {
		c.wake()
	}
	way := h.latency()
	lost := h.faults.LoseAnswers || h.faults.Cut
	c.mu.Unlock()
	if lost {
		<-ctx.Done()
	}
	if lost || !sleep(ctx, way) {
		return zero, status.FromContextError(ctx.Err()).Err()
	}
	return out, err
}

// wire implements etcd's KV service for one host.
type wire struct {
	pb.KVClient // nil: what is not implemented below is not used
	h           *Host
}

func (w wire) Range(ctx context.Context, r *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	filtered := r.MinModRevision+r.MaxModRevision+r.MinCreateRevision+r.MaxCreateRevision != 0
	if r.SortOrder != pb.RangeRequest_NONE || filtered {
		return nil, status.Error(codes.Unimplemented, "etcdfake: sorted or filtered reads")
	}
	return call(ctx, w.h, false, func(c *Cluster) (*pb.RangeResponse, error) {
		if err := c.db.checkRange(r); err != nil {
			return nil, err
		}
		c.reads++
		out := c.db.read(r, c.db.rev)
		c.header(out.Header)
		return out, nil
	})
}

func (w wire) Put(ctx context.Context, r *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	if len(r.Value) > maxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	return call(ctx, w.h, true, func(c *Cluster) (*pb.PutResponse, error) {
		if err := c.db.checkPut(r); err != nil {
			return nil, err
		}
		out := c.db.put(r, c.db.rev+1)
		c.header(out.Header)
		return out, nil
	})
}

func (w wire) DeleteRange(
	ctx context.Context, r *pb.DeleteRangeRequest, _ ...grpc.CallOption,
) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	return call(ctx, w.h, false, func(c *Cluster) (*pb.DeleteRangeResponse, error) {
		out := c.db.remove(r, c.db.rev+1)
		c.header(out.Header)
		return out, nil
	})
}

func (w wire) Txn(ctx context.Context, r *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	if err := checkTxn(r); err != nil {
		return nil, err
	}
	return call(ctx, w.h, writes(r), func(c *Cluster) (*pb.TxnResponse, error) {
		out, err := c.db.txn(r)
		if err != nil {
			return nil, err
		}
		for _, resp := range out.Responses {
			if resp.GetResponseRange() != nil {
				c.reads++
			}
		}
		c.header(out.Header)
		return out, nil
	})
}

func (w wire) Compact(
	ctx context.Context, r *pb.CompactionRequest, _ ...grpc.CallOption,
) (*pb.CompactionResponse, error) {
	return call(ctx, w.h, false, func(c *Cluster) (*pb.CompactionResponse, error) {
		if err := c.db.compact(r.Revision); err != nil {
			return nil, err
		}
		c.wake()
		return &pb.CompactionResponse{Header: c.header(&pb.ResponseHeader{Revision: c.db.rev})}, nil
	})
}

// leaseWire implements etcd's lease service for one host.
type leaseWire struct {
	pb.LeaseClient // nil: what is not implemented below is not used
	wire           wire
}

func (w leaseWire) LeaseGrant(
	ctx context.Context, r *pb.LeaseGrantRequest, _ ...grpc.CallOption,
) (*pb.LeaseGrantResponse, error) {
	return call(ctx, w.wire.h, true, func(c *Cluster) (*pb.LeaseGrantResponse, error) {
		out, err := c.grant(r)
		if err == nil {
			c.header(out.Header)
		}
		return out, err
	})
}

func (w leaseWire) LeaseRevoke(
	ctx context.Context, r *pb.LeaseRevokeRequest, _ ...grpc.CallOption,
) (*pb.LeaseRevokeResponse, error) {
	return call(ctx, w.wire.h, false, func(c *Cluster) (*pb.LeaseRevokeResponse, error) {
		l := c.db.leases[r.ID]
		if l == nil {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		c.revoke(l)
		return &pb.LeaseRevokeResponse{Header: c.header(&pb.ResponseHeader{Revision: c.db.rev})}, nil
	})
}

func (w leaseWire) LeaseTimeToLive(
	ctx context.Context, r *pb.LeaseTimeToLiveRequest, _ ...grpc.CallOption,
) (*pb.LeaseTimeToLiveResponse, error) {
	return call(ctx, w.wire.h, false, func(c *Cluster) (*pb.LeaseTimeToLiveResponse, error) {
		out := c.timeToLive(r)
		c.header(out.Header)
		return out, nil
	})
}

func (w wire) renew(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	return call(ctx, w.h, false, func(c *Cluster) (*pb.LeaseKeepAliveResponse, error) {
		out := c.renew(id)
		c.header(out.Header)
		return out, nil
	})
}

// LeaseKeepAlive is a stream that answers each message with one.
func (w leaseWire) LeaseKeepAlive(
	ctx context.Context, _ ...grpc.CallOption,
) (grpc.BidiStreamingClient[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse], error) {
	return &renewals{ctx: ctx, w: w.wire}, nil
}

type renewals struct {
	grpc.ClientStream // nil: what is not implemented below is not used
	ctx               context.Context
	w                 wire
	sent              []int64
}

func (r *renewals) Send(m *pb.LeaseKeepAliveRequest) error {
	r.sent = append(r.sent, m.ID)
	return nil
}

func (r *renewals) Recv() (*pb.LeaseKeepAliveResponse, error) {
	if len(r.sent) == 0 {
		return nil, errors.New("etcdfake: nothing was asked")
	}
	id := r.sent[0]
	r.sent = r.sent[1:]
	return r.w.renew(r.ctx, id)
}

func (r *renewals) CloseSend() error { return nil }

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
