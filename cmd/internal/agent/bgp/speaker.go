package bgp

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/baize-net/baize/topology/fault"
)

const (
	// connectRetry is how often a neighbour that is down is tried.
	connectRetry = 2 * time.Second
	// deferral is how long a neighbour that is up may take to tell all it knows,
	// after a start, before it is assumed to have.
	deferral = 5 * time.Second
	// callTimeout bounds one call of the library.
	callTimeout = 10 * time.Second
)

// Speaker holds the sessions. The zero value is not usable; see New.
type Speaker struct {
	cfg     Config
	log     *slog.Logger
	changed func()
	wake    chan struct{}
	// leaving: neighbours are to keep nothing; see Forget.
	leaving bool

	mu       sync.Mutex
	local    []Local // what is to be announced
	id       netip.Addr
	told     bool // Announce was called
	server   *server.BgpServer
	started  time.Time
	sessions map[netip.Addr]*Session
	eor      map[netip.Addr]map[wire.Family]bool
}

// New returns a Speaker. changed is called, from other goroutines, when
// Learned, Settled or Sessions may say something else; it must not block.
func New(cfg Config, log *slog.Logger, changed func()) (*Speaker, error) {
	cfg, err := cfg.Defaults()
	if err != nil {
		return nil, err
	}
	s := &Speaker{
		cfg:      cfg,
		log:      log,
		changed:  changed,
		wake:     make(chan struct{}, 1),
		sessions: map[netip.Addr]*Session{},
		eor:      map[netip.Addr]map[wire.Family]bool{},
	}
	for _, n := range cfg.Neighbors {
		s.sessions[n.Addr] = &Session{Neighbor: n, State: "idle", Since: time.Now()}
	}
	return s, nil
}

// Announce makes exactly these prefixes those that are announced. The sessions
// begin with the first call: a router takes what a node tells first for all
// there is. node is the node's name, id its IPv4 address, if any.
func (s *Speaker) Announce(node string, id netip.Addr, local []Local) {
	if !id.Is4() {
		// Any number that no other speaker has will do (RFC 6286).
		h := fnv.New32a()
		_, _ = h.Write([]byte(node))
		id = netip.AddrFrom4([4]byte(h.Sum(nil)))
	}
	s.mu.Lock()
	same := s.told && slices.Equal(s.local, local)
	s.local, s.told = slices.Clone(local), true
	if !s.id.IsValid() {
		s.id = id
	}
	s.mu.Unlock()
	if same {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Withdraw withdraws what was announced, if anything was.
func (s *Speaker) Withdraw() {
	if s.hasTold() {
		s.Announce("", netip.Addr{}, nil)
	}
}

// hasTold reports whether there was an Announce.
func (s *Speaker) hasTold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// Run speaks until ctx ends. It returns an error only where it could not
// start.
func (s *Speaker) Run(ctx context.Context) error {
	for !s.hasTold() { // the first Announce, unless this is not the first Run
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
	srv := server.NewBgpServer(server.LoggerOption(s.log, nil))
	go srv.Serve()
	if err := s.start(ctx, srv); err != nil {
		return fmt.Errorf("BGP: %w", err)
	}
	defer func() {
		// Without a notification where the routes are to stay.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = srv.StopBgp(limited, &api.StopBgpRequest{AllowGracefulRestart: !s.leaving})
	}()
	announced := map[netip.Prefix]Local{}
	first := true
	for {
		if err := s.sync(srv, announced); err != nil {
			s.log.Warn("announce: " + err.Error())
		}
		if first {
			first = false
			if err := s.connect(ctx, srv); err != nil {
				return fmt.Errorf("BGP: %w", err)
			}
			s.mu.Lock()
			s.server, s.started = srv, time.Now()
			s.mu.Unlock()
			// Settled changes by itself then.
			defer time.AfterFunc(s.cfg.RestartTime+time.Second, s.changed).Stop()
			s.changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

func (s *Speaker) start(ctx context.Context, srv *server.BgpServer) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s.mu.Lock()
	id := s.id
	s.mu.Unlock()
	// ListenPort -1: nothing listens.
	err := srv.StartBgp(
		ctx,
		&api.StartBgpRequest{Global: &api.Global{Asn: s.cfg.AS, RouterId: id.String(), ListenPort: -1}},
	)
	if err != nil {
		return err
	}
	// No transit: out goes what is ours, whatever comes in.
	own := &api.Policy{Name: "own", Statements: []*api.Statement{{
		Name: "own", Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	if err := srv.AddPolicy(ctx, &api.AddPolicyRequest{Policy: own}); err != nil {
		return err
	}
	return srv.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_POLICY_DIRECTION_EXPORT, Policies: []*api.Policy{{Name: "own"}},
		DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}})
}

// connect begins the sessions. ctx is the Speaker's life.
func (s *Speaker) connect(ctx context.Context, srv *server.BgpServer) error {
	err := srv.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnBestPath:   func([]*apiutil.Path, time.Time) { s.changed() },
		OnPathEor:    func(p *apiutil.Path, _ time.Time) { s.endOfRIB(p.PeerAddress, p.Family) },
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) { s.peerChanged(e) },
	}, server.WatchBestPath(false), server.WatchEor(false), server.WatchPeer())
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var families []*api.AfiSafi
	for _, f := range []*api.Family{
		{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}, {Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST},
	} {
		families = append(families, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: !s.leaving}},
		})
	}
	for _, n := range s.cfg.Neighbors {
		seconds := func(d time.Duration) uint64 { return uint64(d / time.Second) }
		port := uint32(n.Port)
		if port == 0 {
			port = Port
		}
		peer := &api.Peer{
			Conf: &api.PeerConf{
				NeighborAddress: n.Addr.String(), PeerAsn: n.AS, AuthPassword: s.cfg.Password,
				AllowOwnAsn: 1, // other nodes may be of our own AS
			},
			Timers: &api.Timers{Config: &api.TimersConfig{
				ConnectRetry: seconds(connectRetry), HoldTime: seconds(s.cfg.HoldTime),
				KeepaliveInterval: max(1, seconds(s.cfg.HoldTime)/3), IdleHoldTimeAfterReset: 1,
			}},
			Transport: &api.Transport{RemotePort: port},
			AfiSafis:  families,
		}
		// The hosts' kernels and switches forward on while the agent is away, which
		// is what the restart bits say.
		peer.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(s.cfg.RestartTime)), DeferralTime: uint32(seconds(deferral)),
			LocalRestarting: true,
		}
		if s.leaving {
			// No address family, and no time: a neighbour that takes the end of this
			// session for one more restart waits no longer than a second.
			peer.GracefulRestart = &api.GracefulRestart{Enabled: true, HelperOnly: true, RestartTime: 1}
		}
		if err := srv.AddPeer(limited, &api.AddPeerRequest{Peer: peer}); err != nil {
			return fmt.Errorf("neighbour %s: %w", n, err)
		}
	}
	return nil
}

