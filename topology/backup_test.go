package topology_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func raw(kvs ...topology.KV) *topology.Snapshot { return topology.NewRawSnapshot(7, kvs) }

func key(key, value string) topology.KV {
	return topology.KV{Key: key, Value: []byte(value), Meta: topology.Meta{ModRevision: 3}}
}

func TestBackup(t *testing.T) {
	network, node := key(
		"networks/blue",
		`{"name":"blue","vni":100}`,
	), key(
		"nodes/host1",
		`{"name":"host1","future":[1,2]}`,
	)
	odd := key("subnets/blue/oops", `{ not JSON`)
	alive, leased := key("alive/host1", `{}`), key("x", `1`)
	leased.Lease = 5
	b := topology.NewBackup(raw(network, node, odd, alive, leased, key("names/blue/host1", `{}`)), "/baize/v1")
	assert.Equal(t, 3, b.Count, "what agents keep alive is left out, what nobody can decode is not")
	var first, second bytes.Buffer
	require.NoError(t, b.Write(&first))
	again, err := topology.ParseBackup(first.Bytes())
	require.NoError(t, err)
	require.NoError(t, again.Write(&second))
	assert.Equal(t, first.String(), second.String())
	assert.Less(t, strings.Index(first.String(), "networks/blue"), strings.Index(first.String(), "nodes/host1"))

	// Into nothing: everything, networks last, byte for byte.
	plan := again.PlanRestore(raw())
	var keys []string
	for _, kv := range plan.Put {
		keys = append(keys, kv.Key)
		assert.Zero(t, kv.ModRevision)
	}
	assert.Equal(t, []string{"nodes/host1", "subnets/blue/oops", "networks/blue"}, keys)
	assert.Equal(t, network.Value, plan.Put[2].Value)
	assert.Equal(t, odd.Value, plan.Put[1].Value)
	assert.Empty(t, plan.Delete)

	// Into what is there: what differs, and nobody's liveness.
	plan = again.PlanRestore(raw(network, alive,
		key("nodes/host1", `{"name":"host1"}`), key("networks/red", `{}`), key("pins/blue/10.1.0.9", `{}`)))
	assert.Equal(t, 1, plan.Same)
	assert.Len(t, plan.Put, 2)
	require.Len(t, plan.Delete, 2)
	assert.Equal(t, "networks/red", plan.Delete[0].Key, "networks first")
	assert.EqualValues(t, 3, plan.Delete[0].ModRevision)
	assert.True(t, again.PlanRestore(raw(network, node, odd)).Empty())
	assert.Equal(t, []string{"host1"}, topology.AliveIn(raw(network, alive)))
}

func TestParseBackupRefuses(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, topology.NewBackup(raw(key("networks/blue", `{"vni":100}`)), "/baize/v1").Write(&b))
	good := b.String()
	for name, c := range map[string]struct{ from, to, want string }{
		"cut":             {good[len(good)/2:], "", "incomplete"},
		"another format":  {`"baize-backup"`, `"etcd"`, "its format"},
		"another version": {`"version": 1`, `"version": 9`, "its version is 9"},
		"a key removed":   {`"count": 1`, `"count": 2`, "it claims 2 keys and has 1"},
		"a value changed": {`"vni": 100`, `"vni": 101`, "SHA-256"},
		"no JSON":         {good, "hello", "no JSON"},
	} {
		bad := strings.Replace(good, c.from, c.to, 1)
		require.NotEqual(t, good, bad, name)
		_, err := topology.ParseBackup([]byte(bad))
		require.ErrorIs(t, err, topology.ErrInvalid, name)
		assert.ErrorContains(t, err, c.want, name)
	}
}
