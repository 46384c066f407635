package console

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// certificateFiles are those of a server at 127.0.0.1, and a client that trusts it.
func certificateFiles(t *testing.T) (cert, key string, trusting *http.Client) {
	t.Helper()
	srv := httptest.NewTLSServer(nil)
	srv.Close()
	der, err := x509.MarshalPKCS8PrivateKey(srv.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	cert, key = filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	write := func(file, kind string, der []byte) {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	write(cert, "CERTIFICATE", srv.Certificate().Raw)
	write(key, "PRIVATE KEY", der)
	trusting = srv.Client()
	trusting.Transport.(*http.Transport).DisableKeepAlives = true
	return cert, key, trusting
}

func fileWith(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// A console is for its host alone, or has TLS and a token.
func TestAccess(t *testing.T) {
	cert, key, _ := certificateFiles(t)
	token := fileWith(t, "correct-horse-battery\n")
	for name, tc := range map[string]struct {
		access Access
		want   string // empty: it is good
	}{
		"loopback":           {Access{Listen: "127.0.0.1:7474"}, ""},
		"loopback, IPv6":     {Access{Listen: "[::1]:7474"}, ""},
		"localhost":          {Access{Listen: "localhost:0"}, ""},
		"loopback and token": {Access{Listen: "127.0.0.1:7474", TokenFile: token}, ""},
		"all, TLS and token": {Access{Listen: ":7474", CertFile: cert, KeyFile: key, TokenFile: token}, ""},
		"all":                {Access{Listen: ":7474"}, "--tls-cert, --tls-key and --token-file"},
		"all, IPv4":          {Access{Listen: "0.0.0.0:7474"}, "ssh -L"},
		"all, mapped":        {Access{Listen: "[::ffff:192.0.2.1]:7474"}, "others can reach"},
		"an address":         {Access{Listen: "192.0.2.1:7474", CertFile: cert, KeyFile: key}, "--token-file"},
		"a token alone":      {Access{Listen: "192.0.2.1:7474", TokenFile: token}, "--tls-cert"},
		"a name":             {Access{Listen: "localhost.example:7474"}, "others can reach"},
		"no port":            {Access{Listen: "127.0.0.1"}, "ADDRESS:PORT"},
		"no key":             {Access{Listen: "127.0.0.1:0", CertFile: cert}, "needs its key"},
		"no certificate":     {Access{Listen: "127.0.0.1:0", CertFile: token, KeyFile: key}, "PEM"},
		"no token file":      {Access{Listen: "127.0.0.1:0", TokenFile: "/nonexistent"}, "no such file"},
		"a short token":      {Access{Listen: "127.0.0.1:0", TokenFile: fileWith(t, "short\n")}, "openssl rand"},
		"two lines":          {Access{Listen: "127.0.0.1:0", TokenFile: fileWith(t, "0123456789abcdef\n0123")}, "no header"},
	} {
		t.Run(name, func(t *testing.T) {
			door, err := tc.access.Check()
			if tc.want != "" {
				require.ErrorIs(t, err, topology.ErrInvalid)
				assert.ErrorContains(t, err, tc.want)
				return
			}
			require.NoError(t, err)
			if tc.access.TokenFile != "" {
				assert.Equal(t, "correct-horse-battery", door.Token)
			}
		})
	}
}

func TestOpenTLS(t *testing.T) {
	cert, key, trusting := certificateFiles(t)
	door, err := Access{Listen: "127.0.0.1:0", CertFile: cert, KeyFile: key, TokenFile: fileWith(t, "correct-horse-battery")}.Check()
	require.NoError(t, err)
	l, url, err := door.Open(t.Context())
	require.NoError(t, err)
	assert.Regexp(t, `^https://127\.0\.0\.1:\d+/$`, url)
	c := New(Config{Topology: threeHosts(), Token: door.Token})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(ctx, l) }()
	defer func() { cancel(); assert.NoError(t, <-ended) }()

	ask := func(token string) (int, http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"api/v1/state", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := trusting.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, resp.Header
	}
	status, h := ask(door.Token)
	assert.Equal(t, 200, status)
	assert.NotEmpty(t, h.Get("Strict-Transport-Security"))
	status, _ = ask("guess")
	assert.Equal(t, 401, status)

	// A certificate that is being replaced by a broken one is served on.
	require.NoError(t, os.WriteFile(cert, []byte("half a cert"), 0o600))
	status, _ = ask(door.Token)
	assert.Equal(t, 200, status)
}

func TestOpenTwice(t *testing.T) {
	door, err := Access{Listen: "127.0.0.1:0"}.Check()
	require.NoError(t, err)
	l, _, err := door.Open(t.Context())
	require.NoError(t, err)
	defer l.Close()
	door, err = Access{Listen: l.Addr().String()}.Check()
	require.NoError(t, err)
	_, _, err = door.Open(t.Context())
	require.ErrorIs(t, err, topology.ErrConflict)
	assert.ErrorContains(t, err, "name another")
}
