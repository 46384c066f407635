package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestMerge(t *testing.T) {
	fresh, err := state{}.merge(Config{})
	require.NoError(t, err)
	assert.Equal(t, state{
		Hosts: []string{"host1", "host2", "host3"}, Transport: topology.VXLAN,
		Networks: []NetworkSpec{DefaultNetworkSpec(netip.Prefix{})}, Endpoints: 1,
	}, fresh)

	same, err := fresh.merge(Config{})
	require.NoError(t, err)
	assert.Equal(t, fresh, same, "nothing asked for, nothing changed")

	changed, err := fresh.merge(
		Config{Hosts: 4, Endpoints: 2, Transport: topology.GRE, IPv6Underlay: true, AgentArgs: []string{"--log-level=debug"}},
	)
	require.NoError(t, err)
	assert.Len(t, changed.Hosts, 4)
	assert.Equal(t, []string{"c1", "c2"}, changed.endpointNames(0))
	assert.Equal(t, topology.GRE, changed.transport(changed.Networks[0]))
	again, err := changed.merge(Config{})
	require.NoError(t, err)
	assert.Equal(t, changed, again)

	none, err := fresh.merge(Config{Endpoints: -1})
	require.NoError(t, err)
	assert.Empty(t, none.endpointNames(0))

	two, err := state{}.merge(Config{Segments: 2})
	require.NoError(t, err)
	again, err = two.merge(Config{Segments: 2, Hosts: 4})
	require.NoError(t, err)
	assert.Equal(t, 2, again.Segments)
	for _, c := range []Config{{Segments: 1}, {FRR: true}} {
		_, err = two.merge(c)
		require.ErrorIs(t, err, topology.ErrConflict)
	}

	_, err = fresh.merge(Config{Networks: []NetworkSpec{DefaultNetworkSpec(netip.MustParsePrefix("10.9.0.0/16"))}})
	require.ErrorIs(t, err, topology.ErrConflict)
	assert.ErrorContains(t, err, "lab down")
}

func TestDockerIsChosenWhenTheLabIsMade(t *testing.T) {
	s, err := state{}.merge(Config{Docker: true})
	require.NoError(t, err)
	assert.True(t, s.Docker)
	s, err = s.merge(Config{})
	require.NoError(t, err)
	assert.True(t, s.Docker, "it stays")

	plain, err := state{}.merge(Config{})
	require.NoError(t, err)
	_, err = plain.merge(Config{Name: "x", Docker: true})
	require.ErrorIs(t, err, topology.ErrConflict)
	assert.ErrorContains(t, err, "baize lab down")
}

func TestResize(t *testing.T) {
	for _, c := range []struct {
		have []string
		n    int
		want []string
	}{
		{nil, 3, []string{"host1", "host2", "host3"}},
		{[]string{"host1", "host2", "host3"}, 2, []string{"host1", "host2"}},
		{[]string{"host1", "host3"}, 3, []string{"host1", "host2", "host3"}},
		{[]string{"host10", "host9"}, 1, []string{"host9"}},
		{[]string{"host2"}, 1, []string{"host2"}},
	} {
		assert.Equal(t, c.want, resize(c.have, c.n))
	}
}

// A network that cannot be was refused after it had become a part of the
// state; then every up asked for it, and refused to change it.
func TestNetworksAreCheckedBeforeAnythingIsMade(t *testing.T) {
	prefix := netip.MustParsePrefix
	for name, n := range map[string]NetworkSpec{
		"bits beyond the length": {Name: "blue", Prefixes: []netip.Prefix{prefix("10.9.0.5/16")}},
		"too small":              {Name: "blue", Prefixes: []netip.Prefix{prefix("10.9.0.0/31")}},
		"two of a family":        {Name: "blue", Prefixes: []netip.Prefix{prefix("10.9.0.0/16"), prefix("10.8.0.0/16")}},
		"no prefix":              {Name: "blue"},
		"name":                   {Name: "b/lue", Prefixes: []netip.Prefix{prefix("10.9.0.0/16")}},
		"VNI":                    {Name: "blue", Prefixes: []netip.Prefix{prefix("10.9.0.0/16")}, VNI: 1 << 24},
	} {
		_, err := state{}.merge(Config{Networks: []NetworkSpec{n}})
		assert.ErrorIs(t, err, topology.ErrInvalid, name)
	}
}

// What only etcd's contents show to be impossible is forgotten.
func TestARefusedNetworkIsForgotten(t *testing.T) {
	l := &Lab{cfg: Config{Name: "x", BaseDir: t.TempDir()}}
	require.NoError(t, os.Mkdir(l.Dir(), 0o755))
	blue, red := DefaultNetworkSpec(netip.Prefix{}), NetworkSpec{
		Name: "red", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")},
	}
	var err error
	l.state, err = state{}.merge(Config{Networks: []NetworkSpec{blue, red}})
	require.NoError(t, err)
	for code, want := range map[int]bool{0: false, 1: false, 2: true, 4: true, 5: false, 130: false} {
		assert.Equal(t, want, refused(exec.Command("sh", "-c", fmt.Sprint("exit ", code)).Run()), "exit code %d", code)
	}
	require.NoError(t, l.forget("red"))
	left, err := readState(l.Dir())
	require.NoError(t, err)
	assert.Equal(t, []NetworkSpec{blue}, left.Networks)
	red.Prefixes[0] = netip.MustParsePrefix("10.3.0.0/16")
	_, err = left.merge(Config{Networks: []NetworkSpec{blue, red}})
	require.NoError(t, err, "the next up may ask for another")
}
