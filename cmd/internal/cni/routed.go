package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/plugin"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/topology"
)

// With subnetFile the host routes to its containers, as Kubernetes needs it for the first
// interface of pods: a Service's address is translated by the pod's own node, which has to
// see the answer as well. The agent has a part in it only as the one who writes the file,
// and who takes packets to other nodes and from them: containers start and end without it,
// but for those that have further interfaces: see podnetworks.go.

// hostLocal is the ipam plugin that has the addresses of the subnet where no other is
// configured.
const hostLocal = "host-local"

// routedIfname is the name of the host end.
func (c *config) routedIfname(args *skel.CmdArgs) string {
	return hostnet.RoutedIfname(c.alias(args.ContainerID, args.IfName))
}

// alias says whose a host end is.
func (c *config) alias(container, ifname string) string {
	return strings.Join([]string{"cni", c.Name, container, ifname}, " ")
}

// ipamConfig gives an ipam plugin its configuration. Without one of its own that is
// host-local with the subnets of env.
func (c *config) ipamConfig(stdin []byte, subnets []netip.Prefix) (plugin string, conf []byte, err error) {
	if c.IPAM.Type != "" {
		return c.IPAM.Type, stdin, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &all); err != nil {
		return "", nil, err
	}
	type ranged struct {
		Subnet netip.Prefix `json:"subnet"`
	}
	if err := c.wantBy(all); err != nil {
		return "", nil, err
	}
	var ranges [][]ranged
	for _, p := range subnets {
		ranges = append(ranges, []ranged{{p}})
	}
	if all["ipam"], err = json.Marshal(map[string]any{"type": hostLocal, "ranges": ranges}); err != nil {
		return "", nil, err
	}
	conf, err = json.Marshal(all)
	return hostLocal, conf, err
}

// wantBy leaves one of the ways in which a runtime may want addresses, the capability:
// host-local would take the sum of them.
func (c *config) wantBy(all map[string]json.RawMessage) error {
	ips, err := c.wanted()
	if err != nil || len(ips) == 0 {
		return err
	}
	runtime := map[string]json.RawMessage{}
	if all["runtimeConfig"] != nil {
		if err := json.Unmarshal(all["runtimeConfig"], &runtime); err != nil {
			return err
		}
	}
	if runtime["ips"], err = json.Marshal(ips); err != nil {
		return err
	}
	delete(all, "args")
	if all["runtimeConfig"], err = json.Marshal(runtime); err != nil {
		return err
	}
	return os.Setenv("CNI_ARGS", "") // plugins that are delegated to have this process' environment
}

// subnets are those of the file.
func subnets(e subnetenv.Env) (out []netip.Prefix) {
	for _, p := range []netip.Prefix{e.Subnet, e.IPv6Subnet} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// readSubnets reads the file. Without it the network is not there yet, or not any more.
func (c *config) readSubnets() (subnetenv.Env, error) {
	e, err := subnetenv.Read(c.SubnetFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e, types.NewError(types.ErrTryAgainLater, c.SubnetFile+" is not there: this node has no subnet yet",
			"'baize agent --kube-subnet-mgr' or '--flannel' writes it; 'baize status' says what is missing")
	case err != nil:
		return e, types.NewError(types.ErrInvalidNetworkConfig, "the subnet file cannot be used", err.Error())
	}
	return e, nil
}

// turns has the calls for one container come after each other.
var turns = plugin.Turns{Dir: plugin.TurnsDir}

// addRouted is ADD.
func (c *config) addRouted(ctx context.Context, args *skel.CmdArgs, before *current.Result) error {
	return turns.Add(c.routedIfname(args), func() error { return c.attachRouted(ctx, args, before) })
}

// attachRouted makes the pod's first interface, then those by its annotation.
func (c *config) attachRouted(ctx context.Context, args *skel.CmdArgs, before *current.Result) (err error) {
	further, err := c.podRequests(args)
	if err != nil {
		return err
	}
	result, undo, err := c.attachFirst(ctx, args, before)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	if err := c.addPodNetworks(ctx, further); err != nil {
		return err
	}
	if err := types.PrintResult(result, c.CNIVersion); err != nil {
		c.undoPodNetworks(ctx, further)
		return err
	}
	return nil
}

// attachFirst makes the interface that the host routes to. Where it fails nothing is left;
// undo takes it back.
func (c *config) attachFirst(
	ctx context.Context, args *skel.CmdArgs, before *current.Result,
) (result *current.Result, undo func(), err error) {
	env, err := c.readSubnets()
	if err != nil {
		return nil, nil, err
	}
	ipam, conf, err := c.ipamConfig(args.StdinData, subnets(env))
	if err != nil {
		return nil, nil, err
	}
	// Before addresses are assigned: taking them back again would take those of the one
	// that is there.
	if err := checkFree(args); err != nil {
		return nil, nil, err
	}
	limited, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	assigned, err := assign(limited, ipam, conf)
	if err != nil {
		return nil, nil, err
	}
	host := c.routedIfname(args)
	undo = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if e := errors.Join(hostnet.Detach(ctx, host), invoke.DelegateDel(ctx, ipam, conf, nil)); e != nil {
			fmt.Fprintln(os.Stderr, "baize-cni: undoing ADD:", e)
		}
	}
	if result, err = c.makeFirst(limited, args, before, env.MTU, assigned); err != nil {
		undo()
	}
	return result, undo, err
}

