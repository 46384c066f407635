package gather

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology/fault"
)

// Preflight gathers what is looked at before an agent is installed. vtep is what the
// agent would be given, etcd are addresses of etcd.
func Preflight(ctx context.Context, cfg Config, vtep string, etcd []netip.Addr) (doctor.Facts, error) {
	g := gatherer{cfg: cfg}
	err := g.gather(ctx)
	f := &g.facts
	if err != nil {
		return *f, err
	}
	f.Node = cfg.Node // also where an agent runs here under another name
	p := &doctor.Preflight{Root: os.Geteuid() == 0}
	f.Preflight = p
	for _, program := range []string{"ovs-vsctl", "ovs-vswitchd", "ovs-ofctl"} {
		if _, err := exec.LookPath(program); err != nil {
			p.Missing = append(p.Missing, program)
		}
	}
	has, err := hostnet.Datapath()
	if p.Kernel = has; err != nil {
		p.NoKernel = fault.Of(err).What
	}
	u, err := hostnet.VTEP(vtep, etcd)
	if err != nil {
		p.NoVTEP = fault.Of(err).What
	} else {
		p.Device, p.VTEPs, p.MTU = u.Interface, u.Addrs, u.MTU
	}
	f.Underlay.VXLANPort, f.Underlay.GenevePort = cfg.VXLANPort, cfg.GenevePort
	f.Underlay.Takers = g.takers()
	p.Neighbours = neighbouring(g.devices)
	if snap := g.snap; snap != nil {
		id, _ := os.ReadFile(filepath.Join(cfg.StateDir, "node-id"))
		if n, there := snap.Nodes[cfg.Node]; there && n.ID != strings.TrimSpace(string(id)) {
			p.Owner = n.Hostname
		}
		for _, n := range snap.SortedNetworks() {
			for _, prefix := range n.Prefixes() {
				p.Overlaps = append(p.Overlaps, overlaps(n.Name, prefix)...)
			}
		}
	}
	return *f, nil
}

// neighbouring are signs of other programs that make networks for containers.
func neighbouring(devices []hostnet.Interface) []string {
	var out []string
	for name, what := range map[string]string{
		"docker0": "Docker", "cni0": "a CNI bridge", "weave": "Weave Net", "ovn0": "OVN",
	} {
		for _, d := range devices {
			if d.Name == name {
				out = append(out, what+" ("+name+")")
			}
		}
	}
	for _, d := range devices {
		if d.Kind == "vxlan" && !strings.HasPrefix(d.Name, "vxlan_sys_") {
			out = append(out, "a VXLAN device ("+d.Name+")")
		}
	}
	if files, _ := filepath.Glob("/etc/cni/net.d/*.conf*"); len(files) > 0 {
		out = append(out, "CNI ("+files[0]+")")
	}
	return out
}

// overlaps are the routes of this host to addresses of a network, but for the default
// route and those of Baize's own devices.
func overlaps(network string, prefix netip.Prefix) []doctor.Overlap {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	var out []doctor.Overlap
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		to := netip.PrefixFrom(a.Unmap(), ones)
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if !ok || ones == 0 || !to.Overlaps(prefix) || err != nil {
			continue
		}
		if name := l.Attrs().Name; !strings.HasPrefix(name, "bn-") && name != "docker0" {
			out = append(out, doctor.Overlap{Network: network, Prefix: prefix, Route: to, Dev: name})
		}
	}
	return out
}
