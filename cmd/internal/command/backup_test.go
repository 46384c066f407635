package command

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func TestBackupAndRestore(t *testing.T) {
	s := cluster(t)
	// More than one transaction takes.
	for i := range 200 {
		_, err := s.PutPin(t.Context(), topology.Pin{
			Network: "blue", Addr: netip.AddrFrom4([4]byte{10, 1, 240, byte(i)}), Node: "host1",
			MAC: fmt.Sprintf("02:00:00:00:01:%02x", i),
		})
		require.NoError(t, err)
	}
	file := filepath.Join(t.TempDir(), "baize.json")
	res := baize(t, "backup", file)
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, file)
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())
	before := stored(t, s)
	require.Greater(t, len(before), 200)

	res = baize(t, "restore", file)
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, "nothing to do")

	// Something goes, something changes, something comes.
	require.Equal(t, 0, baize(t, "network", "update", "red", "--mtu", "1300").code)
	_, err = s.CreateNetwork(t.Context(), topology.Network{
		Name: "green", IPv4: netip.MustParsePrefix("10.77.0.0/16"), Transport: topology.VXLAN,
	})
	require.NoError(t, err)
	require.NoError(t, s.DeletePin(t.Context(), topology.Pin{
		Network: "blue", Addr: netip.MustParseAddr("10.1.240.7"), Node: "host1", MAC: "02:00:00:00:01:07",
	}))
	res = baize(t, "restore", "--dry-run", file)
	require.Equal(t, 0, res.code, res.err)
	for _, want := range []string{
		"remove  networks/green", "create  pins/blue/10.1.240.7", "change  networks/red", "nothing was changed",
		"networks/green\n  before  {", "  after   none\n", "pins/blue/10.1.240.7\n  before  none\n  after   {",
	} {
		assert.Contains(t, res.out, want)
	}
	res = baize(t, "restore", file)
	assert.NotEqual(t, 0, res.code)
	assert.Contains(t, res.err, "their agents run")
	assert.NotEqual(t, before, stored(t, s), "refused is not done")
	res = baize(t, "restore", "--yes", file)
	require.Equal(t, 0, res.code, res.err)
	assert.Equal(t, before, stored(t, s))

	// Into an etcd that has nothing nobody is asked.
	empty := etcd(t)
	res = baize(t, "restore", file)
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, "create  nodes/host1")
	assert.Equal(t, before, stored(t, empty))

	// Standard output is a backup, too.
	res = baize(t, "backup")
	b, err := topology.ParseBackup([]byte(res.out))
	require.NoError(t, err)
	assert.Equal(t, len(before), b.Count)

	for name, line := range map[string][]string{
		"--yes": {"restore", "--yes", "none.json"}, "two files": {"backup", "a", "b"}, "no file": {"restore"},
	} {
		assert.NotEqual(t, 0, baize(t, line...).code, name)
	}
	require.NoError(t, os.WriteFile(file, []byte(`{"format": "baize-backup"`), 0o600))
	res = baize(t, "restore", file)
	assert.Equal(t, 2, res.code)
	assert.Contains(t, res.err, "incomplete")
}

// stored is what a backup is to hold.
func stored(t *testing.T, s *etcdstore.Store) map[string]string {
	t.Helper()
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	out := map[string]string{}
	put := func(r topology.Record) { out[r.Key()] = string(topology.Encode(r)) }
	for _, n := range snap.Networks {
		put(n)
	}
	for _, n := range snap.Nodes {
		put(n)
	}
	for _, x := range snap.Subnets {
		put(x)
	}
	for _, x := range snap.Pins {
		put(x)
	}
	return out
}
