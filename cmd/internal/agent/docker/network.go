package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
)

// Options of 'docker network create -o'. An MTU may also be given as
// com.docker.network.driver.mtu, as for Docker's own drivers.
const (
	optionPrefix    = "baize."
	OptionNetwork   = "baize.network"   // the network's name in Baize
	OptionTransport = "baize.transport" // of topology.Transports
	OptionVNI       = "baize.vni"
	OptionMTU       = "baize.mtu"
	// OptionGateway is "docker" (Docker's own way out, docker_gwbridge, where
	// -p works; the default) or "network" (the network's gateway).
	OptionGateway = "baize.gateway"
	// OptionAllow are prefixes that containers may send from beside their own
	// addresses, and kinds of traffic (topology.Traffics), separated by commas. It is
	// also an option of one endpoint (driver-opt).
	OptionAllow = "baize.allow"
	// OptionBUM is how many broadcast, multicast and unknown unicast frames a second
	// a container may send, or off.
	OptionBUM = "baize.bum"
)

// keyEncrypted is the option by which Docker's overlay driver encrypts a network, whatever
// its value.
const keyEncrypted = "encrypted"

const (
	gatewayDocker  = "docker"
	gatewayNetwork = "network"
)

// network is what is kept of a network of the engine.
type network struct {
	// Network is its name in Baize.
	Network string `json:"network"`
	// Pools are its prefixes as the engine has them.
	Pools []netip.Prefix `json:"pools"`
	// Aux are addresses that people keep for something of their own.
	Aux []netip.Addr `json:"aux,omitempty"`
	// Internal networks have no way out.
	Internal bool `json:"internal,omitempty"`
	// Gateway is that of OptionGateway.
	Gateway string `json:"gateway,omitempty"`
	// Allow and Traffic are those of OptionAllow.
	Allow   []netip.Prefix     `json:"allow,omitempty"`
	Traffic []topology.Traffic `json:"traffic,omitempty"`
	// Unnamed: its pools' IDs do not name it (no --ipam-opt).
	Unnamed bool `json:"unnamed,omitempty"`

	since time.Time // when the engine created it, if this agent saw it
}

// wanted is what a network is to be: zero values are left open.
type wanted struct {
	topology.Network
	network
	// gateways are those the engine names, one a prefix.
	gateways []netip.Addr
}

// knownOptions are the options of ours, as messages list them.
var knownOptions = []string{OptionNetwork, OptionTransport, OptionVNI, OptionMTU, OptionGateway, OptionAllow, OptionBUM}

func invalid(item, remedy, what string, args ...any) error {
	return &topology.Error{Kind: topology.ErrInvalid, Item: item, What: fmt.Sprintf(what, args...), Remedy: remedy}
}

// parseNetwork reads what the engine says of a network to be created.
func parseNetwork(r networkCreation) (wanted, error) {
	var w wanted
	opts, err := generic(r.Options)
	if err != nil {
		return w, err
	}
	if unknown := unknownOptions(opts, knownOptions...); len(unknown) > 0 {
		return w, invalid("option "+unknown[0], "known are "+strings.Join(knownOptions, ", "), "there is none of that name")
	}
	for _, d := range slices.Concat(r.IPv4Data, r.IPv6Data) {
		if err := w.addPool(d); err != nil {
			return w, err
		}
	}
	slices.SortFunc(w.Aux, netip.Addr.Compare)
	w.Internal, _ = r.Options[keyInternal].(bool)
	err = w.setOptions(opts)
	return w, err
}

// addPool takes a prefix of the network.
func (w *wanted) addPool(d ipamData) error {
	pool, err := netip.ParsePrefix(d.Pool)
	if err != nil {
		return invalid("subnet "+d.Pool, "", "%v", err)
	}
	if d.AddressSpace != addressSpace {
		return invalid(
			"subnet "+d.Pool,
			"add '--ipam-driver "+DriverName+"' (in a compose file 'ipam: driver: "+DriverName+"')",
			"another driver gives its addresses, and would give the same ones on every host",
		)
	}
	f := topology.FamilyOf(pool.Addr())
	if w.Prefix(f).IsValid() {
		return invalid("subnet "+d.Pool, "create a second network for it",
			"a network of Baize has one %s prefix, and %s is given too", f, w.Prefix(f))
	}
	if f == topology.IPv6 {
		w.IPv6 = pool
	} else {
		w.IPv4 = pool
	}
	w.Pools = append(w.Pools, pool)
	if err := w.setGateway(d, f); err != nil {
		return err
	}
	for name, aux := range d.AuxAddresses {
		a, err := parseAddr(aux)
		if err != nil {
			return invalid("--aux-address "+name, "", "%v", err)
		}
		w.Aux = append(w.Aux, a)
	}
	return nil
}

