package etcdserver_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/stretchr/testify/require"
)

func run(t *testing.T, cfg etcdserver.Config) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	return etcdserver.Run(ctx, cfg, func([]string) { cancel() })
}

func refused(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	require.ErrorIs(t, err, kind)
	for _, w := range words {
		require.Contains(t, err.Error(), w)
	}
}

func TestRunTwiceInOneDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	cfg := etcdserver.Config{Dir: dir, ClientURLs: []string{"http://127.0.0.1:0"}, Fast: true, UnsafeNoFsync: true}
	m := etcdtest.Run(t, cfg)
	refused(t, run(t, cfg), topology.ErrInUse, dir, "another etcd process uses it")
	// Neither does it wait for one that does not know of our lock.
	require.NoError(t, os.Remove(filepath.Join(dir, "baize.lock")))
	refused(t, run(t, cfg), topology.ErrInUse, dir, "another etcd process uses it")
	m.Stop()
	require.NoError(t, run(t, cfg))
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	cfg := etcdserver.Config{Dir: t.TempDir(), ClientURLs: []string{"http://" + l.Addr().String()}, Fast: true}
	refused(t, run(t, cfg), topology.ErrInUse, l.Addr().String(), "already in use")

	sock := filepath.Join(t.TempDir(), "etcd.sock")
	u, err := net.Listen("unix", sock)
	require.NoError(t, err)
	cfg.ClientURLs = []string{"unix://" + sock}
	refused(t, run(t, cfg), topology.ErrInUse, sock, "already in use")
	// One that a killed process left behind is no hindrance.
	u.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, u.Close())
	require.FileExists(t, sock)
	require.NoError(t, run(t, cfg))
	require.NoFileExists(t, sock)
}

func TestBadConfig(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		cfg  etcdserver.Config
		word string
	}{
		{etcdserver.Config{}, "no data directory"},
		{etcdserver.Config{Dir: dir, ClientURLs: []string{"127.0.0.1:2379"}}, `"127.0.0.1:2379"`},
		{etcdserver.Config{Dir: dir, ClientURLs: []string{"unix://x"}}, "unix:///PATH"},
		{etcdserver.Config{Dir: dir, ClientURLs: []string{"https://127.0.0.1:0"}}, "without a certificate"},
		{etcdserver.Config{Dir: dir, PeerURLs: []string{"http://x"}}, `peer URL "http://x"`},
		{etcdserver.Config{Dir: dir, CertFile: dir + "/none"}, dir + "/none"},
		{etcdserver.Config{Dir: dir, ClientURLs: []string{"http://192.0.2.1:2379"}}, "does not have that address"},
	} {
		refused(t, run(t, c.cfg), topology.ErrInvalid, c.word)
	}
}

func TestDataStays(t *testing.T) {
	m := etcdtest.Run(t, etcdserver.Config{ClientURLs: []string{"http://127.0.0.1:0"}})
	before := m.Endpoints
	m.Restart()
	require.Equal(t, before, m.Endpoints)
	m.Stop()
	m.Stop()
}
