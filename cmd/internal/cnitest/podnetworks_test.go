//go:build system

package cnitest_test

import (
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
)

// podNetworks gives a container that its host routes to further interfaces in Baize's
// network, as a pod's annotation asks for them: all or none.
func podNetworks(h hosts) {
	t := h.T
	const file, name = "/run/baize/pods.env", "pods"
	h.Must("host1", "sh", "-c", "printf 'FLANNEL_NETWORK=10.89.0.0/16\nFLANNEL_SUBNET=10.89.1.1/24\n"+
		"FLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n' >"+file)
	const capability = "io.kubernetes.cri.pod-annotations"
	r := h.runtime("1.0.0", name, map[string]any{
		"type": "baize-cni", "subnetFile": file, "capabilities": map[string]bool{capability: true},
	})
	annotate := func(c *libcni.RuntimeConf, text string) {
		c.CapabilityArgs = map[string]any{capability: map[string]string{"baize.network/networks": text}}
	}
	links := func(container string) (names []string) {
		for _, line := range strings.Split(h.Must("host1", "ip", "-n", container, "-br", "link"), "\n") {
			if ifname, _, ok := strings.Cut(line, "@"); ok {
				names = append(names, ifname)
			}
		}
		return names
	}
	gone := func(c *libcni.RuntimeConf) {
		t.Helper()
		assert.Empty(t, links(c.ContainerID))
		assert.Empty(t, left(h, name))
		assert.NotContains(t, h.Must("host1", "ip", "link", "show", "type", "veth"), "alias cni "+name+" ")
	}

	c := h.container("podded")
	annotate(c, `[{"name": "`+network+`"}, {"name": "`+network+`", "interface": "lan0"}]`)
	out, err := r.AddNetworkList(t.Context(), r.list, c)
	require.NoError(t, err)
	result, err := current.NewResultFromResult(out)
	require.NoError(t, err)
	require.Len(t, result.IPs, 1, "that of the first interface: plugins behind take it for the container's")
	assert.ElementsMatch(t, []string{"eth0", "net1", "lan0"}, links(c.ContainerID))
	assert.Contains(t, h.Must("host1", "ip", "-n", "podded", "route"), "default via 169.254.186.1 dev eth0")
	require.NoError(t, r.CheckNetworkList(t.Context(), r.list, c))
	second := podAddr(h, "net1")
	h.Must("host2/c1", "ping", "-c", "1", "-W", "5", second.Addr().String())
	h.Must("host1", "ip", "-n", "podded", "address", "del", second.String(), "dev", "net1")
	require.ErrorContains(t, r.CheckNetworkList(t.Context(), r.list, c), "it has lost its address "+second.Addr().String())

	// A runtime that does not say what the annotations are.
	c.CapabilityArgs = nil
	r.del(c)
	gone(c)

	// Half of a pod's interfaces there never are.
	annotate(c, network+", nowhere")
	_, err = r.AddNetworkList(t.Context(), r.list, c)
	require.ErrorContains(t, err, "interface net2, by the annotation baize.network/networks: network nowhere")
	gone(c)
	agent := h.Host("host1")
	require.NoError(t, agent.StopService(t.Context(), lab.ServiceAgent))
	annotate(c, network)
	_, err = r.AddNetworkList(t.Context(), r.list, c)
	require.ErrorContains(t, err, `"code": 11`)
	require.ErrorContains(t, err, "by the annotation baize.network/networks")
	assert.Empty(t, links(c.ContainerID))
	annotate(c, "")
	r.add(c)
	r.del(c)
	require.NoError(t, agent.StartService(t.Context(), lab.ServiceAgent))

	// What an agent does not see end, the next one finds.
	annotate(c, network)
	r.add(c)
	require.NoError(t, agent.StopService(t.Context(), lab.ServiceAgent))
	r.del(c)
	require.NoError(t, agent.StartService(t.Context(), lab.ServiceAgent))
	gone(c)
}

// podAddr is the IPv4 address of an interface of the pod.
func podAddr(h hosts, ifname string) netip.Prefix {
	h.T.Helper()
	_, rest, _ := strings.Cut(h.Must("host1", "ip", "-n", "podded", "-o", "-4", "address", "show", "dev", ifname), "inet ")
	text, _, _ := strings.Cut(rest, " ")
	p, err := netip.ParsePrefix(text)
	require.NoError(h.T, err)
	return p
}