// setGateway takes the gateway of a prefix. The engine always names one: the address
// that Plugin.gateway proposes says nothing, unless the network's gateway is asked for
// (setOptions).
func (w *wanted) setGateway(d ipamData, f topology.Family) error {
	if d.Gateway == "" {
		return nil
	}
	a, err := parseAddr(d.Gateway)
	if err != nil {
		return invalid("gateway "+d.Gateway, "", "%v", err)
	}
	w.gateways = append(w.gateways, a)
	if a == proposedGateway(w.Prefix(f)) {
		return nil
	}
	w.takeGateway(a)
	return nil
}

func (w *wanted) takeGateway(a netip.Addr) {
	if topology.FamilyOf(a) == topology.IPv6 {
		w.GatewayIPv6 = a
	} else {
		w.GatewayIPv4 = a
	}
}

// setOptions takes what was given with -o.
func (w *wanted) setOptions(opts map[string]string) error {
	w.network.Network, w.Name = opts[OptionNetwork], opts[OptionNetwork]
	if w.Name != "" {
		if err := topology.CheckName("network", w.Name); err != nil {
			return err
		}
	}
	if t := topology.Transport(opts[OptionTransport]); t != "" {
		if !t.Valid() {
			return invalid(
				"option "+OptionTransport,
				fmt.Sprintf("use one of %v", topology.Transports()),
				"transport %q is unknown",
				t,
			)
		}
		w.Transport = t
	}
	if s := opts[OptionVNI]; s != "" {
		n, err := strconv.ParseUint(s, 10, 24)
		if err != nil || n == 0 {
			return invalid("option "+OptionVNI, fmt.Sprintf("use 1 to %d", topology.MaxVNI), "%q is no VNI", s)
		}
		w.VNI = uint32(n)
	}
	switch w.network.Gateway = opts[OptionGateway]; w.network.Gateway {
	case "", gatewayDocker:
	case gatewayNetwork:
		for _, a := range w.gateways {
			w.takeGateway(a)
		}
	default:
		return invalid(
			"option "+OptionGateway,
			"use "+gatewayDocker+" or "+gatewayNetwork,
			"%q is unknown",
			w.network.Gateway,
		)
	}
	may, err := parseAllow(opts[OptionAllow])
	if err != nil {
		return err
	}
	w.Allow, w.Traffic = may.Prefixes, may.Traffic
	if s := opts[OptionBUM]; s != "" {
		if w.BUM, err = topology.ParseBUM("option "+OptionBUM, s); err != nil {
			return err
		}
	}
	return w.setMTU(opts)
}

// parseAllow reads a list of prefixes and kinds of traffic; an empty one has none.
func parseAllow(list string) (topology.Allowance, error) {
	if list == "" {
		return topology.Allowance{}, nil
	}
	return topology.ParseAllowance("option "+OptionAllow, strings.Split(list, ","))
}

// setMTU takes the MTU by either of its two names.
func (w *wanted) setMTU(opts map[string]string) error {
	for _, key := range []string{OptionMTU, keyMTU} {
		s := opts[key]
		if s == "" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return invalid("option "+key, "give bytes, such as 1450", "%q is no MTU", s)
		}
		if w.MTU != 0 && w.MTU != int(n) {
			return invalid("option "+key, "give one of the two", "it says %d, %s says %d", n, OptionMTU, w.MTU)
		}
		w.MTU = int(n)
	}
	return nil
}

// parseAddr reads an address with or without a mask.
func parseAddr(s string) (netip.Addr, error) {
	host, _, _ := strings.Cut(s, "/")
	a, err := netip.ParseAddr(host)
	return a.Unmap(), err
}

