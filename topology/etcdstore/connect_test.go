package etcdstore_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.pem")
	require.NoError(t, os.WriteFile(junk, []byte("junk"), 0o600))
	for name, c := range map[string]struct {
		cfg   etcdstore.Config
		words []string
	}{
		"scheme": {
			etcdstore.Config{Endpoints: []string{"ftp://h:1"}}, []string{`"ftp://h:1"`, `scheme "ftp"`, "https://HOST:PORT"},
		},
		"origin": {
			etcdstore.Config{Endpoints: []string{"http://h"}, Origin: "from flag --x"}, []string{`"http://h" (from flag --x)`},
		},
		"no port": {etcdstore.Config{Endpoints: []string{"http://h"}}, []string{`"http://h"`, "port"}},
		"port":    {etcdstore.Config{Endpoints: []string{"h:99999"}}, []string{`"h:99999"`}},
		"path":    {etcdstore.Config{Endpoints: []string{"http://h:1/x"}}, []string{`"http://h:1/x"`}},
		"socket":  {etcdstore.Config{Endpoints: []string{"unix://run/x"}}, []string{"absolute"}},
		"empty":   {etcdstore.Config{Endpoints: []string{""}}, []string{`endpoint ""`}},
		"mixed": {
			etcdstore.Config{Endpoints: []string{"http://a:1", "https://b:1"}}, []string{"http://a:1", "https://b:1"},
		},
		"prefix":     {etcdstore.Config{Prefix: "/"}, []string{"prefix", "/baize/v1"}},
		"user":       {etcdstore.Config{Username: "u"}, []string{"user u", "password"}},
		"password":   {etcdstore.Config{Password: "p"}, []string{"user"}},
		"key alone":  {etcdstore.Config{KeyFile: junk}, []string{junk, "certificate"}},
		"cert alone": {etcdstore.Config{CertFile: junk}, []string{junk, "key"}},
		"ca missing": {etcdstore.Config{CAFile: dir + "/none.pem"}, []string{dir + "/none.pem", "no such file"}},
		"cert missing": {
			etcdstore.Config{CertFile: dir + "/none.pem", KeyFile: junk}, []string{dir + "/none.pem", "no such file"},
		},
		"ca junk":   {etcdstore.Config{CAFile: junk}, []string{junk, "PEM"}},
		"cert junk": {etcdstore.Config{CertFile: junk, KeyFile: junk}, []string{junk, "PEM"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := etcdstore.Open(t.Context(), c.cfg)
			refused(t, err, topology.ErrInvalid, c.words...)
		})
	}
}

// closedPort is an address that refuses connections: a socket has the port, so that no other
// test gets it, and does not listen.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	at, err := unix.Getsockname(fd)
	require.NoError(t, err)
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	addr := closedPort(t)
	start := time.Now()
	err := open(t, etcdstore.Config{Endpoints: []string{"http://" + addr}}).Check(t.Context())
	refused(t, err, topology.ErrUnavailable, "http://"+addr+": connection refused", "check that etcd runs")
	require.Less(t, time.Since(start), patience)
	// With a password too: Open does not connect.
	err = open(
		t,
		etcdstore.Config{Endpoints: []string{addr}, Username: "u", Password: "p", Timeout: time.Second},
	).Check(t.Context())
	refused(t, err, topology.ErrUnavailable, addr+": connection refused")
	at := func(endpoint string) *etcdstore.Store {
		return open(t, etcdstore.Config{Endpoints: []string{endpoint}})
	}
	err = at("unix:///nonexistent/etcd.sock").Check(t.Context())
	refused(t, err, topology.ErrUnavailable, "unix:///nonexistent/etcd.sock: no such socket")
	_, err = at("http://"+addr).CreateNetwork(t.Context(), blue())
	refused(t, err, topology.ErrUnavailable, addr)
}

// One member that does not exist does no harm.
func TestOneEndpointDown(t *testing.T) {
	t.Parallel()
	s := openAt(t, "http://127.0.0.1:1", etcdtest.Start(t))
	require.NoError(t, s.Check(t.Context()))
	mustCreate(t, s, blue())
}

func TestSomethingElseListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	err = open(t, etcdstore.Config{Endpoints: []string{l.Addr().String()}, Timeout: time.Second}).Check(t.Context())
	refused(t, err, topology.ErrUnavailable, l.Addr().String(), "says nothing")
}

