package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// node is an agent with a topology in memory, whose subnets are the upper half
// of each network.
type node struct {
	networks  []topology.Network
	endpoints []ovs.Endpoint
	pending   []ovs.Endpoint
	reserved  map[netip.Addr]bool
	pinned    []netip.Addr
	// ensure, unless nil, is asked before a network is there.
	ensure func() error
}

func (n *node) Networks(context.Context) ([]topology.Network, error) { return n.networks, nil }

func (n *node) EnsureNetwork(
	_ context.Context,
	w topology.Network,
	_ []topology.Family,
	accept func(topology.Network) error,
) (topology.Network, error) {
	if n.ensure != nil {
		if err := n.ensure(); err != nil {
			return w, err
		}
	}
	for _, o := range n.networks {
		if o.Name == w.Name {
			return o, accept(o)
		}
	}
	n.networks = append(n.networks, w)
	return w, nil
}

func (n *node) Reserve(_ context.Context, r attach.Reservation) (netip.Addr, error) {
	for a := r.Addr; ; a = a.Next() {
		if !a.IsValid() {
			if a = r.Range.Addr(); !r.Range.IsValid() {
				a = netip.MustParseAddr("10.1.5.2")
			}
		}
		if n.reserved[a] && r.Addr.IsValid() {
			return a, &topology.Error{Kind: topology.ErrConflict, Item: a.String(), What: "in use"}
		}
		excluded := false
		for _, x := range r.Excluded {
			excluded = excluded || x == a
		}
		if !n.reserved[a] && !excluded {
			n.reserved[a] = true
			return a, nil
		}
	}
}

func (n *node) Release(_ string, a netip.Addr) { delete(n.reserved, a) }
func (n *node) Promise(_ context.Context, e ovs.Endpoint) error {
	n.pending = append(n.pending, e)
	n.pinned = append(n.pinned, e.IPs...)
	return nil
}
func (n *node) Forget(ovs.Endpoint) { n.pinned = nil }
func (n *node) HandOver(_ context.Context, e ovs.Endpoint, called string) (string, error) {
	e.Port = "p-" + cmp.Or(called, e.Name)
	n.endpoints = append(n.endpoints, e)
	return "dev0", nil
}
func (n *node) Endpoints() []ovs.Endpoint { return slices.Clone(n.endpoints) }
func (n *node) Pending() []ovs.Endpoint   { return slices.Clone(n.pending) }
func (n *node) Detach(_ context.Context, e ovs.Endpoint) error {
	for i, o := range n.endpoints {
		if o.Name == e.Name {
			n.endpoints = append(n.endpoints[:i:i], n.endpoints[i+1:]...)
		}
	}
	return nil
}
func (n *node) Abandoned(ovs.Endpoint) (bool, error) { return false, nil }

// call sends what an engine sends and returns the answer, or the refusal.
func call(t *testing.T, h http.Handler, method, body string) (answer map[string]any, refused string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body)))
	assert.Equal(t, contentType, w.Header().Get("Content-Type"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), w.Body.String())
	refused, _ = answer["Err"].(string)
	assert.Equal(t, refused != "", w.Code != http.StatusOK, "an engine looks at the status, people at the text")
	return answer, refused
}

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

func newPlugin(t *testing.T, n *node) *Plugin {
	if n.reserved == nil {
		n.reserved = map[netip.Addr]bool{}
	}
	dir := t.TempDir()
	return New(n, filepath.Join(dir, "docker.json"), filepath.Join(dir, "no-engine.sock"), quiet())
}

const (
	netID = "5d1b7d0c5d2f00aa5d1b7d0c5d2f00aa5d1b7d0c5d2f00aa5d1b7d0c5d2f00aa"
	epID  = "e0a1b2c3d4e5f60718293a4b5c6d7e8f9e0a1b2c3d4e5f60718293a4b5c6d7e8"
)

// blue is a network that is there.
var blue = topology.Network{
	Name:      "blue",
	VNI:       100,
	Transport: topology.VXLAN,
	MTU:       1450,
	IPv4:      netip.MustParsePrefix("10.1.0.0/16"),
}

