package hub_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/topology"
)

// The copy on disk is written when something changed that it has: an agent that
// starts or stops costs every other one a write to disk otherwise.
func TestCacheIsNotWrittenForLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "topology.json")
		c := hub.NewCache(file, topology.NewSnapshot, func(err error) { t.Error(err) })
		s := topology.NewSnapshot(10, good())
		save := func(kv topology.KV) (written bool) {
			t.Helper()
			require.NoError(t, os.RemoveAll(file))
			s = s.With(s.Revision+1, []topology.KV{kv}, nil)
			c.Save(s)
			time.Sleep(time.Minute)
			synctest.Wait()
			_, err := os.Stat(file)
			return err == nil
		}
		network := func(vni uint32, revision int64) topology.KV {
			n := topology.Network{Name: "blue", VNI: vni, IPv4: s.Networks["blue"].IPv4}
			return key(n.Defaults(), revision)
		}
		alive := key(topology.Liveness{Node: "host2", ID: "id-host2"}, 11)
		require.True(t, save(alive), "nothing is known of the file yet")
		require.False(t, save(alive))
		require.True(t, save(network(101, 12)))
		require.False(t, save(alive))

		// Two changes before one is written, and the second takes the first back.
		c.Save(s.With(20, []topology.KV{network(102, 20)}, nil))
		require.True(t, save(alive))
		last, err := c.Load()
		require.NoError(t, err)
		require.Equal(t, uint32(101), last.Networks["blue"].VNI)
	})
}

// An agent that is killed, and started without the store, undoes what came after its
// copy: each change is in that soon, also one that comes right after another.
func TestCacheIsWrittenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "topology.json")
		c := hub.NewCache(file, topology.NewSnapshot, func(err error) { t.Error(err) })
		s := topology.NewSnapshot(10, good())
		for _, vni := range []uint32{101, 102, 103} {
			n := topology.Network{Name: "blue", VNI: vni, IPv4: s.Networks["blue"].IPv4}
			s = s.With(s.Revision+1, []topology.KV{key(n.Defaults(), s.Revision+1)}, nil)
			c.Save(s)
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			last, err := c.Load()
			require.NoError(t, err)
			require.Equal(t, vni, last.Networks["blue"].VNI)
		}
	})
}