// An etcd that is slow, as on a busy machine, is not one that is down.
func TestSlowIsNotDown(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	const timeout = 2 * time.Second
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			time.AfterFunc(timeout*2/3, func() {
				_, _ = conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // HTTP/2 settings, and nothing after them
			})
		}
	}()
	err = open(t, etcdstore.Config{Endpoints: []string{l.Addr().String()}, Timeout: timeout}).Check(t.Context())
	refused(t, err, topology.ErrUnavailable, l.Addr().String(), "no answer within 2s", "it accepts connections")
}

func TestUnixSocketAndBareAddress(t *testing.T) {
	t.Parallel()
	sock := "unix://" + filepath.Join(t.TempDir(), "etcd.sock")
	m := etcdtest.Run(t, etcdserver.Config{ClientURLs: []string{sock, "http://127.0.0.1:0"}})
	require.Equal(t, sock, m.Endpoints[0])
	s := openAt(t, sock)
	require.NoError(t, s.Check(t.Context()))
	mustCreate(t, s, blue())
	bare := openAt(t, m.Endpoints[1][len("http://"):])
	snap, err := bare.Snapshot(t.Context())
	require.NoError(t, err)
	require.Contains(t, snap.Networks, "blue")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	srv := etcdtest.StartTLS(t, topology.DefaultPrefix)
	good := etcdstore.Config{
		Endpoints: []string{srv.Endpoint}, CAFile: srv.CAFile, CertFile: srv.CertFile, KeyFile: srv.KeyFile,
		Username: srv.Username, Password: srv.Password, Timeout: patience,
	}
	t.Run("good", func(t *testing.T) {
		s := open(t, good)
		require.NoError(t, s.Check(t.Context()))
		updates := watch(t, s)
		mustCreate(t, s, blue())
		_, err := s.LeaseSubnet(t.Context(), "blue", "a", topology.IPv4, false)
		require.NoError(t, err)
		until(t, updates, func(u etcdstore.Update) bool { return u.Err == nil && len(u.Snapshot.Subnets) == 1 })
		alive(t, s, topology.Liveness{Node: "a", ID: "1"}, 2*time.Second)
	})
	t.Run("bare address", func(t *testing.T) {
		c := good
		c.Endpoints = []string{srv.Endpoint[len("https://"):]}
		require.NoError(t, open(t, c).Check(t.Context()))
	})
	// Where no connection comes about, the client tries until the time is up.
	unanswered := func(c *etcdstore.Config) { c.Timeout = 2 * time.Second }
	for name, c := range map[string]struct {
		change func(*etcdstore.Config)
		words  []string
	}{
		"no client certificate": {
			func(c *etcdstore.Config) { unanswered(c); c.CertFile, c.KeyFile = "", "" },
			[]string{srv.Endpoint, "requires a client certificate", "--trusted-ca-file"},
		},
		"wrong client certificate": {func(c *etcdstore.Config) {
			unanswered(c)
			c.CertFile, c.KeyFile = srv.OtherCertFile, srv.OtherKeyFile
		}, []string{srv.Endpoint, "refuses the client certificate " + srv.OtherCertFile}},
		"wrong authority": {
			func(c *etcdstore.Config) { unanswered(c); c.CAFile = srv.OtherCAFile },
			[]string{srv.Endpoint, "the server's certificate is not accepted", "unknown authority"},
		},
		"plain": {func(c *etcdstore.Config) {
			*c = etcdstore.Config{Endpoints: []string{"http" + srv.Endpoint[5:]}, Timeout: 3 * time.Second}
		}, []string{"speaks TLS", "https://"}},
		"wrong password": {
			func(c *etcdstore.Config) { c.Password = "guess" }, []string{"authentication failed", "user baize"},
		},
		"other prefix": {
			func(c *etcdstore.Config) { c.Prefix = "/other" },
			[]string{"etcd prefix /other", "permission denied", "user baize", "baize auth add"},
		},
		"no user": {func(c *etcdstore.Config) { c.Username, c.Password = "", "" }, []string{"etcd"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			c.change(&cfg)
			err := open(t, cfg).Check(t.Context())
			refused(t, err, topology.ErrUnavailable, c.words...)
			t.Log(err)
		})
	}
	t.Run("TLS to a plain server", func(t *testing.T) {
		t.Parallel()
		c := good
		unanswered(&c)
		c.Endpoints = []string{"https" + etcdtest.Start(t)[4:]}
		c.Username, c.Password = "", ""
		refused(t, open(t, c).Check(t.Context()), topology.ErrUnavailable, "does not speak TLS", "http://")
	})
}
