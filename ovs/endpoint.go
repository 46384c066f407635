package ovs

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// AsPort returns the port that an endpoint is attached to. The port's external_ids
// have all of the endpoint, and so has a file of the agent's state: each restores
// the other.
func (e Endpoint) AsPort() Port {
	ips := make([]string, len(e.IPs))
	for i, a := range e.IPs {
		ips[i] = a.String()
	}
	ids := map[string]string{
		KeyOwner: Owner, KeyRole: RoleEndpoint, KeyEndpoint: e.Name, KeyNetwork: e.Network,
		KeyNetns: e.Netns, KeyIfname: e.Ifname, KeyIPs: strings.Join(ips, ","), KeyMAC: e.MAC.String(),
	}
	allow := make([]string, len(e.Allow))
	for i, p := range e.Allow {
		allow[i] = p.String()
	}
	ids[KeyAllow] = strings.Join(allow, ",")
	kinds := make([]string, len(e.AllowTraffic))
	for i, t := range e.AllowTraffic {
		kinds[i] = string(t)
	}
	ids[KeyTraffic] = strings.Join(kinds, ",")
	for k, v := range e.Labels {
		ids[KeyLabel+k] = v
	}
	// OVSDB would keep an empty string, but a reader need not see it.
	maps.DeleteFunc(ids, func(_, v string) bool { return v == "" })
	return Port{Name: e.Port, ExternalIDs: ids}
}

// EndpointOf reads an endpoint back from its port's external_ids. The error
// names the port.
func EndpointOf(p Port) (Endpoint, error) {
	id := p.ExternalIDs
	e := Endpoint{Name: id[KeyEndpoint], Network: id[KeyNetwork], Netns: id[KeyNetns], Ifname: id[KeyIfname], Port: p.Name}
	bad := func(what string, args ...any) (Endpoint, error) {
		return Endpoint{}, &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.PortMalformed, Item: "port " + p.Name,
			What:   fmt.Sprintf(what, args...),
			Remedy: "remove it with 'ovs-vsctl del-port " + p.Name + "' and add the endpoint again",
		}
	}
	if e.Network == "" || e.Name == "" {
		return bad("its external_ids lack %s or %s", KeyNetwork, KeyEndpoint)
	}
	for k, v := range id {
		if label, ok := strings.CutPrefix(k, KeyLabel); ok {
			if e.Labels == nil {
				e.Labels = map[string]string{}
			}
			e.Labels[label] = v
		}
	}
	if s := id[KeyIPs]; s != "" {
		ips, err := parseIPs(s)
		if err != nil {
			return bad("%s=%q: %v", KeyIPs, s, err)
		}
		e.IPs = ips
	}
	if s := id[KeyMAC]; s != "" {
		m, err := topology.ParseMAC(s)
		if err != nil {
			return bad("%s: %v", KeyMAC, err)
		}
		e.MAC = m
	}
	if s := id[KeyAllow]; s != "" {
		allow, err := topology.ParseAllowed(KeyAllow, strings.Split(s, ","))
		if err != nil {
			return bad("%v", err)
		}
		e.Allow = allow
	}
	// A kind that this version does not know allows nothing here, and stays.
	if s := id[KeyTraffic]; s != "" {
		for _, t := range strings.Split(s, ",") {
			e.AllowTraffic = append(e.AllowTraffic, topology.Traffic(t))
		}
	}
	return e, nil
}

// parseIPs reads addresses with commas between them. A flow has none with a zone.
func parseIPs(s string) (ips []netip.Addr, err error) {
	for _, f := range strings.Split(s, ",") {
		a, err := netip.ParseAddr(f)
		if err != nil {
			return nil, err
		}
		if a.Zone() != "" {
			return nil, fmt.Errorf("%s: an address has no zone here", f)
		}
		ips = append(ips, a.Unmap())
	}
	return ips, nil
}

// Endpoints reads all endpoints of a bridge, by network and name, and reports
// the ports that cannot be read.
func (o Observed) Endpoints() ([]Endpoint, []fault.Fault) {
	var out []Endpoint
	var problems []fault.Fault
	var names []string
	for name, p := range o.Ports { // most are tunnels
		if p.Owned() && p.Role() == RoleEndpoint {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		p := o.Ports[name]
		e, err := EndpointOf(p.Port)
		if err != nil {
			problems = append(problems, fault.Of(err))
			continue
		}
		if o.Bridge != nil {
			e.Node = o.Bridge.ExternalIDs[KeyNode]
		}
		out = append(out, e)
	}
	slices.SortFunc(out, CompareEndpoints)
	return out, problems
}

// CompareEndpoints orders by network and name.
func CompareEndpoints(a, b Endpoint) int {
	if c := strings.Compare(a.Network, b.Network); c != 0 {
		return c
	}
	return topology.CompareNames(a.Name, b.Name)
}

// LinkLocal returns the IPv6 link-local address Linux forms from a MAC
// (modified EUI-64, RFC 4291 appendix A).
func LinkLocal(m net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}
