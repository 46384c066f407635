// Package etcdserver runs a real etcd server inside this process: for a lab,
// for a single machine, for trying things out and for tests. A production
// cluster brings its own etcd.
package etcdserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config describes one etcd member. Only Dir is required.
type Config struct {
	// Dir is the data directory, created with mode 0700. One server at a time
	// may use it.
	Dir string
	// Name is the member's name; "baize" when empty.
	Name string
	// ClientURLs are what it listens on: http://host:port, https://host:port
	// (with CertFile and KeyFile) or unix:///path. Port 0 means any free one.
	// http://127.0.0.1:2379 when empty.
	ClientURLs []string
	// PeerURLs are what the other members reach it at. When empty it is a
	// cluster of its own, on a free loopback port.
	PeerURLs []string
	// InitialCluster names every member and its peer URLs:
	// "a=http://192.168.77.1:2380,b=http://…". Empty means this member alone.
	InitialCluster string
	// Join is set for a member added to a cluster that is already running.
	Join bool

	// CertFile and KeyFile are the server's certificate for https:// URLs.
	CertFile, KeyFile string
	// ClientCAFile, when set, requires of every https client a certificate
	// signed by it.
	ClientCAFile string

	// Heartbeat is the raft tick; elections take ten of them. 100 ms when
	// zero, or 10 ms when Fast. Slow disks and loaded machines want more.
	Heartbeat time.Duration
	// Fast makes a single member ready within tens of milliseconds.
	Fast bool
	// UnsafeNoFsync does not wait for the disk. A crash of the machine may
	// lose data: for labs and tests only.
	UnsafeNoFsync bool
	// CheapPasswords hashes passwords as cheaply as possible: for tests only, where the
	// race detector makes the default cost seconds.
	CheapPasswords bool
	// Logger receives etcd's own log. Nothing is logged when nil.
	Logger *zap.Logger
}

// cheapestBcrypt is the least cost that bcrypt takes.
const cheapestBcrypt = 4

// compactionRetention keeps an hour of history: plenty for a watcher that was
// cut off, and a lab that runs for months does not grow.
const compactionRetention = "1h"

// Run serves until ctx is done and then closes cleanly, returning nil. ready,
// unless nil, is called once with the client URLs, real ports filled in, when
// the member answers requests; in a cluster of several that is when a
// majority is up. Errors are *topology.Error: a port that is in use, a
// directory that another process holds.
func Run(ctx context.Context, cfg Config, ready func(endpoints []string)) error {
	ec, err := cfg.embed()
	if err != nil {
		return err
	}
	unlock, err := lockDir(cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, u := range ec.ListenClientUrls {
		if err := checkSocket(u); err != nil {
			return err
		}
	}
	fatal := make(fatalHook, 1)
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(cfg.logger().WithOptions(zap.WithFatalHook(fatal)))
	e, err := start(ec, fatal)
	if err != nil {
		return startError(cfg, err)
	}
	defer e.Close()

	select {
	case <-e.Server.ReadyNotify():
	case msg := <-fatal:
		return startError(cfg, errors.New(msg))
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return startError(cfg, err)
	}
	if ready != nil {
		ready(endpoints(ec.ListenClientUrls, e.Clients))
	}
	select {
	case <-ctx.Done():
		return nil
	case msg := <-fatal:
		return startError(cfg, errors.New(msg))
	case <-e.Server.StopNotify():
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: "etcd in " + cfg.Dir,
			What: "the server stopped by itself", Remedy: "see its log",
		}
	case err := <-e.Err():
		return startError(cfg, err)
	}
}

// startMu guards what embed.StartEtcd sets process-wide (the gRPC logger)
// when several members start in one process.
var startMu sync.Mutex

