package etcdstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

// BenchmarkFanOut is a write that so many connections watch, until all of them have it:
// what a change costs an etcd with so many agents.
func BenchmarkFanOut(b *testing.B) {
	for _, watchers := range []int{1, 10, 100, 500} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			endpoint := etcdtest.Start(b)
			writer := raw(b, endpoint)
			var seen []clientv3.WatchChan
			for range watchers {
				w := raw(b, endpoint).Watch(b.Context(), topology.DefaultPrefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
				require.True(b, (<-w).Created)
				seen = append(seen, w)
			}
			value := string(topology.Encode(node("host1234")))
			key := topology.DefaultPrefix + "/" + topology.NodeKey("host1234")
			for b.Loop() {
				_, err := writer.Put(b.Context(), key, value)
				require.NoError(b, err)
				for _, w := range seen {
					if r := <-w; len(r.Events) != 1 {
						b.Fatal(r.Err())
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*watchers), "ns/event")
		})
	}
}
