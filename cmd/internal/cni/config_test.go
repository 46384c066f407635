package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
)

func args(config, env string) *skel.CmdArgs {
	return &skel.CmdArgs{
		ContainerID: "c1", Netns: "/run/netns/c1", IfName: "eth0", Args: env,
		StdinData: []byte(`{"cniVersion":"1.0.0","name":"net","type":"baize-cni"` + config + `}`),
	}
}

// What a runtime says becomes one request, in the order of CONVENTIONS.md.
func TestRequest(t *testing.T) {
	ip := netip.MustParseAddr
	for name, c := range map[string]struct {
		config, env string
		want        func(*api.EndpointRequest)
	}{
		"nothing": {"", "", func(*api.EndpointRequest) {}},
		"keys": {
			`,"network":"blue","allow":["10.9.0.0/24"]`, "",
			func(r *api.EndpointRequest) {
				r.Network, r.Allow = "blue", []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
			},
		},
		"capabilities": {
			`,"runtimeConfig":{"ips":["10.1.5.7/16","fd00::7"],"mac":"02-00-00-00-00-07","aliases":["b","a","b"]}`, "",
			func(r *api.EndpointRequest) {
				r.IPs, r.MAC, r.Aliases = []netip.Addr{ip("10.1.5.7"), ip("fd00::7")}, "02:00:00:00:00:07", []string{"a", "b"}
			},
		},
		"aliases of Podman": {
			`,"runtimeConfig":{"aliases":{"net":["a"],"other":["b"]}}`, "",
			func(r *api.EndpointRequest) { r.Aliases = []string{"a"} },
		},
		"args before CNI_ARGS": {
			`,"args":{"cni":{"ips":["10.1.5.8"]}}`, "IP=10.1.5.9;MAC=02:00:00:00:00:09",
			func(r *api.EndpointRequest) { r.IPs, r.MAC = []netip.Addr{ip("10.1.5.8")}, "02:00:00:00:00:09" },
		},
		"CNI_ARGS": {"", "IP=10.1.5.9/16", func(r *api.EndpointRequest) { r.IPs = []netip.Addr{ip("10.1.5.9")} }},
		"a pod": {
			"", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;X=Y",
			func(r *api.EndpointRequest) { r.Container = "shop/web" },
		},
		"a container of Podman's": {
			"", "K8S_POD_NAMESPACE=web;K8S_POD_NAME=web", func(r *api.EndpointRequest) { r.Container = "web" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := api.EndpointRequest{
				Network: "net", Netns: "/run/netns/c1",
				Attachment: &api.Attachment{Engine: api.EngineCNI, Network: "net", Container: "c1", Ifname: "eth0"},
			}
			c.want(&want)
			conf, err := parse(args(c.config, c.env), true)
			require.NoError(t, err)
			have, err := conf.request(args(c.config, c.env), nil)
			require.NoError(t, err)
			if len(have.Allow) == 0 {
				have.Allow = nil
			}
			if len(have.Aliases) == 0 {
				have.Aliases = nil
			}
			assert.Equal(t, want, have)
		})
	}
}

// Addresses of an ipam plugin are asked for as they are; what the runtime wants is that
// plugin's business.
func TestRequestWithIPAM(t *testing.T) {
	a := args(`,"ipam":{"type":"static"},"runtimeConfig":{"ips":["10.1.5.7/16"]}`, "")
	conf, err := parse(a, true)
	require.NoError(t, err)
	assigned := []netip.Addr{netip.MustParseAddr("10.1.5.9")}
	have, err := conf.request(a, assigned)
	require.NoError(t, err)
	assert.Equal(t, assigned, have.IPs)
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		config, env string
		code        uint
		words       []string
	}{
		"no JSON":        {`,`, "", types.ErrDecodingFailure, nil},
		"a typing error": {`,"netwrok":"blue"`, "", types.ErrUnsupportedField, []string{"netwrok", `"blue"`}},
		"masquerading":   {`,"ipMasq":true`, "", types.ErrUnsupportedField, []string{"ipMasq", "true", "--masquerade"}},
		"ranges": {
			`,"runtimeConfig":{"ipRanges":[[{"subnet":"10.1.0.0/16"}]]}`, "", types.ErrUnsupportedField, []string{"ipRanges"},
		},
		"CNI_ARGS":   {"", "WHAT=7", types.ErrInvalidEnvironmentVariables, []string{"CNI_ARGS", "IgnoreUnknown"}},
		"prevResult": {`,"prevResult":{"cniVersion":"7.0.0"}`, "", types.ErrDecodingFailure, nil},
		"an address": {`,"runtimeConfig":{"ips":["10.1"]}`, "", types.ErrInvalidNetworkConfig, []string{"10.1"}},
		"a MAC":      {`,"runtimeConfig":{"mac":"x"}`, "", types.ErrInvalidNetworkConfig, []string{"x"}},
		"allow":      {`,"allow":["10.1"]`, "", types.ErrInvalidNetworkConfig, []string{"10.1"}},
		"an alias":   {`,"runtimeConfig":{"aliases":["a,b"]}`, "", types.ErrInvalidNetworkConfig, []string{"a,b"}},
	} {
		t.Run(name, func(t *testing.T) {
			conf, err := parse(args(c.config, c.env), true)
			if err == nil {
				_, err = conf.request(args(c.config, c.env), nil)
			}
			var e *types.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, c.code, e.Code)
			for _, w := range c.words {
				assert.Contains(t, e.Error(), w)
			}
		})
	}
	_, err := parse(args(`,"netwrok":"blue","ipMasq":true`, "WHAT=7"), false)
	require.NoError(t, err, "whoever removes something does not fail at it")
}