// start runs embed.StartEtcd, which may end its goroutine through the hook.
func start(ec *embed.Config, fatal fatalHook) (*embed.Etcd, error) {
	type result struct {
		e   *embed.Etcd
		err error
	}
	done := make(chan result, 1)
	go func() {
		startMu.Lock()
		defer startMu.Unlock()
		e, err := embed.StartEtcd(ec)
		done <- result{e, err}
	}()
	select {
	case r := <-done:
		return r.e, r.err
	case msg := <-fatal:
		return nil, errors.New(msg)
	}
}

// fatalHook receives the message where etcd means to end the process; inside
// ours only the goroutine ends, and Run returns the message as its error.
type fatalHook chan string

// OnWrite implements zapcore.CheckWriteHook.
func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, fields []zap.Field) {
	msg := e.Message
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			msg += ": " + err.Error()
		}
	}
	select {
	case h <- msg:
	default:
	}
	runtime.Goexit()
}

func (c Config) logger() *zap.Logger {
	if c.Logger == nil {
		return zap.NewNop()
	}
	return c.Logger
}

func invalid(item, remedy, what string, args ...any) error {
	return &topology.Error{Kind: topology.ErrInvalid, Item: item, What: fmt.Sprintf(what, args...), Remedy: remedy}
}

// embed translates the configuration.
func (c Config) embed() (*embed.Config, error) {
	if c.Dir == "" {
		return nil, invalid("etcd", "name one", "no data directory")
	}
	ec := embed.NewConfig()
	ec.Dir = c.Dir
	ec.Name = cmp.Or(c.Name, "baize")
	tick, election := c.timing()
	ec.TickMs, ec.ElectionMs = uint(tick.Milliseconds()), uint(election.Milliseconds())
	ec.UnsafeNoFsync = c.UnsafeNoFsync
	if c.CheapPasswords {
		ec.BcryptCost = cheapestBcrypt
	}
	ec.AutoCompactionMode = embed.CompactorModePeriodic
	ec.AutoCompactionRetention = compactionRetention
	ec.EnableGRPCGateway = false
	if err := c.listen(ec); err != nil {
		return nil, err
	}
	ec.InitialCluster = c.InitialCluster
	if ec.InitialCluster == "" {
		ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	}
	if c.Join {
		ec.ClusterState = embed.ClusterStateFlagExisting
	}
	return ec, c.secure(ec)
}

// timing returns the raft tick and the time after which a follower calls an
// election.
func (c Config) timing() (tick, election time.Duration) {
	switch {
	case c.Heartbeat > 0:
		tick = max(c.Heartbeat, time.Millisecond)
	case c.Fast:
		return 10 * time.Millisecond, 50 * time.Millisecond
	default:
		tick = 100 * time.Millisecond
	}
	return tick, 10 * tick
}

// listen fills in the URLs.
func (c Config) listen(ec *embed.Config) (err error) {
	clients, peers := c.ClientURLs, c.PeerURLs
	if len(clients) == 0 {
		clients = []string{embed.DefaultListenClientURLs}
	}
	if len(peers) == 0 {
		peers = []string{"http://127.0.0.1:0"}
	}
	if ec.ListenClientUrls, err = parseURLs("client URL", clients); err != nil {
		return err
	}
	if ec.ListenPeerUrls, err = parseURLs("peer URL", peers); err != nil {
		return err
	}
	// Peers, and clients that ask for the member list, get these.
	ec.AdvertiseClientUrls, ec.AdvertisePeerUrls = ec.ListenClientUrls, ec.ListenPeerUrls
	return nil
}

// secure fills in the certificates.
func (c Config) secure(ec *embed.Config) error {
	for _, u := range ec.ListenClientUrls {
		if u.Scheme == "https" && (c.CertFile == "" || c.KeyFile == "") {
			return invalid("client URL "+u.String(),
				"give the server a certificate and its key, or use http://", "https without a certificate")
		}
	}
	for _, f := range []string{c.CertFile, c.KeyFile, c.ClientCAFile} {
		if f == "" {
			continue
		}
		if _, err := os.Stat(f); err != nil {
			return invalid(f, "check the path and its permissions", "cannot be read: %v", errors.Unwrap(err))
		}
	}
	ec.ClientTLSInfo = transport.TLSInfo{
		CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.ClientCAFile, ClientCertAuth: c.ClientCAFile != "",
	}
	return nil
}