// sync makes what is announced what is to be.
func (s *Speaker) sync(srv *server.BgpServer, announced map[netip.Prefix]Local) error {
	s.mu.Lock()
	want := s.local
	s.mu.Unlock()
	wanted := map[netip.Prefix]bool{}
	var first error
	keep := func(err error) bool {
		if err != nil && first == nil {
			first = err
		}
		return err == nil
	}
	for _, l := range want {
		wanted[l.Prefix] = true
		if announced[l.Prefix] == l {
			continue
		}
		p, err := path(l)
		if keep(err) {
			_, err = srv.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{p}})
			if keep(err) {
				announced[l.Prefix] = l
			}
		}
	}
	for prefix, l := range announced {
		if wanted[prefix] {
			continue
		}
		p, err := path(l)
		if keep(err) && keep(srv.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{p}})) {
			delete(announced, prefix)
		}
	}
	return first
}

func familyOf(p netip.Prefix) wire.Family {
	if p.Addr().Is4() {
		return wire.RF_IPv4_UC
	}
	return wire.RF_IPv6_UC
}

func path(l Local) (*apiutil.Path, error) {
	nlri, err := wire.NewIPAddrPrefix(l.Prefix)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.Prefix, err)
	}
	var hop wire.PathAttributeInterface
	if l.Prefix.Addr().Is4() {
		hop, err = wire.NewPathAttributeNextHop(l.NextHop)
	} else {
		hop, err = wire.NewPathAttributeMpReachNLRI(wire.RF_IPv6_UC, []wire.PathNLRI{{NLRI: nlri}}, l.NextHop)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: next hop %s: %w", l.Prefix, l.NextHop, err)
	}
	// Origin 0: IGP.
	return &apiutil.Path{
		Family: familyOf(l.Prefix),
		Nlri:   nlri,
		Attrs:  []wire.PathAttributeInterface{wire.NewPathAttributeOrigin(0), hop},
	}, nil
}

