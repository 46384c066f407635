package etcdstore

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/fault"
)

// Finding S7: a password comes from a file, and is not sent in clear to another machine
// unless that is wanted.
func TestPassword(t *testing.T) {
	file := func(text string, mode os.FileMode) string {
		t.Helper()
		f := filepath.Join(t.TempDir(), "password")
		require.NoError(t, os.WriteFile(f, []byte(text), 0o600))
		require.NoError(t, os.Chmod(f, mode))
		return f
	}
	good := file("secret\r\n", 0o600)
	for name, c := range map[string]struct {
		cfg  Config
		want string // of the error; empty: none
	}{
		"from a file":        {Config{Username: "u", PasswordFile: good}, ""},
		"both":               {Config{Username: "u", Password: "x", PasswordFile: good}, "a password is given as well"},
		"no user":            {Config{PasswordFile: good}, "a password without a user"},
		"no file":            {Config{Username: "u", PasswordFile: good + "x"}, "cannot be read"},
		"two lines":          {Config{Username: "u", PasswordFile: file("a\nb\n", 0o600)}, "not one line"},
		"empty":              {Config{Username: "u", PasswordFile: file("\n", 0o600)}, "not one line"},
		"in clear":           {Config{Endpoints: []string{"http://192.0.2.1:2379"}, Username: "u", Password: "x"}, "in clear"},
		"in clear by name":   {Config{Endpoints: []string{"etcd.example:2379"}, Username: "u", Password: "x"}, "--etcd-plain-password"},
		"in clear over IPv6": {Config{Endpoints: []string{"http://[2001:db8::1]:2379"}, Username: "u", PasswordFile: good}, "in clear"},
		"one in clear": {
			Config{Endpoints: []string{"http://127.0.0.1:2379", "http://192.0.2.1:2379"}, Username: "u", Password: "x"}, "in clear",
		},
		"forced": {
			Config{Endpoints: []string{"http://192.0.2.1:2379"}, Username: "u", Password: "x", PlainPassword: true}, "",
		},
		"encrypted":    {Config{Endpoints: []string{"https://192.0.2.1:2379"}, Username: "u", Password: "x"}, ""},
		"this machine": {Config{Endpoints: []string{"http://[::1]:2379", "localhost:2379"}, Username: "u", Password: "x"}, ""},
		"a socket":     {Config{Endpoints: []string{"unix:///run/etcd.sock"}, Username: "u", Password: "x"}, ""},
		"no password":  {Config{Endpoints: []string{"http://192.0.2.1:2379"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), c.cfg)
			if c.want != "" {
				require.ErrorIs(t, err, topology.ErrInvalid)
				require.ErrorContains(t, err, c.want)
				require.NotContains(t, err.Error(), "secret")
				return
			}
			require.NoError(t, err)
			require.NoError(t, s.Close())
		})
	}
	require.Empty(t, exposed("", good))
	f := exposed(file("secret", 0o640))
	require.Len(t, f, 1)
	require.Equal(t, fault.SecretExposed, f[0].Code)
	require.Contains(t, f[0].String(), "0640")
	require.Contains(t, f[0].Remedy, "chmod 600 ")
}

// Finding S7: what expires within 30 days is named: the client's certificate, the
// authority, the members' own.
func TestExpiringCertificates(t *testing.T) {
	srv := etcdtest.StartTLS(t, topology.DefaultPrefix)
	s, err := Open(t.Context(), Config{
		Endpoints: []string{srv.Endpoint}, CAFile: srv.CAFile, CertFile: srv.CertFile, KeyFile: srv.KeyFile,
		Username: srv.Username, Password: srv.Password, Timeout: time.Minute,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.Check(t.Context()))
	n := s.backend.(*network)
	conf, err := n.certs.read()
	require.NoError(t, err)
	now := time.Now()
	require.Empty(t, n.certs.expiring(conf, now))
	require.Empty(t, n.certs.expiring(conf, now.Add(etcdtest.Validity-31*24*time.Hour)))
	for at, severity := range map[time.Duration]fault.Severity{-29 * 24 * time.Hour: fault.Warning, 2 * time.Hour: fault.Error} {
		faults := n.certs.expiring(conf, now.Add(etcdtest.Validity+at))
		require.Len(t, faults, 3, "%v", faults)
		for i, item := range []string{"etcd client certificate " + srv.CertFile, srv.CAFile, "certificate of etcd member "} {
			require.Equal(t, fault.CertificateExpires, faults[i].Code)
			require.Equal(t, severity, faults[i].Severity)
			require.Contains(t, faults[i].Item, item)
			require.NotEmpty(t, faults[i].Remedy)
		}
	}
}
