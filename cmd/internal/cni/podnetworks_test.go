package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
)

// podArgs is a call for a pod that is routed by its host, with one annotation.
func podArgs(t *testing.T, config, pod, annotation, text string) (*config, []api.EndpointRequest, error) {
	t.Helper()
	annotations, err := json.Marshal(map[string]string{"other": "x", annotation: text})
	require.NoError(t, err)
	a := args(fmt.Sprintf(`,"subnetFile":"/x"%s,"runtimeConfig":{"io.kubernetes.cri.pod-annotations":%s}`,
		config, annotations), "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME="+pod)
	c, err := parse(a, true)
	require.NoError(t, err)
	reqs, err := c.podRequests(a)
	return c, reqs, err
}

// An annotation is a list of networks, in the forms that Multus has.
func TestPodNetworks(t *testing.T) {
	ip := netip.MustParseAddr
	request := func(network, ifname string, ips ...netip.Addr) api.EndpointRequest {
		return api.EndpointRequest{
			Network: network, Netns: "/run/netns/c1", Container: "shop/db-12", IPs: ips,
			Attachment: &api.Attachment{Engine: api.EngineCNI, Network: "net", Container: "c1", Ifname: ifname},
		}
	}
	withMAC := request("blue", "lan0", ip("10.1.9.7"), ip("fd00::7"))
	withMAC.MAC = "02:00:00:00:00:07"
	for text, want := range map[string][]api.EndpointRequest{
		"":                    nil,
		"blue":                {request("blue", "net1")},
		" blue@lan0 , green ": {request("blue", "lan0"), request("green", "net2")},
		"blue,blue":           {request("blue", "net1"), request("blue", "net2")},
		`[{"name": "blue"}]`:  {request("blue", "net1")},
		`[{"name": "blue", "interface": "lan0", "ips": ["10.1.9.7/16", "fd00::7"], "mac": "02:00:00:00:00:07"}]`: {withMAC},
		`[{"name": "blue", "ips-from": ["10.1.200.250", "fd00::10"]}]`: {
			request("blue", "net1", ip("10.1.201.6"), ip("fd00::1c")),
		},
	} {
		_, have, err := podArgs(t, "", "db-12", DefaultNetworksAnnotation, text)
		require.NoError(t, err, text)
		assert.Equal(t, want, have, text)
	}
	const standard = "k8s.v1.cni.cncf.io/networks"
	_, have, err := podArgs(t, "", "db-12", standard, "blue")
	require.NoError(t, err)
	assert.Empty(t, have, "that is Multus' own")
	_, have, err = podArgs(t, `,"networksAnnotation":"`+standard+`"`, "db-12", standard, "blue")
	require.NoError(t, err)
	assert.Equal(t, []api.EndpointRequest{request("blue", "net1")}, have)
}

// What makes no sense is refused before there is any interface.
func TestPodNetworksRefused(t *testing.T) {
	for text, want := range map[string]string{
		"blue@":                                 "no interface behind the @",
		"blue@eth0":                             "two interfaces eth0",
		"blue@net2,green":                       "two interfaces net2",
		"kube-system/blue":                      "in no namespace",
		"blue@a/b":                              "interface",
		",":                                     "network",
		`[{"name": "blue"`:                      "unexpected",
		`[{"name": "blue", "x":1}]`:             `unknown field "x"`,
		`[{"name": "blue", "ips": ["10.1.9"]}]`: "10.1.9",
		`[{"name": "blue", "mac": "x"}]`:        "link address x",
		`[{"name": "blue", "ips-from": ["10.1.9.1"]}]`:                      "no ordinal",
		`[{"name": "blue", "ips-from": ["10.1.9.1"], "ips": ["10.1.9.1"]}]`: "either ips or ips-from",
	} {
		_, _, err := podArgs(t, "", "web", DefaultNetworksAnnotation, text)
		var e *types.Error
		require.ErrorAs(t, err, &e, text)
		assert.Equal(t, types.ErrInvalidNetworkConfig, e.Code, text)
		assert.Contains(t, e.Msg+e.Details, want, text)
		assert.Contains(t, e.Msg, DefaultNetworksAnnotation, text)
	}
	_, err := parse(args(`,"networksAnnotation":"x"`, ""), true)
	var e *types.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, types.ErrUnsupportedField, e.Code)
}