// creation is the body of CreateNetwork.
func creation(pool, options string) string {
	return `{"NetworkID":"` + netID + `","Options":{"com.docker.network.generic":{` + options + `}},
		"IPv4Data":[{"AddressSpace":"baize","Pool":"` + pool + `","Gateway":"10.1.0.1/16"}],"IPv6Data":[],"FieldOfTomorrow":1}`
}

// The calls of a container's life, as engines 20.10 to 28 make them.
func TestConversation(t *testing.T) {
	n := &node{}
	p := newPlugin(t, n)
	h := p.Handler()

	answer, _ := call(t, h, "Plugin.Activate", "")
	assert.ElementsMatch(t, []any{"NetworkDriver", "IpamDriver"}, answer["Implements"])

	answer, refused := call(
		t,
		h,
		"IpamDriver.RequestPool",
		`{"AddressSpace":"baize","Pool":"10.1.0.0/16","SubPool":"10.1.5.0/24","Options":{"baize.network":"blue"},"V6":false}`,
	)
	require.Empty(t, refused)
	pool := answer["PoolID"].(string)
	answer, refused = call(
		t,
		h,
		"IpamDriver.RequestAddress",
		`{"PoolID":"`+pool+`","Address":"","Options":{"RequestAddressType":"com.docker.network.gateway"}}`,
	)
	require.Empty(t, refused)
	assert.Equal(t, "10.1.0.1/16", answer["Address"])
	_, refused = call(
		t,
		h,
		"NetworkDriver.CreateNetwork",
		creation("10.1.0.0/16", `"baize.network":"blue","baize.vni":"42"`),
	)
	require.Empty(t, refused)
	require.Len(t, n.networks, 1)
	assert.Equal(t, "blue", n.networks[0].Name)
	assert.EqualValues(t, 42, n.networks[0].VNI)
	assert.Equal(t, topology.CreatedByDocker, n.networks[0].CreatedBy)

	answer, refused = call(t, h, "IpamDriver.RequestAddress", `{"PoolID":"`+pool+`","Address":"","Options":{}}`)
	require.Empty(t, refused)
	assert.Equal(t, "10.1.5.0/16", answer["Address"], "of the range, with the network's mask")

	endpoint := `"NetworkID":"` + netID + `","EndpointID":"` + epID + `"`
	answer, refused = call(
		t,
		h,
		"NetworkDriver.CreateEndpoint",
		`{`+endpoint+`,"Interface":{"Address":"10.1.5.0/16","AddressIPv6":"","MacAddress":""},"Options":{}}`,
	)
	require.Empty(t, refused)
	assert.Equal(
		t,
		map[string]any{"Address": "", "AddressIPv6": "", "MacAddress": "02:42:0a:01:05:00"},
		answer["Interface"],
		"only what was left open",
	)

	answer, refused = call(
		t,
		h,
		"NetworkDriver.Join",
		`{`+endpoint+`,"SandboxKey":"/var/run/docker/netns/1","Options":{}}`,
	)
	require.Empty(t, refused)
	assert.Equal(t, map[string]any{"SrcName": "dev0", "DstPrefix": "eth"}, answer["InterfaceName"])
	require.Len(t, n.endpoints, 1)
	assert.Equal(t, "/var/run/docker/netns/1", n.endpoints[0].Netns)

	// Another plugin, with the file of the first: a restart of the agent.
	again := New(n, p.file, filepath.Join(t.TempDir(), "no-engine.sock"), quiet())
	require.False(t, again.Used().Known(), "nothing read is not nothing in use")
	again.load()
	require.Equal(t, map[string][]string{"blue": {"Docker network " + netID[:12]}}, again.Used().Get())
	assert.Equal(t, "blue", again.networks[netID].Network)
	h = again.Handler()
	_, refused = call(t, h, "NetworkDriver.Leave", `{`+endpoint+`}`)
	require.Empty(t, refused)
	assert.Empty(t, n.endpoints)
	_, refused = call(t, h, "NetworkDriver.DeleteEndpoint", `{`+endpoint+`}`)
	require.Empty(t, refused)
	_, refused = call(t, h, "IpamDriver.ReleaseAddress", `{"PoolID":"`+pool+`","Address":"10.1.5.0"}`)
	require.Empty(t, refused)
	assert.Empty(t, n.reserved)
	_, refused = call(t, h, "NetworkDriver.DeleteNetwork", `{"NetworkID":"`+netID+`"}`)
	require.Empty(t, refused)
	assert.Len(t, n.networks, 1, "it is for the agent to say whether the last engine has removed it")
	assert.Empty(t, again.Used().Get(), "this one does not use it any more")
}

