package docker0

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
)

func TestBridgeProblems(t *testing.T) {
	prefix := netip.MustParsePrefix
	n := topology.NetworkView{
		Network: topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/16"), IPv6: prefix("fd00:10:1::/48"), MTU: 1450},
	}
	s := topology.Segment{Name: "docker0", Subnets: []netip.Prefix{prefix("10.1.5.0/24"), prefix("fd00:10:1:5::/64")}}
	good := func() *hostnet.Bridge {
		mac, err := net.ParseMAC("02:42:99:01:02:03")
		require.NoError(t, err)
		return &hostnet.Bridge{MAC: mac, MTU: 1450, Addrs: []netip.Prefix{prefix("10.1.5.1/16")}, Up: true}
	}
	for name, c := range map[string]struct {
		change func(b *hostnet.Bridge)
		want   string
	}{
		"as it should be":    {func(*hostnet.Bridge) {}, ""},
		"Docker's own":       {func(b *hostnet.Bridge) { b.Addrs[0] = prefix("172.17.0.1/16") }, "not 10.1.5.1/16"},
		"mask of the subnet": {func(b *hostnet.Bridge) { b.Addrs[0] = prefix("10.1.5.1/24") }, "not 10.1.5.1/16"},
		"MTU":                {func(b *hostnet.Bridge) { b.MTU = 1500 }, "its MTU is 1500"},
		"MAC of another": {
			func(b *hostnet.Bridge) { copy(b.MAC[2:], []byte{10, 1, 9, 9}) }, "that of address 10.1.9.9",
		},
		"MAC of its own range": {func(b *hostnet.Bridge) { copy(b.MAC[2:], []byte{10, 1, 5, 9}) }, ""},
	} {
		b := good()
		c.change(b)
		got := bridgeFaults(b, n, s, "F")
		if c.want == "" {
			assert.Empty(t, got, name)
		} else if assert.Len(t, got, 1, name) {
			assert.Contains(t, got[0].What, c.want, name)
			assert.NotEmpty(t, got[0].Remedy, name)
		}
	}
	assert.Contains(t, bridgeFaults(nil, n, s, "F")[0].What, "not there")
}

func TestBridgeVerdict(t *testing.T) {
	const docker20 = `-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
`
	const rest = `-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
`
	for name, c := range map[string]struct{ rules, want string }{
		"20.10":              {docker20 + "-A FORWARD -i docker0 -o docker0 -j ACCEPT\n" + rest, ""},
		"20.10, --icc=false": {docker20 + "-A FORWARD -i docker0 -o docker0 -j DROP\n" + rest, "--icc=false"},
		"28": {"-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n-A DOCKER -i docker0 -o " +
			"docker0 -j DROP\n" +
			"-A DOCKER-FORWARD -j DOCKER-CT\n-A DOCKER-FORWARD -i docker0 -j ACCEPT\n", ""},
		"reloaded":               {"-P FORWARD DROP\n", "Docker's own rules are gone"},
		"another bridge's rules": {"-P FORWARD DROP\n-A FORWARD -i br0 -o br0 -j ACCEPT\n", "Docker's own rules are gone"},
		"no firewall":            {"-P FORWARD ACCEPT\n", ""},
		"a comment": {"-P FORWARD DROP\n-A FORWARD -i docker0 -m comment --comment \"let it pass\" -j " +
			"ACCEPT\n", ""},
		"not for all": {"-P FORWARD DROP\n-A FORWARD -i docker0 -p tcp -j " +
			"ACCEPT\n", "Docker's own rules are gone"},
		"rejected": {"-P FORWARD ACCEPT\n-A FORWARD -j X\n-A X -j REJECT --reject-with " +
			"icmp-port-unreachable\n", "-A X -j REJECT"},
		"jumps in a circle": {"-P FORWARD ACCEPT\n-A FORWARD -j FORWARD\n", ""},
	} {
		got := bridgeVerdict(c.rules, "docker0")
		if c.want == "" {
			assert.Empty(t, got, name)
		} else if assert.Len(t, got, 1, name) {
			assert.Contains(t, got[0].What, c.want, name)
			assert.NotEmpty(t, got[0].Remedy, name)
		}
	}
}

func TestDockerNetwork(t *testing.T) {
	blue, red := topology.Network{Name: "blue"}, topology.Network{Name: "red"}
	for name, c := range map[string]struct {
		network string
		there   []topology.Network
		want    string
		err     string
	}{
		"the only one": {"", []topology.Network{blue}, "blue", ""},
		"named":        {"red", []topology.Network{blue, red}, "red", ""},
		"none":         {"", nil, "", "no network for it yet"},
		"several":      {"", []topology.Network{blue, red}, "", "several networks: blue, red"},
		"another":      {"green", []topology.Network{blue, red}, "", "network green does not exist"},
	} {
		p := &Part{cfg: Config{Network: c.network}}
		n, err := p.network(c.there)
		assert.Equal(t, c.want, n.Name, name)
		if c.err == "" {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorContains(t, err, c.err, name)
		}
	}
}

// host has a device docker0, and counts what is attached.
type host struct {
	Host
	device   error
	attached int
}

func (h *host) FindBridge(string) (*hostnet.Bridge, error) { return nil, h.device }

func (h *host) Attach(context.Context, hostnet.AttachSpec) error {
	h.attached++
	return h.device
}

// Of a docker0 that is no bridge no pair is made, only to be taken away again: each is a
// message that wakes the part.
func TestNoPairForOtherDevices(t *testing.T) {
	v := topology.View{Networks: []topology.NetworkView{{
		Network: topology.Network{Name: "blue"}, Segments: []topology.Segment{{Name: Bridge}},
	}}}
	other := &topology.Error{Kind: topology.ErrConflict, Item: "bridge docker0", What: "the device of that name is a dummy"}
	for _, c := range []struct {
		device error
		pairs  int
	}{{nil, 1}, {other, 0}} {
		h := &host{device: c.device}
		segments, err := (&Part{host: h, hub: hub.New(hub.Identity{Node: "host1"})}).attach(t.Context(), v)
		assert.Equal(t, c.device, err)
		assert.Len(t, segments, c.pairs)
		assert.Equal(t, c.pairs, h.attached)
	}
}