// choose finds the network of Baize that is meant where none is named: the one
// with these prefixes. Where there is none it makes up a name, the same on
// every engine.
func (w *wanted) choose(all []topology.Network) error {
	if w.Name != "" {
		return nil
	}
	var found []string
	for _, n := range all {
		if len(w.differences(n)) == 0 {
			found = append(found, n.Name)
		}
	}
	switch len(found) {
	case 0:
		w.Name = topology.DockerNetworks + strings.NewReplacer("/", "-", ":", "-").
			Replace(strings.ReplaceAll(w.Pools[0].String(), "::", ""))
	case 1:
		w.Name = found[0]
	default:
		return &topology.Error{
			Kind: topology.ErrConflict, Item: "subnet " + w.Pools[0].String(),
			What:   "several networks of Baize have it: " + strings.Join(found, ", "),
			Remedy: "name one with '-o " + OptionNetwork + "=NAME --ipam-opt " + OptionNetwork + "=NAME'",
		}
	}
	w.network.Network = w.Name
	return nil
}

// differences lists in what a network is not as wanted, both values named.
func (w *wanted) differences(n topology.Network) []string {
	var out []string
	differ := func(what string, want, have any) {
		out = append(out, fmt.Sprintf("%s: Docker asks for %v, it has %v", what, want, have))
	}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		want, have := w.Prefix(f), n.Prefix(f)
		switch {
		case !want.IsValid() || want == have:
		case !have.IsValid():
			differ("subnet", want, fmt.Sprintf("no %s prefix", f))
		default:
			differ("subnet", want, have)
		}
	}
	if w.VNI != 0 && w.VNI != n.VNI {
		differ("VNI", w.VNI, n.VNI)
	}
	if w.Transport != "" && w.Transport != n.Transport {
		differ("transport", w.Transport, n.Transport)
	}
	if w.MTU != 0 && w.MTU != n.MTU {
		differ("MTU", w.MTU, n.MTU)
	}
	if w.BUM != 0 && w.BUMRate() != n.BUMRate() {
		differ(OptionBUM, w.BUMRate(), n.BUMRate())
	}
	w.gatewayDifferences(n, differ)
	return out
}

func (w *wanted) gatewayDifferences(n topology.Network, differ func(what string, want, have any)) {
	for _, f := range w.Families() {
		want := w.Network.Gateway(f)
		if have := n.Gateway(f); want.IsValid() && want != proposedGateway(w.Prefix(f)) && want != have {
			differ("gateway", want, gatewayText(have))
		}
	}
	if w.network.Gateway == gatewayNetwork && !n.GatewayIPv4.IsValid() && !n.GatewayIPv6.IsValid() {
		differ("gateway", "the network's", "none")
	}
}

func gatewayText(a netip.Addr) any {
	if !a.IsValid() {
		return "none"
	}
	return a
}

// accept refuses a network that contradicts what the engine asks for.
func (w *wanted) accept(n topology.Network) error {
	if d := w.differences(n); len(d) > 0 {
		return &topology.Error{
			Kind: topology.ErrConflict, Item: "network " + n.Name, What: strings.Join(d, "; "),
			Remedy: "'baize network show " + n.Name + "' shows it; leave out what is set already, or choose another name " +
				"with -o " + OptionNetwork,
		}
	}
	return nil
}

// families are those of the network's pools.
func (n network) families() []topology.Family {
	var out []topology.Family
	for _, p := range n.Pools {
		out = append(out, topology.FamilyOf(p.Addr()))
	}
	return out
}

