// Package bgp speaks BGP with the routers of the fabric (RFC 4271, RFC 4760
// for IPv6): it announces the prefixes that live on this node and says which
// prefixes the routers know. It is the only importer of GoBGP.
//
// A Speaker connects and never listens. It announces what it was told and
// nothing that it learned: it is no transit. It ends without a notification and
// starts with the restart bit (RFC 4724), so that a router that takes part
// keeps what it knows of the node over a restart of the agent.
package bgp

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Port is BGP's.
const Port = 179

// Defaults of the timers.
const (
	// DefaultHoldTime is after how much silence a neighbour is taken for dead,
	// and with it the routes through it.
	DefaultHoldTime = 9 * time.Second
	// DefaultRestartTime is how long routers keep the routes of a node whose agent
	// does not run.
	DefaultRestartTime = 2 * time.Minute
)

// Neighbor is a router that this node has a session with.
type Neighbor struct {
	Addr netip.Addr
	// AS is its autonomous system.
	AS uint32
	// Port is 179 where 0.
	Port uint16
}

// String writes it as ParseNeighbor takes it.
func (n Neighbor) String() string {
	at := n.Addr.String()
	if n.Port != 0 && n.Port != Port {
		at = netip.AddrPortFrom(n.Addr, n.Port).String()
	}
	return fmt.Sprintf("%d@%s", n.AS, at)
}

// ParseNeighbor reads "AS@ADDRESS" or "AS@ADDRESS:PORT", with brackets around
// an IPv6 address that a port follows. The error is of kind
// topology.ErrInvalid.
func ParseNeighbor(s string) (Neighbor, error) {
	as, at, found := strings.Cut(s, "@")
	n := Neighbor{}
	number, err := strconv.ParseUint(as, 10, 32)
	n.AS = uint32(number)
	if found && err == nil && n.AS > 0 {
		if n.Addr, err = netip.ParseAddr(at); err == nil {
			return n, nil
		}
		if ap, err := netip.ParseAddrPort(at); err == nil && ap.Port() > 0 {
			n.Addr, n.Port = ap.Addr(), ap.Port()
			return n, nil
		}
	}
	return Neighbor{}, invalid(
		"BGP neighbour "+s,
		"neither AS@ADDRESS nor AS@ADDRESS:PORT",
		"write it like 65000@192.0.2.1 or 65000@[2001:db8::1]:179",
	)
}

func invalid(item, what, remedy string) error {
	return &topology.Error{Kind: topology.ErrInvalid, Item: item, What: what, Remedy: remedy}
}

// Config is what a Speaker is made of.
type Config struct {
	// AS is this node's autonomous system. Nodes may share one.
	AS        uint32
	Neighbors []Neighbor
	// Password signs every segment of the sessions (RFC 2385); empty: none does.
	Password string
	// HoldTime and RestartTime: 0 for the defaults.
	HoldTime, RestartTime time.Duration
}

// Defaults fills in what was left open and refuses what cannot be. The error is
// of kind topology.ErrInvalid.
func (c Config) Defaults() (Config, error) {
	if c.HoldTime == 0 {
		c.HoldTime = DefaultHoldTime
	}
	if c.RestartTime == 0 {
		c.RestartTime = DefaultRestartTime
	}
	switch {
	case c.AS == 0:
		return c, invalid(
			"BGP",
			"neighbours are named and this node's own autonomous system is not",
			"add --bgp AS, such as --bgp 65001",
		)
	case len(c.Neighbors) == 0:
		return c, invalid(
			fmt.Sprintf("BGP, AS %d", c.AS),
			"no neighbour is named",
			"add --bgp-neighbor AS@ADDRESS for each router",
		)
	case c.HoldTime < 3*time.Second || c.HoldTime > 65535*time.Second || c.HoldTime%time.Second != 0:
		return c, invalid(
			"BGP hold time "+c.HoldTime.String(),
			"not whole seconds from 3s (RFC 4271)",
			"give another one with --bgp-hold-time",
		)
	case c.RestartTime < time.Second || c.RestartTime > 4095*time.Second || c.RestartTime%time.Second != 0:
		return c, invalid(
			"BGP restart time "+c.RestartTime.String(),
			"not whole seconds from 1s to 4095s (RFC 4724)",
			"give another one with --bgp-restart-time",
		)
	case len(c.Password) > 80:
		return c, invalid(
			"BGP password",
			"longer than 80 bytes, which the kernel's TCP MD5 takes",
			"choose a shorter one, on the router too",
		)
	}
	seen := map[netip.Addr]bool{}
	for _, n := range c.Neighbors {
		if seen[n.Addr] {
			return c, invalid("BGP neighbour "+n.String(), "named twice", "name it once")
		}
		seen[n.Addr] = true
	}
	return c, nil
}

// ReadPassword reads a file whose first line is the password.
func ReadPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("BGP password: %w", err)
	}
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	password := strings.TrimSuffix(string(line), "\r")
	if password == "" || len(bytes.TrimSpace(rest)) > 0 {
		return "", invalid(
			"BGP password file "+file,
			"it is not one line with the password",
			"write the password into its first line and nothing after it",
		)
	}
	return password, nil
}

// Local is a prefix that lives on this node, and its address by which a
// router reaches it.
type Local struct {
	Prefix  netip.Prefix
	NextHop netip.Addr // of the prefix's family
}

// Learned is a prefix that a router knows the way to.
type Learned struct {
	Prefix  netip.Prefix
	NextHop netip.Addr
	// From is the neighbour that told.
	From netip.Addr
	// Stale: the neighbour is away and is expected back (RFC 4724).
	Stale bool
}

// Session is the state of a neighbour's session.
type Session struct {
	Neighbor Neighbor
	// Up: it is established.
	Up bool
	// State is the state's name of RFC 4271, in lower case.
	State string
	// Since is when it came up or went down, or when the Speaker started.
	Since time.Time
	// Last says why it went down last; empty where it never did.
	Last string
	// Received says that the neighbour has told all it knows.
	Received bool
}

// downGrace is how long a first session may take before it is a problem.
const downGrace = 10 * time.Second

// Problem returns what a person should know about a session that is down.
func (s Session) Problem(now time.Time) (fault.Fault, bool) {
	if s.Up || (s.Last == "" && now.Sub(s.Since) < downGrace) {
		return fault.Fault{}, false
	}
	last := "no connection since the agent started"
	if s.Last != "" {
		last = "last: " + s.Last
	}
	return fault.Fault{
		Code: fault.SessionDown, Severity: fault.Warning,
		Item: fmt.Sprintf("BGP neighbour %s, AS %d", s.Neighbor.Addr, s.Neighbor.AS),
		What: fmt.Sprintf(
			"the session is down (%s; %s): it does not learn this node's subnets, and this node nothing from it",
			s.State,
			last,
		),
		Remedy: fmt.Sprintf(
			"on the router: is BGP running, does it expect this node's address, AS and password ('vtysh -c \"show bgp "+
				"summary\"')? On this node: 'ping %s'",
			s.Neighbor.Addr,
		),
	}, true
}