func parseURLs(kind string, raw []string) ([]url.URL, error) {
	var out []url.URL
	for _, s := range raw {
		u, err := url.Parse(s)
		ok := err == nil
		if ok {
			switch u.Scheme {
			case "unix":
				ok = u.Host == "" && filepath.IsAbs(u.Path)
			case "http", "https":
				_, port, serr := net.SplitHostPort(u.Host)
				_, perr := strconv.ParseUint(port, 10, 16)
				ok = serr == nil && perr == nil && strings.Trim(u.Path, "/") == ""
			default:
				ok = false
			}
		}
		if !ok {
			return nil, invalid(fmt.Sprintf("%s %q", kind, s),
				"write http://ADDRESS:PORT, https://ADDRESS:PORT or unix:///PATH", "not an address to listen on")
		}
		out = append(out, *u)
	}
	return out, nil
}

// lockDir makes the directory and holds it for this process. The lock goes
// with the process, whichever way it ends.
func lockDir(dir string) (unlock func(), err error) {
	fail := func(what, remedy string) error {
		return &topology.Error{Kind: topology.ErrInUse, Item: "etcd directory " + dir, What: what, Remedy: remedy}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fail(err.Error(), "choose a directory that can be written")
	}
	held := fail("another etcd process uses it", "stop that one, or choose another directory")
	f, err := os.OpenFile(filepath.Join(dir, "baize.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fail(err.Error(), "choose a directory that can be written")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, held
	}
	// An etcd that is not ours holds its database only; embed would wait for
	// it for ever.
	if db, err := os.OpenFile(filepath.Join(dir, "member", "snap", "db"), os.O_RDWR, 0); err == nil {
		defer func() { _ = db.Close() }()
		if err := syscall.Flock(int(db.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			return nil, held
		}
		_ = syscall.Flock(int(db.Fd()), syscall.LOCK_UN)
	}
	return func() { _ = f.Close() }, nil
}

// checkSocket refuses a unix socket that somebody serves: embed would remove
// it without asking.
func checkSocket(u url.URL) error {
	if u.Scheme != "unix" {
		return nil
	}
	conn, err := net.DialTimeout("unix", u.Path, time.Second)
	if err != nil {
		return nil
	}
	_ = conn.Close()
	return inUse(u.String())
}

func inUse(address string) error {
	return &topology.Error{
		Kind: topology.ErrInUse, Item: address, What: "address already in use",
		Remedy: "stop the process that listens there, or choose another",
	}
}

func startError(cfg Config, err error) error {
	addr := "etcd"
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		addr = op.Addr.String()
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return inUse(addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return invalid(addr, "listen on one it has", "this machine does not have that address")
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: "etcd in " + cfg.Dir, What: fmt.Sprint(err),
		Remedy: "run it with --log-level debug; a damaged directory can be moved away, " +
			"and the cluster's keys restored from a snapshot",
	}
}

// endpoints returns the URLs with the ports that were really given.
func endpoints(urls []url.URL, listeners []net.Listener) []string {
	var out []string
	used := make([]bool, len(listeners))
	for _, u := range urls {
		if u.Scheme != "unix" && u.Port() == "0" {
			for i, l := range listeners {
				a, ok := l.Addr().(*net.TCPAddr)
				if ok && !used[i] && (u.Hostname() == "localhost" || a.IP.IsUnspecified() || a.IP.String() == u.Hostname()) {
					used[i] = true
					u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(a.Port))
					break
				}
			}
		}
		out = append(out, u.String())
	}
	return slices.Clip(out)
}
