package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const patience = time.Minute

// The router is a process of its own, this test's executable: two of GoBGP's
// servers in one process share variables.
const routerEnv = "BAIZE_TEST_ROUTER"

func TestMain(m *testing.M) {
	if os.Getenv(routerEnv) != "" {
		if err := beRouter(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// told is a line that the router writes: where it listens, then whether it has
// a session and what it knows, whenever that changes, as next hops by prefix.
type told struct {
	Port   uint16
	Up     bool
	Routes map[string]string
}

// beRouter listens on loopback, takes whoever comes from there, keeps what it
// told over a restart, and knows two ways of its own, until in ends.
func beRouter(in io.Reader, out io.Writer) error {
	ctx := context.Background()
	// A port that is free now.
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	srv := server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), nil))
	go srv.Serve()
	if err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: 65000, RouterId: "192.0.2.254", ListenPort: int32(port), ListenAddresses: []string{"127.0.0.1"}}}); err != nil {
		return err
	}
	var families []*api.AfiSafi
	for _, f := range []*api.Family{
		{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}, {Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST},
	} {
		families = append(families, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		})
	}
	if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: 65001},
		Transport: &api.Transport{PassiveMode: true}, AfiSafis: families,
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: 120},
	}}); err != nil {
		return err
	}
	for _, l := range []Local{local("10.1.6.0/24", "192.0.2.6"), local("10.9.0.0/24", "192.0.2.9")} {
		p, err := path(l)
		if err != nil {
			return err
		}
		if _, err := srv.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{p}}); err != nil {
			return err
		}
	}
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, in); ended <- err }()
	enc := json.NewEncoder(out)
	var last told
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		now := told{Port: uint16(port), Routes: map[string]string{}}
		if err := srv.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
			now.Up = p.State.SessionState == api.PeerState_SESSION_STATE_ESTABLISHED
		}); err != nil {
			return err
		}
		for _, f := range []wire.Family{wire.RF_IPv4_UC, wire.RF_IPv6_UC} {
			if err := srv.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f}, func(n wire.NLRI, paths []*apiutil.Path) {
				for _, p := range paths {
					now.Routes[n.String()] = nextHop(p).String()
				}
			}); err != nil {
				return err
			}
		}
		if now.Up != last.Up || !maps.Equal(now.Routes, last.Routes) {
			last = now
			if err := enc.Encode(now); err != nil {
				return err
			}
		}
		select {
		case err := <-ended:
			return err
		case <-tick.C:
		}
	}
}

// router starts one; knows returns its last line.
func router(t *testing.T) (port uint16, knows func() told) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	// GoBGP's lists read marks of stale routes while it writes them: that race is
	// its own, and not what the race detector is to find here.
	cmd.Env = append(os.Environ(), routerEnv+"=1", "GORACE=log_path="+filepath.Join(t.TempDir(), "race"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	dec := json.NewDecoder(out)
	var mu sync.Mutex
	var last told
	require.NoError(t, dec.Decode(&last))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			var x told
			if dec.Decode(&x) != nil {
				return
			}
			mu.Lock()
			last = x
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		<-done
		_ = cmd.Wait()
	})
	return last.Port, func() told {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

func config(port uint16) Config {
	return Config{AS: 65001, Neighbors: []Neighbor{{Addr: netip.MustParseAddr("127.0.0.1"), AS: 65000, Port: port}}}
}

func local(prefix, hop string) Local {
	return Local{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(hop)}
}

// A router learns what lives here, and tells what it knows; what it told goes
// out again to nobody.
func TestSpeaker(t *testing.T) {
	port, knows := router(t)
	has := func() map[string]string { return knows().Routes }
	changed := make(chan struct{}, 1)
	s, err := New(config(port), slog.New(slog.DiscardHandler), func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	assert.False(t, s.Settled(), "nothing was told yet")
	first, second := local("10.1.5.0/24", "192.0.2.5"), local("fd00:1:5::/64", "2001:db8::5")
	s.Announce("host1", netip.MustParseAddr("192.0.2.5"), []Local{first, second})
	require.Eventually(t, func() bool {
		r := has()
		return r["10.1.5.0/24"] == "192.0.2.5" && r["fd00:1:5::/64"] == "2001:db8::5"
	}, patience, 10*time.Millisecond, "the router learns both families")
	within := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	require.Eventually(t, func() bool {
		l, err := s.Learned(within)
		require.NoError(t, err)
		return len(l) == 1 && l[0].Prefix == netip.MustParsePrefix("10.1.6.0/24") &&
			l[0].From == netip.MustParseAddr("127.0.0.1") &&
			!l[0].Stale
	}, patience, 10*time.Millisecond, "what is within the network, and nothing else")
	require.Eventually(t, s.Settled, patience, 10*time.Millisecond)
	require.True(t, s.Sessions()[0].Up)
	assert.Empty(t, s.Problems())
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}

	// A part that failed is started again, and announces what it did.
	cancel()
	require.NoError(t, <-done)
	require.Eventually(t, func() bool { return !knows().Up }, patience, 10*time.Millisecond)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx) }()
	s.Announce("host1", netip.MustParseAddr("192.0.2.5"), []Local{first, second}) // nothing new
	require.Eventually(t, func() bool { x := knows(); return x.Up && len(x.Routes) == 4 }, patience, 10*time.Millisecond)

	s.Announce("host1", netip.MustParseAddr("192.0.2.5"), []Local{second})
	require.Eventually(
		t,
		func() bool { r := has(); return r["10.1.5.0/24"] == "" && r["fd00:1:5::/64"] != "" },
		patience,
		10*time.Millisecond,
	)
	s.Withdraw()
	require.Eventually(t, func() bool { return has()["fd00:1:5::/64"] == "" }, patience, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

// A router keeps what a Speaker told that is away, and forgets it when told to.
func TestForget(t *testing.T) {
	port, knows := router(t)
	s, err := New(config(port), slog.New(slog.DiscardHandler), func() {})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.Announce(
		"host1",
		netip.MustParseAddr("192.0.2.5"),
		[]Local{local("10.1.5.0/24", "192.0.2.5"), local("fd00:1:5::/64", "2001:db8::5")},
	)
	require.Eventually(t, func() bool { x := knows(); return x.Up && len(x.Routes) == 4 }, patience, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	require.Eventually(t, func() bool { return !knows().Up }, patience, 10*time.Millisecond)
	require.Len(t, knows().Routes, 4, "it is expected back")
	missed, err := forgetWithin(t.Context(), config(port), "host1", slog.New(slog.DiscardHandler), patience)
	require.NoError(t, err)
	require.Empty(t, missed)
	require.Eventually(t, func() bool { x := knows(); return !x.Up && len(x.Routes) == 2 }, patience, 10*time.Millisecond)
}

// A neighbour that does not answer is named.
func TestForgetMissed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c := config(1) // a port where nothing listens
	missed, err := Forget(ctx, c, "host1", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	assert.Equal(t, c.Neighbors, missed)
	_, err = Forget(ctx, Config{}, "host1", nil)
	require.ErrorContains(t, err, "--bgp AS")
}