func (p *Plugin) createNetwork(ctx context.Context, r networkCreation) error {
	w, err := parseNetwork(r)
	if err != nil {
		return err
	}
	opts, _ := generic(r.Options) // parsed already
	if _, asked := opts[keyEncrypted]; asked {
		return invalid("option "+keyEncrypted,
			"leave it out where the underlay is trusted, or encrypt there (docs/security.md, \"What is not protected\")",
			"Baize encrypts nothing, and a network that only seems to be encrypted is worse than none")
	}
	if len(w.Pools) == 0 {
		return &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   "network",
			What:   "it has no subnet",
			Remedy: "give one with --subnet",
		}
	}
	if err := p.claimPools(&w); err != nil {
		return err
	}
	all, err := p.node.Networks(ctx)
	if err != nil {
		return err
	}
	if err := w.choose(all); err != nil {
		return err
	}
	if err := p.checkUnnamed(w.network); err != nil {
		return err
	}
	forget := p.remember(r.NetworkID, w.network)
	create := w.Network
	create.CreatedBy = topology.CreatedByDocker
	n, err := p.node.EnsureNetwork(ctx, create, w.families(), w.accept)
	if err != nil {
		forget()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.save(); err != nil {
		delete(p.networks, r.NetworkID)
		p.tellUsed()
		return err
	}
	p.log.Infof("Docker network %.12s is network %s (VNI %d, MTU %d)", r.NetworkID, n.Name, n.VNI, n.MTU)
	return nil
}

// remember makes a network one that the node needs, before it is leased in: what was
// leased for it is given back where forget is called.
func (p *Plugin) remember(id string, n network) (forget func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, known := p.networks[id] // by a request that is repeated
	n.since = time.Now()
	p.networks[id] = n
	p.tellUsed()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.networks, id)
		if known {
			p.networks[id] = before
		}
		if err := p.save(); err != nil {
			p.log.Warn(err)
		}
	}
}

// claimPools takes what --ipam-opt said about a network's pools.
func (p *Plugin) claimPools(w *wanted) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Unnamed = true
	for _, prefix := range w.Pools {
		i := slices.IndexFunc(p.pools, func(q pool) bool { return q.Prefix == prefix })
		if i < 0 {
			continue // asked for long ago, of another agent
		}
		name := p.pools[i].Network
		p.pools = slices.Delete(p.pools, i, i+1)
		if name == "" {
			continue
		}
		if w.Name != "" && w.Name != name {
			return &topology.Error{
				Kind: topology.ErrInvalid, Item: "network",
				What:   fmt.Sprintf("-o %s=%s contradicts --ipam-opt %s=%s", OptionNetwork, w.Name, OptionNetwork, name),
				Remedy: "name the same network twice, or leave one out",
			}
		}
		w.Name, w.network.Network, w.Unnamed = name, name, false
	}
	return nil
}

// checkUnnamed refuses a second network of Baize with the same pool where the
// pool's ID would not tell which is meant.
func (p *Plugin) checkUnnamed(n network) error {
	if !n.Unnamed {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.networks {
		if !o.Unnamed || o.Network == n.Network {
			continue
		}
		for _, prefix := range n.Pools {
			if slices.Contains(o.Pools, prefix) {
				return &topology.Error{
					Kind: topology.ErrConflict, Item: "subnet " + prefix.String(),
					What:   "network " + o.Network + " has it on this engine already",
					Remedy: "add '--ipam-opt " + OptionNetwork + "=" + n.Network + "', which tells their addresses apart",
				}
			}
		}
	}
	return nil
}

// deleteNetwork forgets the engine's network. The node then gives its subnets back;
// that of Baize goes with the last node's, if it was created for Docker.
func (p *Plugin) deleteNetwork(ctx context.Context, r networkDeletion) error {
	for _, e := range p.ours(LabelNetwork, r.NetworkID) {
		if err := p.node.Detach(ctx, e); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.networks[r.NetworkID]; !ok {
		return nil
	}
	delete(p.networks, r.NetworkID)
	return p.save()
}

// network finds a network of the engine, and asks the engine where it is not
// known here.
func (p *Plugin) network(ctx context.Context, id string) (network, error) {
	p.mu.Lock()
	n, ok := p.networks[id]
	p.mu.Unlock()
	if ok {
		return n, nil
	}
	known, err := p.engine.networks(ctx)
	if err == nil {
		err = p.adopt(ctx, known)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n, ok := p.networks[id]; ok {
		return n, nil
	}
	e := &topology.Error{
		Kind:   topology.ErrNotFound,
		Item:   fmt.Sprintf("Docker network %.12s", id),
		What:   "this agent does not know it",
		Remedy: "remove the network and create it again",
	}
	if err != nil {
		e.What += ", and the engine cannot be asked: " + err.Error()
	}
	return network{}, e
}
