package etcdstore

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// MemberStatus is what one endpoint says of its member of the cluster.
type MemberStatus struct {
	Endpoint string
	// Err is why it does not say anything.
	Err error
	// Took is how long it took to answer.
	Took    time.Duration
	Version string
	// Leader: it knows of one.
	Leader bool
	// Size and Quota of its database are in bytes; Quota is 0 where etcd, before 3.6,
	// does not tell.
	Size, Quota int64
	// Alarms are what it complains of: "etcdserver: no leader", "memberID:… alarm:NOSPACE".
	Alarms []string
}

// Members asks every endpoint by itself, all at the same time. It is empty where the
// store has another backend than a real etcd.
func (s *Store) Members(ctx context.Context) []MemberStatus {
	n, ok := s.backend.(*network)
	c, err := s.connect(ctx)
	if err != nil || !ok {
		return nil
	}
	client, ok := c.(*netClient)
	if !ok {
		return nil
	}
	out := make([]MemberStatus, len(n.endpoints))
	var wg sync.WaitGroup
	for i, e := range n.endpoints {
		wg.Go(func() { out[i] = s.member(ctx, client.Client, e) })
	}
	wg.Wait()
	return out
}

func (s *Store) member(ctx context.Context, c *clientv3.Client, e endpoint) MemberStatus {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	began := time.Now()
	resp, err := c.Status(ctx, e.url)
	m := MemberStatus{Endpoint: e.raw, Took: time.Since(began), Err: err}
	if err != nil {
		if st, ok := status.FromError(err); ok && ctx.Err() == nil {
			m.Err = st.Err()
		}
		return m
	}
	m.Version, m.Leader, m.Size, m.Quota, m.Alarms = resp.Version, resp.Leader != 0, resp.DbSize, resp.DbSizeQuota,
		resp.Errors
	return m
}