// What an engine creates is needed before it is there: its subnets are leased for it. It
// is not any more where it cannot be created, unless an earlier request has done it.
func TestNetworkIsNeededWhileItIsCreated(t *testing.T) {
	n := &node{}
	p := newPlugin(t, n)
	blue := map[string][]string{"blue": {"Docker network " + netID[:12]}}
	var meanwhile map[string][]string
	failing := errors.New("no subnet is free")
	n.ensure = func() error { meanwhile = p.Used().Get(); return failing }
	body := creation("10.1.0.0/16", `"baize.network":"blue"`)
	create := func() string {
		_, refused := call(t, p.Handler(), "NetworkDriver.CreateNetwork", body)
		return refused
	}
	require.Contains(t, create(), "no subnet is free")
	require.Equal(t, blue, meanwhile)
	require.Empty(t, p.Used().Get())
	failing = nil
	require.Empty(t, create())
	require.Equal(t, blue, p.Used().Get())
	failing = errors.New("too late")
	require.Contains(t, create(), "too late")
	require.Equal(t, blue, p.Used().Get())
	_, refused := call(t, p.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"`+netID+`"}`)
	require.Empty(t, refused)
	require.Empty(t, p.Used().Get())
}

// What a container may send is an option of the engine's network and of its own; how much
// it may flood is the network's.
func TestAllowedTraffic(t *testing.T) {
	n := &node{}
	p := newPlugin(t, n)
	_, refused := call(t, p.Handler(), "NetworkDriver.CreateNetwork",
		creation("10.1.0.0/16", `"baize.allow":"ra,10.2.0.0/16","baize.bum":"250"`))
	require.Empty(t, refused)
	again := New(n, p.file, filepath.Join(t.TempDir(), "no-engine.sock"), quiet())
	again.load()
	_, refused = call(t, again.Handler(), "NetworkDriver.CreateEndpoint", `{"NetworkID":"`+netID+`","EndpointID":"`+
		epID+`","Interface":{"Address":"10.1.5.2/16"},"Options":{"baize.allow":"dhcp-server,ra"}}`)
	require.Empty(t, refused)
	require.Equal(t, []topology.Traffic{topology.RouterAdvertisement, topology.DHCPServer}, n.pending[0].AllowTraffic)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, n.pending[0].Allow)
	for option, want := range map[string]string{
		`"baize.bum":"lots"`: "option baize.bum", `"baize.allow":"web"`: "neither a prefix nor a kind of traffic",
	} {
		_, refused := call(t, newPlugin(t, &node{}).Handler(), "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", option))
		require.Contains(t, refused, want)
	}
}

// Row 55: whoever moves from Docker's overlay driver, where "encrypted" needs no value,
// does not get a network that only seems to be encrypted.
func TestEncryptionIsRefused(t *testing.T) {
	for _, option := range []string{`"encrypted":""`, `"encrypted":"true"`} {
		n := &node{}
		p := newPlugin(t, n)
		_, refused := call(t, p.Handler(), "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", option))
		require.Contains(t, refused, "option encrypted: Baize encrypts nothing")
		require.Empty(t, n.networks)
		require.Empty(t, p.networks)
	}
}