// Every kind of refusal has a code, and keeps its remedy.
func TestErrors(t *testing.T) {
	for kind, code := range map[error]uint{
		topology.ErrInvalid: 7, topology.ErrNotFound: 7, topology.ErrUnavailable: 11, topology.ErrConflict: CodeConflict,
		topology.ErrExists: CodeExists, topology.ErrFull: CodeFull, topology.ErrInUse: CodeInUse,
		errors.New("disk on fire"): types.ErrInternal,
	} {
		err := errorOf(fmt.Errorf("adding: %w", &topology.Error{Kind: kind, Item: "network blue", What: "w", Remedy: "r"}))
		var e *types.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, &types.Error{Code: code, Msg: "network blue: w", Details: "r"}, e)
	}
	known := types.NewError(2, "a", "b")
	assert.Equal(t, known, errorOf(known))
	require.NoError(t, errorOf(nil))
}

func TestDNS(t *testing.T) {
	c, err := parse(args(`,"dns":{"nameservers":["192.0.2.1"],"domain":"a"},"runtimeConfig":{"dns":{"searches":["b"]}}`, ""), true)
	require.NoError(t, err)
	assert.Equal(t, types.DNS{Nameservers: []string{"192.0.2.1"}, Domain: "a", Search: []string{"b"}}, c.dns())
}

// inside is what stands in a container.
func inside() hostnet.Inside {
	return hostnet.Inside{
		Name: "eth0", MAC: []byte{2, 0x42, 10, 1, 5, 2}, MTU: 1450,
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.5.2/16"), netip.MustParsePrefix("fd00::2/48")},
		Routes: []hostnet.InsideRoute{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.1.0.1")},
		},
	}
}

func TestResult(t *testing.T) {
	var before current.Result
	require.NoError(t, json.Unmarshal([]byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"other"}],
		"ips":[{"address":"192.0.2.2/24","interface":0}],"dns":{"nameservers":["192.0.2.53"]}}`), &before))
	r := resultOf(&before, inside(), "bz1", []byte{0xfe, 0x42, 10, 1, 5, 2}, "/run/netns/c1")
	b, err := json.Marshal(r)
	require.NoError(t, err)
	assert.JSONEq(t, `{"cniVersion":"1.1.0",
		"interfaces":[{"name":"other"},{"name":"bz1","mac":"fe:42:0a:01:05:02","mtu":1450},
			{"name":"eth0","mac":"02:42:0a:01:05:02","mtu":1450,"sandbox":"/run/netns/c1"}],
		"ips":[{"address":"192.0.2.2/24","interface":0},{"address":"10.1.5.2/16","gateway":"10.1.0.1","interface":2},
			{"address":"fd00::2/48","interface":2}],
		"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"}],"dns":{"nameservers":["192.0.2.53"]}}`, string(b))
	assert.Len(t, before.Interfaces, 1, "what came before stays as it is")

	require.NoError(t, checkInside(r, inside(), inside().Routes, "/run/netns/c1"))
	for name, change := range map[string]func(*hostnet.Inside, *[]hostnet.InsideRoute){
		"link address": func(in *hostnet.Inside, _ *[]hostnet.InsideRoute) { in.MAC = []byte{2, 0, 0, 0, 0, 1} },
		"MTU":          func(in *hostnet.Inside, _ *[]hostnet.InsideRoute) { in.MTU = 1500 },
		"address":      func(in *hostnet.Inside, _ *[]hostnet.InsideRoute) { in.Addrs = in.Addrs[1:] },
		"route":        func(_ *hostnet.Inside, routes *[]hostnet.InsideRoute) { *routes = nil },
	} {
		in, routes := inside(), inside().Routes
		change(&in, &routes)
		require.ErrorContains(t, checkInside(r, in, routes, "/run/netns/c1"), name)
	}
	require.ErrorContains(t, checkInside(r, inside(), inside().Routes, "/run/netns/c2"), "prevResult")

	r.Routes = []*types.Route{{Dst: ipNet(netip.MustParsePrefix("10.9.0.0/16"))}}
	require.ErrorContains(t, checkInside(r, inside(), inside().Routes, "/run/netns/c1"), "the route to 10.9.0.0/16 is gone")
}

func TestAssignedBy(t *testing.T) {
	var r current.Result
	require.NoError(t, json.Unmarshal([]byte(`{"cniVersion":"1.0.0","ips":[{"address":"10.1.5.9/16","gateway":"10.1.0.1"}],
		"routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.1.0.9"},{"dst":"fd01::/64"}]}`), &r))
	addrs, routes := assignedBy(&r)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("10.1.5.9")}, addrs)
	assert.Equal(t, []hostnet.InsideRoute{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.1.0.1")},
		{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.1.0.9")},
		{Dst: netip.MustParsePrefix("fd01::/64")},
	}, routes)
}
