package etcdstore

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
)

// Who follows questions for months keeps nothing of those that are gone.
func TestFollowerForgets(t *testing.T) {
	s := &Store{cfg: Config{Prefix: topology.DefaultPrefix}}
	var asked []string
	f := s.follower(topology.DirQuestions, func(r topology.Record) bool {
		asked = append(asked, r.Key())
		return false
	})
	kv := func(id string, revision int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{
			Key: []byte(s.key(topology.DirQuestions + id)), Value: []byte(`{"kind": "echo", "seconds": 5}`), ModRevision: revision,
		}
	}
	f.event(&clientv3.Event{Type: clientv3.EventTypePut, Kv: kv("a", 1)})
	f.event(&clientv3.Event{Type: clientv3.EventTypePut, Kv: kv("b", 2)})
	f.event(&clientv3.Event{Type: clientv3.EventTypeDelete, Kv: &mvccpb.KeyValue{Key: kv("a", 3).Key}})
	require.Len(t, f.seen, 1)
	f.list(&clientv3.GetResponse{Kvs: []*mvccpb.KeyValue{kv("b", 2), kv("c", 4)}})
	require.Len(t, f.seen, 2)
	f.list(&clientv3.GetResponse{})
	require.Empty(t, f.seen)
	require.Equal(t, []string{"~questions/a", "~questions/b", "~questions/c"}, asked)
}
