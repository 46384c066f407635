// Package netavark is Baize's plugin for netavark, which Podman uses instead of CNI from
// version 5 on. A network of it is made with 'podman network create -d baize'.
//
// The interface is plugin-API.md of github.com/containers/netavark: a subcommand, a
// request in JSON on standard input, the answer on standard output, errors as
// {"error": "message"}.
package netavark

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/plugin"
	"github.com/baize-net/baize/topology"
)

// apiVersion is that of plugin-API.md.
const apiVersion = "1.0.0"

// Options of 'podman network create -o'.
const (
	optionNetwork = "baize.network" // Baize's network; that of Podman's own name by default
	optionAllow   = "baize.allow"   // prefixes that containers may send from as well
	optionSocket  = "baize.socket"  // the agent's
)

// Run runs a subcommand, and returns the exit code.
func Run(ctx context.Context, args []string, in io.Reader, out io.Writer, version string) int {
	answer, err := run(ctx, args, in, version)
	code := 0
	if err != nil {
		answer, code = map[string]string{"error": err.Error()}, 1
	}
	if answer == nil {
		return code
	}
	if b, e := json.Marshal(answer); e == nil {
		_, err = out.Write(append(b, '\n'))
	} else {
		err = e
	}
	if err != nil {
		return 1
	}
	return code
}

func run(ctx context.Context, args []string, in io.Reader, version string) (any, error) {
	want := map[string]int{"info": 1, "create": 1, "setup": 2, "teardown": 2}
	if len(args) == 0 || len(args) != want[args[0]] {
		return nil, fmt.Errorf("unknown call %q: netavark calls create, setup NETNS, teardown NETNS and info", args)
	}
	if args[0] == "info" {
		return map[string]string{"version": version, "api_version": apiVersion}, nil
	}
	b, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("the request: %w", err)
	}
	if args[0] == "create" {
		return create(ctx, b)
	}
	var req request
	if err := json.Unmarshal(b, &req); err != nil {
		return nil, fmt.Errorf("the request: %w", err)
	}
	if args[0] == "setup" {
		return setup(ctx, args[1], req)
	}
	return nil, teardown(ctx, req)
}

// network is what the plugin reads of Podman's configuration of a network.
type network struct {
	Name     string            `json:"name"`
	Internal bool              `json:"internal"`
	Options  map[string]string `json:"options"`
	Subnets  []subnet          `json:"subnets"`
	Routes   []json.RawMessage `json:"routes"`
}

type subnet struct {
	Subnet     netip.Prefix    `json:"subnet"`
	Gateway    *netip.Addr     `json:"gateway,omitempty"`
	LeaseRange json.RawMessage `json:"lease_range,omitempty"`
}

func (n network) baize() string  { return cmp.Or(n.Options[optionNetwork], n.Name) }
func (n network) socket() string { return cmp.Or(n.Options[optionSocket], api.DefaultSocket) }

// allow are the prefixes of the option.
func (n network) allow() ([]netip.Prefix, error) {
	list := strings.FieldsFunc(n.Options[optionAllow], func(r rune) bool { return r == ',' || r == ' ' })
	return topology.ParseAllowed("option "+optionAllow, list)
}

// request is that of setup and teardown (NetworkPluginExec).
type request struct {
	ContainerID   string            `json:"container_id"`
	ContainerName string            `json:"container_name"`
	PortMappings  []json.RawMessage `json:"port_mappings"`
	Network       network           `json:"network"`
	Options       struct {
		Interface string       `json:"interface_name"`
		StaticIPs []netip.Addr `json:"static_ips"`
		StaticMAC string       `json:"static_mac"`
	} `json:"network_options"`
}

func (r request) attachment() api.Attachment {
	return api.Attachment{
		Engine: api.EngineNetavark, Network: r.Network.Name, Container: r.ContainerID, Ifname: r.Options.Interface,
	}
}