// makeFirst makes the interface with the addresses that were assigned.
func (c *config) makeFirst(
	ctx context.Context, args *skel.CmdArgs, before *current.Result, mtu int, assigned assignment,
) (*current.Result, error) {
	for i, r := range assigned.routes { // nobody else is on the link
		assigned.routes[i].Gateway = topology.RouterAddr(topology.FamilyOf(r.Dst.Addr()))
	}
	mac, err := c.routedMAC(assigned.addrs)
	if err != nil {
		return nil, err
	}
	host := c.routedIfname(args)
	err = hostnet.AttachRouted(ctx, hostnet.RoutedSpec{
		Netns: args.Netns, Ifname: args.IfName, HostIfname: host, MAC: mac, Addrs: assigned.addrs, MTU: mtu,
		Alias: c.alias(args.ContainerID, args.IfName),
	})
	if err != nil {
		return nil, err
	}
	return c.finish(args, host, assigned, before)
}

// checkFree makes sure that the container has no interface of the name.
func checkFree(args *skel.CmdArgs) error {
	_, err := hostnet.Inspect(args.Netns, args.IfName)
	switch {
	case errors.Is(err, topology.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return &topology.Error{
		Kind: topology.ErrExists, Item: fmt.Sprintf("interface %s in network namespace %s", args.IfName, args.Netns),
		What: "the name is taken", Remedy: "remove it first: DEL does, where this plugin has made it",
	}
}

// routedMAC is the container's link address: what the runtime wants, or the one that
// follows from its first address.
func (c *config) routedMAC(addrs []netip.Addr) (net.HardwareAddr, error) {
	want := c.wantedMAC()
	if want == "" {
		return topology.MACOf(addrs[0]), nil
	}
	mac, err := topology.ParseMAC(want)
	if err != nil {
		return nil, invalidConfig("the link address "+want, err.Error())
	}
	return mac, nil
}

// delRouted is DEL. Addresses are given back by the container, whatever the subnets are.
func (c *config) delRouted(ctx context.Context, args *skel.CmdArgs) error {
	ipam, conf, err := c.ipamConfig(args.StdinData, c.someSubnets())
	if err != nil {
		return err
	}
	host := c.routedIfname(args)
	return turns.Remove(host, func() error {
		return errors.Join(c.delPodNetworks(ctx, args),
			errorOf(hostnet.Detach(ctx, host)), errorOf(invoke.DelegateDel(ctx, ipam, conf, nil)))
	})
}

// someSubnets are those of the file; where it cannot be read, one that is nobody's (RFC
// 5737): host-local wants to have one, and gives addresses back by the container's name.
func (c *config) someSubnets() []netip.Prefix {
	if env, err := subnetenv.Read(c.SubnetFile); err == nil {
		return subnets(env)
	}
	return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
}

// checkRouted is what CHECK compares on the host.
func (c *config) checkRouted(ctx context.Context, args *skel.CmdArgs, result *current.Result) error {
	ipam, conf, err := c.ipamConfig(args.StdinData, c.someSubnets())
	if err != nil {
		return err
	}
	if err := invoke.DelegateCheck(ctx, ipam, conf, nil); err != nil {
		return err
	}
	var addrs []netip.Addr
	for i, ip := range result.IPs {
		if p, ok := prefixOf(ip.Address); ok && mine(result, i, args) {
			addrs = append(addrs, p.Addr())
		}
	}
	if err := hostnet.CheckRouted(c.routedIfname(args), addrs); err != nil {
		return broken("%v", err)
	}
	return c.checkPodNetworks(ctx, args)
}

// mine says that an address of a result is this attachment's.
func mine(r *current.Result, ip int, args *skel.CmdArgs) bool {
	i := r.IPs[ip].Interface
	return i != nil && *i >= 0 && *i < len(r.Interfaces) && r.Interfaces[*i].Name == args.IfName &&
		r.Interfaces[*i].Sandbox == args.Netns
}

// gcRouted is GC: a host end says whose it is.
func (c *config) gcRouted(ctx context.Context, args *skel.CmdArgs) error {
	ipam, conf, err := c.ipamConfig(args.StdinData, c.someSubnets())
	if err != nil {
		return err
	}
	var valid []string
	containers := map[string]bool{}
	for _, v := range c.ValidAttachments {
		valid = append(valid, c.alias(v.ContainerID, v.IfName))
		containers[v.ContainerID] = true
	}
	ends, err := hostnet.Routed()
	errs := []error{errorOf(err)}
	for name, alias := range ends {
		if strings.HasPrefix(alias, "cni "+c.Name+" ") && !slices.Contains(valid, alias) {
			errs = append(errs, errorOf(hostnet.Detach(ctx, name)))
		}
	}
	errs = append(errs, c.removeEndpoints(ctx, func(container string) bool { return !containers[container] }))
	return errors.Join(append(errs, invoke.DelegateGC(ctx, ipam, conf, nil))...)
}

// statusRouted is STATUS.
func (c *config) statusRouted(ctx context.Context, args *skel.CmdArgs) error {
	env, err := c.readSubnets()
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "nothing can be attached", err.Error())
	}
	ipam, conf, err := c.ipamConfig(args.StdinData, subnets(env))
	if err != nil {
		return err
	}
	return invoke.DelegateStatus(ctx, ipam, conf, nil)
}