// Row B7: what a network's option and a container's own allow, together.
func TestAllowedPrefixes(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, x := range []struct {
		name, network, endpoint string
		want                    []netip.Prefix
		refused                 string
	}{
		{"none", ``, `"com.docker.network.portmap":[]`, nil, ""},
		{
			"the container's", ``, `"baize.allow":"fd00:2::/64, 10.2.0.0/16,10.1.5.9"`,
			prefixes("10.1.5.9/32", "10.2.0.0/16", "fd00:2::/64"), "",
		},
		{"the network's", `"baize.allow":"0.0.0.0/0"`, ``, prefixes("0.0.0.0/0"), ""},
		{
			"both", `"baize.allow":"0.0.0.0/0"`, `"baize.allow":"10.1.5.9,0.0.0.0/0"`,
			prefixes("0.0.0.0/0", "10.1.5.9/32"), "",
		},
		{"bits beyond the length", ``, `"baize.allow":"10.2.0.1/16"`, nil, "option baize.allow: 10.2.0.1/16 has bits set"},
		{"misspelt", ``, `"baize.alow":"10.2.0.0/16"`, nil, "option baize.alow"},
		{"an option of networks", ``, `"baize.mtu":"1400"`, nil, "known is baize.allow"},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := &node{}
			p := newPlugin(t, n)
			_, refused := call(t, p.Handler(), "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", x.network))
			require.Empty(t, refused)
			// What the network allows is known to the next agent.
			again := New(n, p.file, filepath.Join(t.TempDir(), "no-engine.sock"), quiet())
			again.load()
			_, refused = call(t, again.Handler(), "NetworkDriver.CreateEndpoint", `{"NetworkID":"`+netID+`","EndpointID":"`+
				epID+`","Interface":{"Address":"10.1.5.2/16"},"Options":{`+x.endpoint+`}}`)
			if x.refused != "" {
				require.Contains(t, refused, x.refused)
				require.Empty(t, n.pending)
				return
			}
			require.Empty(t, refused)
			require.Len(t, n.pending, 1)
			require.Equal(t, x.want, n.pending[0].Allow)
		})
	}
}

// What is asked of a network to come, its gateway included, is part of it from
// the beginning, so that nothing is made and then refused.
func TestGatewayOfANewNetwork(t *testing.T) {
	other := blue
	other.GatewayIPv4 = netip.MustParseAddr("10.1.0.9")
	for _, x := range []struct {
		name, asked, options string
		there                []topology.Network
		want                 string
		refused              string
	}{
		{"none", "", ``, nil, "invalid IP", ""},
		{"the first address, which every engine names", "10.1.0.1", ``, nil, "invalid IP", ""},
		{"another", "10.1.0.254", ``, nil, "10.1.0.254", ""},
		{"the network's", "10.1.0.1", `"baize.gateway":"network"`, nil, "10.1.0.1", ""},
		{"the network's, proposed", "", `"baize.gateway":"network"`, nil, "10.1.0.1", ""},
		{"one that is there", "", `"baize.gateway":"network"`, []topology.Network{other}, "10.1.0.9", ""},
		{"of one that has none", "", `"baize.network":"blue","baize.gateway":"network"`, []topology.Network{blue}, "", "it has none"},
		{"of one that has another", "10.1.0.254", `"baize.network":"blue"`, []topology.Network{other}, "", "it has 10.1.0.9"},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := &node{networks: x.there}
			h := newPlugin(t, n).Handler()
			answer, refused := call(t, h, "IpamDriver.RequestPool", `{"AddressSpace":"baize","Pool":"10.1.0.0/16"}`)
			require.Empty(t, refused)
			answer, refused = call(t, h, "IpamDriver.RequestAddress", `{"PoolID":"`+answer["PoolID"].(string)+`","Address":"`+
				x.asked+`","Options":{"RequestAddressType":"com.docker.network.gateway"}}`)
			require.Empty(t, refused)
			body := strings.ReplaceAll(creation("10.1.0.0/16", x.options), "10.1.0.1/16", answer["Address"].(string))
			_, refused = call(t, h, "NetworkDriver.CreateNetwork", body)
			if x.refused != "" {
				require.Contains(t, refused, x.refused)
				require.Equal(t, x.there, n.networks)
				return
			}
			require.Empty(t, refused)
			require.Len(t, n.networks, 1)
			require.Equal(t, x.want, n.networks[0].GatewayIPv4.String())
		})
	}
}