// create completes the configuration of a network: Podman checks addresses by its
// subnets. What is not known stays as it is.
func create(ctx context.Context, b []byte) (any, error) {
	var n network
	all := map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(b, &n), json.Unmarshal(b, &all)); err != nil {
		return nil, fmt.Errorf("the request: %w", err)
	}
	if err := n.check(); err != nil {
		return nil, err
	}
	a, err := api.NewClient(n.socket()).Availability(ctx, n.baize())
	if err != nil {
		return nil, err
	}
	if len(a.Prefixes) == 0 {
		return nil, errors.New(a.Why)
	}
	for _, s := range n.Subnets {
		if !slices.Contains(a.Prefixes, s.Subnet) {
			return nil, fmt.Errorf("subnet %s: network %s has %v; leave --subnet out", s.Subnet, n.baize(), a.Prefixes)
		}
	}
	var subnets []subnet
	ipv6 := false
	for _, p := range a.Prefixes {
		s := subnet{Subnet: p}
		for _, g := range a.Gateways {
			if p.Contains(g) {
				s.Gateway = &g
			}
		}
		subnets = append(subnets, s)
		ipv6 = ipv6 || p.Addr().Is6()
	}
	for key, v := range map[string]any{
		// Baize has names of its own; aardvark-dns would serve this host only.
		"subnets": subnets, "ipv6_enabled": ipv6, "dns_enabled": false,
		"ipam_options": map[string]string{"driver": "none"},
	} {
		if all[key], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// check refuses what would be ignored otherwise.
func (n network) check() error {
	for _, o := range slices.Sorted(maps.Keys(n.Options)) {
		if o != optionNetwork && o != optionAllow && o != optionSocket {
			return fmt.Errorf("option %s: there is none of that name; known are %s, %s and %s", o, optionNetwork, optionAllow,
				optionSocket)
		}
	}
	if _, err := n.allow(); err != nil {
		return err
	}
	if n.Internal || len(n.Routes) > 0 {
		return errors.New("--internal and --route: containers have the gateway of Baize's network, or none " +
			"('baize network update --gateway, --no-gateway')")
	}
	for _, s := range n.Subnets {
		if len(s.LeaseRange) > 0 && string(s.LeaseRange) != "null" {
			return errors.New("--ip-range: each node gives addresses of the subnet that it leases; leave it out")
		}
	}
	return nil
}

// status is the answer of setup (StatusBlock).
type status struct {
	Search     []string                 `json:"dns_search_domains"`
	Servers    []string                 `json:"dns_server_ips"`
	Interfaces map[string]interfaceInfo `json:"interfaces"`
}

type interfaceInfo struct {
	MAC     string    `json:"mac_address"`
	Subnets []address `json:"subnets"`
}

type address struct {
	IPNet   netip.Prefix `json:"ipnet"`
	Gateway *netip.Addr  `json:"gateway,omitempty"`
}

func setup(ctx context.Context, netns string, r request) (any, error) {
	if len(r.PortMappings) > 0 {
		return nil, fmt.Errorf("network %s: ports cannot be published (-p) here: other hosts reach the container at its "+
			"address; publish them by a further network of Podman's own", r.Network.Name)
	}
	if err := hostnet.CheckNetns(netns); err != nil {
		return nil, err
	}
	a := r.attachment()
	req := api.EndpointRequest{
		Network: r.Network.baize(), Netns: netns, Attachment: &a, Container: r.ContainerName, MAC: r.Options.StaticMAC,
	}
	for _, ip := range r.Options.StaticIPs {
		req.IPs = append(req.IPs, ip.Unmap())
	}
	var err error
	if req.Allow, err = r.Network.allow(); err != nil {
		return nil, err
	}
	if _, err := plugin.Add(ctx, r.Network.socket(), req); err != nil {
		return nil, err
	}
	in, err := hostnet.Inspect(netns, a.Ifname)
	if err != nil {
		return nil, errors.Join(err, teardown(ctx, r))
	}
	info := interfaceInfo{MAC: in.MAC.String(), Subnets: []address{}}
	for _, p := range in.Addrs {
		x := address{IPNet: p}
		if g := in.Gateway(p); g.IsValid() {
			x.Gateway = &g
		}
		info.Subnets = append(info.Subnets, x)
	}
	return status{Search: []string{}, Servers: []string{}, Interfaces: map[string]interfaceInfo{a.Ifname: info}}, nil
}

func teardown(ctx context.Context, r request) error {
	return plugin.Remove(ctx, r.Network.socket(), r.attachment(), r.Network.baize())
}
