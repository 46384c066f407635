package etcdstore_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// Certificates are replaced while the store is open.
func TestRotatedCertificates(t *testing.T) {
	srv := etcdtest.StartTLS(t, topology.DefaultPrefix)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	replace := func(name, with string) {
		t.Helper()
		b, err := os.ReadFile(with)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file(name)+".new", b, 0o600))
		require.NoError(t, os.Rename(file(name)+".new", file(name)))
	}
	replace("ca", srv.OtherCAFile)
	replace("cert", srv.OtherCertFile)
	replace("key", srv.OtherKeyFile)
	s := open(t, etcdstore.Config{
		Endpoints: []string{srv.Endpoint}, CAFile: file("ca"), CertFile: file("cert"), KeyFile: file("key"),
		Username: srv.Username, Password: srv.Password,
	})
	refused(t, s.Check(t.Context()), topology.ErrUnavailable, "the server's certificate is not accepted")
	replace("ca", srv.CAFile)
	refused(t, s.Check(t.Context()), topology.ErrUnavailable, "refuses the client certificate")
	replace("cert", srv.CertFile)
	replace("key", srv.KeyFile)
	require.Empty(t, s.Faults())
	answers := func() bool { return s.Check(t.Context()) == nil }
	require.Eventually(t, answers, patience, 50*time.Millisecond)

	// A connection made later uses what is there then; what cannot be read leaves
	// the last good ones in force.
	require.NoError(t, os.WriteFile(file("cert"), []byte("half a certif"), 0o600))
	srv.Restart()
	require.Eventually(t, answers, patience, 50*time.Millisecond)
	faults := s.Faults()
	require.Len(t, faults, 1, "and it is said")
	require.Equal(t, fault.CertificateUnusable, faults[0].Code)
	require.Contains(t, faults[0].String(), file("cert"))
	require.Contains(t, faults[0].String(), "stays in use")
	replace("cert", srv.CertFile)
	require.Empty(t, s.Faults())
}