func TestRefusals(t *testing.T) {
	twin := blue
	twin.Name = "twin"
	for _, x := range []struct {
		name, method, body string
		networks           []topology.Network
		want               []string
	}{
		{"no JSON", "NetworkDriver.CreateNetwork", `{`, nil, []string{"unexpected EOF"}},
		{
			"a subnet of another's", "NetworkDriver.CreateNetwork", creation("10.2.0.0/16", `"baize.network":"blue"`),
			[]topology.Network{blue}, []string{"blue", "10.2.0.0/16", "10.1.0.0/16"},
		},
		{
			"another VNI", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", `"baize.vni":"7","baize.network":"blue"`),
			[]topology.Network{blue}, []string{"VNI", "7", "100"},
		},
		{
			"which of the two", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", ``), []topology.Network{blue, twin},
			[]string{"blue, twin", "-o baize.network=NAME"},
		},
		{
			"misspelt option", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", `"baize.vnni":"7"`), nil,
			[]string{"baize.vnni", "baize.vni"},
		},
		{
			"a name that is none", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", `"baize.network":"a/b"`), nil,
			[]string{"a/b"},
		},
		{
			"a VNI that is none", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", `"baize.vni":"16777216"`), nil,
			[]string{"16777216", "16777215"},
		},
		{
			"a transport that is none", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", `"baize.transport":"stt"`), nil,
			[]string{"stt", "vxlan"},
		},
		{
			"an MTU that is none", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", `"baize.mtu":"big"`), nil,
			[]string{"big", "1450"},
		},
		{
			"two MTUs", "NetworkDriver.CreateNetwork",
			creation("10.1.0.0/16", `"baize.mtu":"1400","com.docker.network.driver.mtu":"1300"`), nil, []string{"1400", "1300"},
		},
		{
			"an allowed prefix that is none", "NetworkDriver.CreateNetwork",
			creation("10.1.0.0/16", `"baize.allow":"10.2.0.0/16,web"`), nil, []string{"option baize.allow", `"web"`},
		},
		{
			"a gateway that is none", "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", `"baize.gateway":"mine"`), nil,
			[]string{"mine", "docker", "network"},
		},
		{
			"Docker's own IPAM", "NetworkDriver.CreateNetwork",
			strings.ReplaceAll(creation("10.1.0.0/16", ``), `"AddressSpace":"baize"`, `"AddressSpace":"LocalDefault"`), nil,
			[]string{"--ipam-driver baize"},
		},
		{"no subnet", "NetworkDriver.CreateNetwork", `{"NetworkID":"` + netID + `"}`, nil, []string{"--subnet"}},
		{
			"no pool", "IpamDriver.RequestPool", `{"AddressSpace":"baize"}`, []topology.Network{blue},
			[]string{"--subnet", "blue"},
		},
		{
			"a pool of a network to come", "IpamDriver.RequestPool", `{"Options":{"baize.network":"red"}}`,
			[]topology.Network{blue}, []string{"red", "--subnet", "blue"},
		},
		{
			"a family that it has not", "IpamDriver.RequestPool", `{"Options":{"baize.network":"blue"},"V6":true}`,
			[]topology.Network{blue}, []string{"blue", "IPv6"},
		},
		{
			"a range elsewhere", "IpamDriver.RequestPool", `{"Pool":"10.1.0.0/16","SubPool":"10.2.0.0/24"}`, nil,
			[]string{"--ip-range 10.2.0.0/24", "10.1.0.0/16"},
		},
		{
			"a range that is wider", "IpamDriver.RequestPool", `{"Pool":"10.1.0.0/16","SubPool":"10.0.0.0/8"}`, nil,
			[]string{"--ip-range 10.0.0.0/8"},
		},
		{
			"misspelt IPAM option", "IpamDriver.RequestPool", `{"Pool":"10.1.0.0/16","Options":{"baize.nwtwork":"x"}}`, nil,
			[]string{"baize.nwtwork", "baize.network"},
		},
		{
			"somebody else's pool", "IpamDriver.RequestAddress", `{"PoolID":"LocalDefault/10.1.0.0/16"}`, nil,
			[]string{"LocalDefault/10.1.0.0/16"},
		},
		{
			"an address elsewhere", "IpamDriver.RequestAddress", `{"PoolID":"blue|10.1.0.0/16|","Address":"10.2.0.1"}`, nil,
			[]string{"10.2.0.1", "10.1.0.0/16"},
		},
		{
			"another gateway", "IpamDriver.RequestAddress",
			`{"PoolID":"blue|10.1.0.0/16|","Address":"10.1.9.9","Options":{"RequestAddressType":"com.docker.network.gateway"}}`,
			[]topology.Network{blue}, []string{"10.1.9.9", "10.1.0.1"},
		},
		{
			"a network that is not known", "NetworkDriver.CreateEndpoint",
			`{"NetworkID":"` + netID + `","EndpointID":"` + epID + `"}`, nil, []string{netID[:12], "create it again"},
		},
		{"an endpoint of before", "NetworkDriver.Join", `{"NetworkID":"0","EndpointID":"` + epID + `"}`, nil, []string{"0"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := &node{networks: x.networks}
			_, refused := call(t, newPlugin(t, n).Handler(), x.method, x.body)
			for _, want := range x.want {
				assert.Contains(t, refused, want)
			}
			assert.Len(t, n.networks, len(x.networks), "nothing was made")
			assert.Empty(t, n.reserved)
		})
	}
}