// Learned returns the best way of the neighbours to each prefix within the
// given ones, in no order.
func (s *Speaker) Learned(within []netip.Prefix) ([]Learned, error) {
	s.mu.Lock()
	srv := s.server
	s.mu.Unlock()
	if srv == nil {
		return nil, nil // not yet, and so Settled says
	}
	lookup := map[wire.Family][]*apiutil.LookupPrefix{}
	for _, p := range within {
		f := familyOf(p)
		lookup[f] = append(lookup[f], &apiutil.LookupPrefix{Prefix: p.String(), LookupOption: apiutil.LOOKUP_LONGER})
	}
	var out []Learned
	for f, prefixes := range lookup {
		err := srv.ListPath(
			apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f, Prefixes: prefixes},
			func(nlri wire.NLRI, paths []*apiutil.Path) {
				p, err := netip.ParsePrefix(nlri.String())
				if err != nil {
					return
				}
				// The first is the best; one without a neighbour is our own.
				for _, x := range paths {
					if hop := nextHop(x); x.PeerAddress.IsValid() && !x.PeerAddress.IsUnspecified() && hop.IsValid() &&
						!hop.IsUnspecified() &&
						!x.IsNexthopInvalid {
						out = append(out, Learned{Prefix: p, NextHop: hop, From: x.PeerAddress, Stale: x.Stale})
						return
					}
				}
			},
		)
		if err != nil {
			return nil, fmt.Errorf("BGP: list the routes: %w", err)
		}
	}
	return out, nil
}

func nextHop(p *apiutil.Path) netip.Addr {
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *wire.PathAttributeNextHop:
			return a.Value
		case *wire.PathAttributeMpReachNLRI:
			return a.Nexthop
		}
	}
	return netip.Addr{}
}

// Settled reports whether what Learned says is all there is: every neighbour
// has told all it knows, or the restart time has passed since the start. Until
// then a prefix that is missing may only not have been told yet.
func (s *Speaker) Settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return false
	}
	if time.Since(s.started) > s.cfg.RestartTime {
		return true
	}
	for _, x := range s.sessions {
		if !x.Received {
			return false
		}
	}
	return true
}

// Sessions returns the sessions in the order of Config.Neighbors.
func (s *Speaker) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Session
	for _, n := range s.cfg.Neighbors {
		out = append(out, *s.sessions[n.Addr])
	}
	return out
}

// Problems returns those of the sessions.
func (s *Speaker) Problems() []fault.Fault {
	var out []fault.Fault
	for _, x := range s.Sessions() {
		if p, is := x.Problem(time.Now()); is {
			out = append(out, p)
		}
	}
	return out
}

func (s *Speaker) endOfRIB(from netip.Addr, f wire.Family) {
	s.mu.Lock()
	x := s.sessions[from]
	if x != nil {
		if s.eor[from] == nil {
			s.eor[from] = map[wire.Family]bool{}
		}
		s.eor[from][f] = true
		x.Received = x.Received || (s.eor[from][wire.RF_IPv4_UC] && s.eor[from][wire.RF_IPv6_UC])
	}
	s.mu.Unlock()
	s.changed()
}

func (s *Speaker) peerChanged(e *apiutil.WatchEventMessage_PeerEvent) {
	if e.Type != apiutil.PEER_EVENT_STATE {
		return
	}
	state := e.Peer.State
	up := state.SessionState == wire.BGP_FSM_ESTABLISHED
	s.mu.Lock()
	x := s.sessions[state.NeighborAddress]
	if x == nil {
		s.mu.Unlock()
		return
	}
	was := x.Up
	x.Up, x.State = up, strings.ToLower(strings.TrimPrefix(state.SessionState.String(), "BGP_FSM_"))
	if was != up {
		x.Since = time.Now()
	}
	if !up && state.DisconnectMessage != "" &&
		(was || x.Last == "" || state.DisconnectReason != api.PeerState_DISCONNECT_REASON_UNSPECIFIED) {
		x.Last = state.DisconnectMessage
	}
	s.mu.Unlock()
	if up && !was {
		// A neighbour that does not mark the end is given a moment.
		time.AfterFunc(deferral, func() {
			s.endOfRIB(state.NeighborAddress, wire.RF_IPv4_UC)
			s.endOfRIB(state.NeighborAddress, wire.RF_IPv6_UC)
		})
	}
	s.changed()
}
