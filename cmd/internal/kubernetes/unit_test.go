package kubernetes

import (
	"archive/tar"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// The members know the API server by any of its names, and users by their tokens.
func TestPKI(t *testing.T) {
	p, err := newPKI(t.TempDir(), netip.MustParseAddr("192.0.2.1"))
	require.NoError(t, err)
	pair, err := tls.LoadX509KeyPair(p.file("apiserver.crt"), p.file("apiserver.key"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(p.file("ca.crt"))
	require.NoError(t, err)
	require.True(t, roots.AppendCertsFromPEM(ca))
	for _, name := range []string{"192.0.2.1", serviceIP, "kubernetes.default.svc.cluster.local"} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
		assert.NoError(t, err, name)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "192.0.2.2"})
	require.Error(t, err)

	require.NoError(t, p.user("admin", "system:masters"))
	require.NoError(t, p.user("system:node:host1", "system:nodes"))
	b, err := os.ReadFile(p.file("tokens.csv"))
	require.NoError(t, err)
	rows, err := csv.NewReader(strings.NewReader(string(b))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 2)
	for i, user := range []string{"admin", "system:node:host1"} {
		conf, err := os.ReadFile(p.conf(user))
		require.NoError(t, err)
		assert.Equal(t, user, rows[i][1])
		assert.Contains(t, string(conf), rows[i][0], "the token of "+user)
		assert.Contains(t, string(conf), "https://192.0.2.1:6443")
	}
}

// What was added first stays, and the first error is the one that is told.
func TestLayer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	l := newLayer()
	l.file("bin/sh", []byte("dash"), 0o755)
	l.link("bin/sh", "busybox")
	l.link("bin/ls", "busybox")
	require.NoError(t, l.write(file, map[string]any{}, "a:1", "b:2"))
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	seen := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		seen[h.Name] = string(b)
	}
	assert.Contains(t, seen["manifest.json"], `"RepoTags":["a:1","b:2"]`)
	assert.Contains(t, seen["layer.tar"], "dash")
	assert.Equal(t, 1, strings.Count(seen["layer.tar"], "bin/sh\x00"))

	l = newLayer()
	l.linked(t.Context(), "bin/x", "no-such-program")
	l.copy("bin/y", "/no/such/file")
	require.ErrorIs(t, l.write(file, nil, "a:1"), topology.ErrNotFound)
}

// What is missing is named with what brings it.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := CheckMachine()
	require.ErrorIs(t, err, topology.ErrNotFound)
	assert.ErrorContains(t, err, "apt-get install busybox-static containerd")

	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err = FindProgram()
	require.ErrorIs(t, err, topology.ErrNotFound)
	assert.ErrorContains(t, err, "make lab-kubernetes")

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "baize-cni"), nil, 0o755))
	plugin, err := FindPlugin(filepath.Join(dir, "baize"))
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "baize-cni"), plugin)
}