func TestPoolID(t *testing.T) {
	for _, p := range []pool{
		{"blue", netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.1.5.0/24")},
		{"", netip.MustParsePrefix("fd00:1::/48"), netip.Prefix{}},
	} {
		got, err := parsePool(p.ID())
		require.NoError(t, err)
		assert.Equal(t, p, got)
	}
}

// An engine that may choose the pool takes none that is in the host's routes, and
// asks again at once, for ever: it is refused then, with what helps.
func TestEngineAsksForEver(t *testing.T) {
	h := newPlugin(t, &node{networks: []topology.Network{blue}}).Handler()
	const request = `{"Options":{"baize.network":"blue"}}`
	ask := func() (refused string, times int) {
		for times = 1; times < 100; times++ {
			if _, refused = call(t, h, "IpamDriver.RequestPool", request); refused != "" {
				return refused, times
			}
		}
		return "", times
	}
	for range 2 { // it gives the pools back, and people try again
		refused, times := ask()
		assert.Contains(t, refused, "subnet 10.1.0.0/16")
		assert.Contains(t, refused, "--subnet 10.1.0.0/16")
		assert.LessOrEqual(t, times, 10)
		_, refused = call(t, h, "IpamDriver.ReleasePool", `{"PoolID":"blue|10.1.0.0/16|"}`)
		require.Empty(t, refused)
	}
	for range 50 { // networks that are taken
		answer, refused := call(t, h, "IpamDriver.RequestPool", request)
		require.Empty(t, refused)
		_, refused = call(
			t,
			h,
			"IpamDriver.RequestAddress",
			`{"PoolID":"`+answer["PoolID"].(string)+`","Options":{"RequestAddressType":"com.docker.network.gateway"}}`,
		)
		require.Empty(t, refused)
	}
}

// Where no network is named, every engine makes up the same name.
func TestMadeUpNames(t *testing.T) {
	for pool, want := range map[string]string{"10.1.0.0/16": "docker-10.1.0.0-16", "fd00:1::/48": "docker-fd00-1-48"} {
		w := wanted{network: network{Pools: []netip.Prefix{netip.MustParsePrefix(pool)}}}
		require.NoError(t, w.choose(nil))
		assert.Equal(t, want, w.Name)
		assert.NoError(t, topology.CheckName("network", w.Name))
	}
}

// What the relay answers to is what the plugin answers to.
func TestRelayKnowsEveryMethod(t *testing.T) {
	r := newRelay(filepath.Join(t.TempDir(), "none.sock"), "r", quiet())
	r.startPatience, r.endPatience = 0, 0
	relay, plugin := r.handler(), newPlugin(t, &node{}).Handler()
	for _, kind := range []string{"Plugin.", "NetworkDriver.", "IpamDriver."} {
		for _, m := range []string{
			"Activate", "GetCapabilities", "CreateNetwork", "DeleteNetwork", "CreateEndpoint", "EndpointOperInfo",
			"DeleteEndpoint", "Join", "Leave", "DiscoverNew", "DiscoverDelete",
			"ProgramExternalConnectivity", "RevokeExternalConnectivity", "GetDefaultAddressSpaces", "RequestPool", "ReleasePool",
			"RequestAddress", "ReleaseAddress",
		} {
			known := func(h http.Handler) bool {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+kind+m, strings.NewReader(`{}`)))
				return w.Code != http.StatusNotFound
			}
			assert.Equal(t, known(plugin), known(relay), kind+m)
		}
	}
}
