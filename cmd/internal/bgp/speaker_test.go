package bgp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const patience = 20 * time.Second

// router listens on loopback and takes whoever comes from there.
func router(t *testing.T) (srv *server.BgpServer, port uint16) {
	t.Helper()
	// A port that is free now.
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, p, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, l.Close())
	n, err := strconv.ParseUint(p, 10, 16)
	require.NoError(t, err)
	srv = server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), nil))
	go srv.Serve()
	ctx := t.Context()
	require.NoError(t, srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: 65000, RouterId: "192.0.2.254", ListenPort: int32(n), ListenAddresses: []string{"127.0.0.1"}}}))
	t.Cleanup(func() { _ = srv.StopBgp(context.Background(), &api.StopBgpRequest{}) })
	var families []*api.AfiSafi
	for _, f := range []*api.Family{{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}, {Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}} {
		families = append(families, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: f, Enabled: true}})
	}
	require.NoError(t, srv.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: 65001},
		Transport: &api.Transport{PassiveMode: true}, AfiSafis: families,
	}}))
	return srv, uint16(n)
}

// has returns the router's routes and their next hops.
func has(t *testing.T, srv *server.BgpServer) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range []wire.Family{wire.RF_IPv4_UC, wire.RF_IPv6_UC} {
		require.NoError(t, srv.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f}, func(n wire.NLRI, paths []*apiutil.Path) {
			for _, p := range paths {
				out[n.String()] = nextHop(p).String()
			}
		}))
	}
	return out
}

func local(prefix, hop string) Local {
	return Local{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(hop)}
}

// A router learns what lives here, and tells what it knows; what it told goes
// out again to nobody.
func TestSpeaker(t *testing.T) {
	srv, port := router(t)
	far, err := path(local("10.1.6.0/24", "192.0.2.6"))
	require.NoError(t, err)
	other, err := path(local("10.9.0.0/24", "192.0.2.9"))
	require.NoError(t, err)
	_, err = srv.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{far, other}})
	require.NoError(t, err)

	changed := make(chan struct{}, 1)
	s, err := New(Config{AS: 65001, Neighbors: []Neighbor{{Addr: netip.MustParseAddr("127.0.0.1"), AS: 65000, Port: port}}}, slog.New(slog.DiscardHandler), func() {
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
		r := has(t, srv)
		return r["10.1.5.0/24"] == "192.0.2.5" && r["fd00:1:5::/64"] == "2001:db8::5"
	}, patience, 10*time.Millisecond, "the router learns both families")
	within := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	require.Eventually(t, func() bool {
		l, err := s.Learned(within)
		require.NoError(t, err)
		return len(l) == 1 && l[0].Prefix == netip.MustParsePrefix("10.1.6.0/24") && l[0].From == netip.MustParseAddr("127.0.0.1") && !l[0].Stale
	}, patience, 10*time.Millisecond, "what is within the network, and nothing else")
	require.Eventually(t, s.Settled, patience, 10*time.Millisecond)
	require.True(t, s.Sessions()[0].Up)
	assert.Empty(t, s.Problems())
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}

	s.Announce("host1", netip.MustParseAddr("192.0.2.5"), []Local{second})
	require.Eventually(t, func() bool { r := has(t, srv); return r["10.1.5.0/24"] == "" && r["fd00:1:5::/64"] != "" }, patience, 10*time.Millisecond)
	s.Withdraw()
	require.Eventually(t, func() bool { return has(t, srv)["fd00:1:5::/64"] == "" }, patience, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}
