package etcdstore_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
)

// watches counts those that etcd has to serve for a client.
type watches struct{ now atomic.Int64 }

func (w *watches) intercept(
	ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, s grpc.Streamer, o ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := s(ctx, d, c, method, o...)
	return countedStream{stream, w}, err
}

type countedStream struct {
	grpc.ClientStream
	w *watches
}

func (s countedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if r, ok := m.(*pb.WatchResponse); ok && err == nil {
		switch {
		case r.Created:
			s.w.now.Add(1)
		case r.Canceled:
			s.w.now.Add(-1)
		}
	}
	return err
}

// startProxy runs what 'etcd grpc-proxy' runs, in front of an etcd.
func startProxy(t *testing.T, endpoint string) (proxy string, w *watches) {
	t.Helper()
	w = &watches{}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithStreamInterceptor(w.intercept)},
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	kv, _ := grpcproxy.NewKvProxy(c)
	watch, watchDone := grpcproxy.NewWatchProxy(ctx, zap.NewNop(), c)
	lease, leaseDone := grpcproxy.NewLeaseProxy(ctx, c)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, kv)
	pb.RegisterWatchServer(server, watch)
	pb.RegisterLeaseServer(server, lease)
	pb.RegisterMaintenanceServer(server, grpcproxy.NewMaintenanceProxy(c))
	pb.RegisterAuthServer(server, grpcproxy.NewAuthProxy(c))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		stop()
		<-watchDone
		<-leaseDone
		_ = c.Close()
	})
	return "http://" + l.Addr().String(), w
}

// Agents work behind a proxy, and cost etcd less than without it.
func TestGRPCProxy(t *testing.T) {
	t.Parallel()
	proxy, watches := startProxy(t, etcdtest.Start(t))
	operator := openAt(t, proxy)
	mustCreate(t, operator, blue())
	const agents = 20
	var seen [agents]<-chan etcdstore.Update
	for i := range seen {
		s, name := openAt(t, proxy), fmt.Sprint("n", i)
		seen[i] = watch(t, s)
		_, err := s.RegisterNode(t.Context(), node(name))
		require.NoError(t, err)
		_, err = s.LeaseSubnet(t.Context(), "blue", name, topology.IPv4, false)
		require.NoError(t, err)
		alive(t, s, topology.Liveness{Node: name, ID: "id-" + name, Hostname: name + ".example"}, 10*time.Second)
	}
	for _, updates := range seen {
		until(t, updates, func(u etcdstore.Update) bool {
			s := u.Snapshot
			return s != nil && len(s.Subnets) == agents && len(s.Nodes) == agents && len(s.Alive) == agents
		})
	}
	// The proxy joins watches that have come as far as others, when something changes.
	more := 0
	require.Eventually(t, func() bool {
		more++
		_, err := operator.RegisterNode(t.Context(), node(fmt.Sprint("more", more)))
		return err == nil && watches.now.Load() < agents/2
	}, patience, 20*time.Millisecond, "too many watches of etcd")
	t.Logf("%d agents, %d watches", agents, watches.now.Load())
	require.Positive(t, watches.now.Load())
}
