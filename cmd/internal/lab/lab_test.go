package lab

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{{Name: "../etc"}, {Hosts: MaxHosts + 1}, {Hosts: -1}, {Segments: 3}} {
		_, err := c.withDefaults()
		assert.ErrorIs(t, err, topology.ErrInvalid)
	}
	c, err := Config{}.withDefaults()
	require.NoError(t, err)
	assert.Equal(t, "/run/baize-lab/lab", c.dir())
	assert.True(t, filepath.IsAbs(c.Binary))
}

func TestOpenNamesTheLabsThatExist(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(base, "green"), 0o755))
	require.NoError(t, state{Hosts: []string{"host1"}}.write(filepath.Join(base, "green")))
	_, err := Open(Config{Name: "blue", BaseDir: base})
	require.ErrorIs(t, err, topology.ErrNotFound)
	assert.ErrorContains(t, err, "--name blue")
	assert.ErrorContains(t, err, "green")
	l, err := Open(Config{Name: "green", BaseDir: base})
	require.NoError(t, err)
	require.Len(t, l.Hosts(), 1)
	assert.Equal(t, "unix://"+base+"/green/etcd.sock", l.EtcdEndpoint())
}

func TestLockKeepsOthersAway(t *testing.T) {
	c := Config{Name: "x", BaseDir: filepath.Join(t.TempDir(), "labs")}
	unlock, err := lock(t.Context(), c)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = lock(ctx, c)
	require.ErrorIs(t, err, topology.ErrInUse)
	assert.ErrorContains(t, err, "process")

	taken := make(chan func(bool), 1)
	go func() {
		if u, err := lock(context.Background(), c); err == nil {
			taken <- u
		}
	}()
	unlock(true) // the directory goes under the one who waits
	select {
	case u := <-taken:
		assert.FileExists(t, c.lockFile())
		u(true)
	case <-time.After(10 * time.Second):
		t.Fatal("the lock was never given")
	}
	assert.NoDirExists(t, c.BaseDir)
}

func TestStepsAreReported(t *testing.T) {
	var events []Event
	l := &Lab{cfg: Config{Progress: func(e Event) { events = append(events, e) }}}
	end := l.begin("%s: work", "host1")
	require.NoError(t, end(nil))
	err := l.begin("more")(&topology.Error{Kind: topology.ErrFull, What: "no room"})
	require.ErrorIs(t, err, topology.ErrFull)
	assert.EqualError(t, err, "more: no room")
	require.Len(t, events, 3)
	assert.Equal(t, Event{Step: "host1: work", Total: 1}, events[0])
	assert.True(t, events[1].Ended)
	assert.Equal(t, 2, events[2].Total)
}
