// Package kernelfake is a kernel in memory, as strict as the real one: it
// answers the same errors (EEXIST, ENODEV, ESRCH, ENETUNREACH, …), a route goes
// with its device, and what the kernel does by itself it does as well. Tests run
// the same histories on it and on kernel/linux.
package kernelfake

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/route"
)

// Protocols of routes that a fake makes by itself (rtnetlink(7)).
const protocolKernel = 2

// Host is a fake kernel. Its zero value has no devices.
type Host struct {
	mu         sync.Mutex
	links      map[string]kernel.Link
	addrs      []kernel.Address
	neighbours []kernel.Neighbour
	own        []route.Route
	foreign    []route.Foreign
	rules      []kernel.Rule
	sysctls    map[string]string
	nat        string
	tunnels    string
	drops      []string
	tables     []kernel.IPTables
	failing    map[kernel.Section]error
	lookupErr  error
	refuse     func(kernel.Step) error
	watchers   []*watcher
	// Log are all steps that were done, as commands, with the errors.
	log []string
}

type watcher struct {
	w     kernel.Watcher
	pacer *kernel.Pacer
}

var _ kernel.Host = (*Host)(nil)

// AddDevice makes a device that is up, as Open vSwitch or the machine does, and
// gives it addresses. The kernel adds their routes.
func (h *Host) AddDevice(name string, addrs ...netip.Prefix) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.links == nil {
		h.links = map[string]kernel.Link{}
	}
	if h.sysctls == nil {
		h.sysctls = map[string]string{
			"net/ipv4/ip_forward":             "0",
			"net/ipv6/conf/all/forwarding":    "0",
			"net/ipv4/conf/all/rp_filter":     "0",
			"net/ipv6/conf/default/accept_ra": "1",
		}
	}
	h.links[name] = kernel.Link{
		Name: name,
		MAC:  "02:00:00:00:00:01",
		MTU:  1500,
		Up:   !strings.HasPrefix(name, kernel.PortPrefix),
	}
	for _, s := range kernel.PortSysctls(name) {
		h.sysctls[s.Key] = "1"
	}
	for _, a := range addrs {
		h.addAddress(kernel.Address{Dev: name, Prefix: a})
	}
	h.changed(func(i kernel.Interest) bool { return i.Device(name) })
}

// RemoveDevice removes a device with its addresses, neighbours and routes.
func (h *Host) RemoveDevice(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.links, name)
	maps.DeleteFunc(h.sysctls, func(k, _ string) bool { return strings.Contains(k, "/conf/"+name+"/") })
	h.addrs = slices.DeleteFunc(h.addrs, func(a kernel.Address) bool { return a.Dev == name })
	h.neighbours = slices.DeleteFunc(h.neighbours, func(n kernel.Neighbour) bool { return n.Dev == name })
	h.own = slices.DeleteFunc(h.own, func(r route.Route) bool { return r.Dev == name })
	h.foreign = slices.DeleteFunc(h.foreign, func(f route.Foreign) bool { return f.Dev == name })
	h.changed(func(i kernel.Interest) bool { return i.Device(name) })
}

// AddForeign makes a route of somebody else's.
func (h *Host) AddForeign(f route.Foreign) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.checkRoute(f.Route); err != nil {
		return err
	}
	if h.taken(f.Route) {
		return syscall.EEXIST
	}
	h.foreign = append(h.foreign, f)
	h.changed(func(i kernel.Interest) bool { return i.Route(254, f.Protocol, f.Prefix) })
	return nil
}

// SetIPTables sets what iptables shows.
func (h *Host) SetIPTables(t ...kernel.IPTables) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tables = t
	h.changed(func(i kernel.Interest) bool { return i.Chain("filter", "FORWARD") })
}

// Fail makes sections unreadable; a nil error heals one.
func (h *Host) Fail(s kernel.Section, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failing == nil {
		h.failing = map[kernel.Section]error{}
	}
	if h.failing[s] = err; err == nil {
		delete(h.failing, s)
	}
}

// FailLookups makes all questions for ways fail; nil heals.
func (h *Host) FailLookups(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lookupErr = err
}

// Refuse sets what decides whether a step is refused, and how; nil: none is.
func (h *Host) Refuse(f func(kernel.Step) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = f
}

// Log returns the steps that were done as commands, refused ones with their
// errors, and forgets them.
func (h *Host) Log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.log
	h.log = nil
	return out
}

// Observe implements kernel.Host.
func (h *Host) Observe(ctx context.Context, q kernel.Query) (kernel.Observed, error) {
	if err := ctx.Err(); err != nil {
		return kernel.Observed{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o := kernel.Observed{
		Devices: map[string]bool{},
		Skipped: q.SkipFirewall,
		Failed:  maps.Clone(h.failing),
		Lookups: map[netip.Addr]kernel.Lookup{},
	}
	for _, name := range slices.Sorted(maps.Keys(h.links)) {
		o.Devices[name] = true
		if strings.HasPrefix(name, kernel.PortPrefix) {
			o.Links = append(o.Links, h.links[name])
		}
	}
	read := func(s kernel.Section, f func()) {
		if h.failing[s] == nil && !(q.SkipFirewall && (s == kernel.NFTables || s == kernel.Chains)) {
			f()
		}
	}
	read(kernel.Addresses, func() { o.Addresses = slices.Clone(h.addrs) })
	read(kernel.Neighbours, func() { o.Neighbours = slices.Clone(h.neighbours) })
	read(kernel.Routes, func() { o.Routes = route.Observed{Own: slices.Clone(h.own), Foreign: slices.Clone(h.foreign)} })
	read(kernel.Rules, func() { o.Rules = slices.Clone(h.rules) })
	read(kernel.Sysctls, func() {
		o.Sysctls = maps.Clone(h.sysctls)
		if !q.Forwards {
			maps.DeleteFunc(o.Sysctls, func(key, _ string) bool {
				dev := path.Base(path.Dir(key))
				return path.Base(key) == "accept_ra" && !strings.HasPrefix(dev, kernel.PortPrefix)
			})
		}
	})
	read(kernel.NFTables, func() { o.NAT, o.Tunnels, o.Drops = h.nat, h.tunnels, slices.Clone(h.drops) })
	read(kernel.Chains, func() { o.IPTables = slices.Clone(h.tables) })
	for _, r := range o.Routes.Own {
		q.Lookups = append(q.Lookups, r.Via)
	}
	for _, a := range q.Lookups {
		if a.IsValid() {
			o.Lookups[a] = kernel.Lookup{Dev: h.onLink(a), Err: h.lookupErr}
			if h.lookupErr != nil {
				o.Lookups[a] = kernel.Lookup{Err: h.lookupErr}
			}
		}
	}
	return o, nil
}

// Apply implements kernel.Host.
func (h *Host) Apply(ctx context.Context, c kernel.Change) error {
	return c.Do(ctx, func(_ context.Context, s kernel.Step) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		var err error
		if h.refuse != nil {
			err = h.refuse(s)
		}
		if err == nil {
			err = h.apply(s)
		}
		line := s.String()
		if err != nil {
			line += " # " + err.Error()
		}
		h.log = append(h.log, line)
		return err
	})
}

func (h *Host) apply(s kernel.Step) error {
	switch s := s.(type) {
	case kernel.SetSysctl:
		if _, there := h.sysctls[s.Key]; !there {
			return syscall.ENOENT
		}
		h.sysctls[s.Key] = s.Value
	case kernel.SetLink:
		return h.setLink(s.Link)
	case kernel.ChangeAddress:
		return h.changeAddress(s)
	case kernel.SetNeighbour:
		if _, there := h.links[s.Dev]; !there {
			return syscall.ENODEV
		}
		h.neighbours = slices.DeleteFunc(
			h.neighbours,
			func(n kernel.Neighbour) bool { return n.Dev == s.Dev && n.Addr == s.Addr },
		)
		h.neighbours = append(h.neighbours, s.Neighbour)
	case kernel.ChangeRoute:
		return h.changeRoute(s)
	case kernel.ChangeRule:
		return h.changeRule(s)
	case kernel.SetNAT:
		return h.setNAT(s)
	case kernel.SetTunnels:
		return h.setTunnels(s)
	case kernel.ChangeDrop:
		return h.changeDrop(s)
	case kernel.Restore:
		return h.restore(s)
	default:
		return fmt.Errorf("unknown step %T", s)
	}
	return nil
}

func (h *Host) setLink(want kernel.Link) error {
	l, there := h.links[want.Name]
	if !there {
		return syscall.ENODEV
	}
	if want.MAC != "" {
		l.MAC = want.MAC
		// As the kernel does, permanent ones included.
		h.neighbours = slices.DeleteFunc(h.neighbours, func(n kernel.Neighbour) bool { return n.Dev == want.Name })
	}
	if want.MTU != 0 {
		l.MTU = want.MTU
	}
	l.Up = l.Up || want.Up
	h.links[want.Name] = l
	return nil
}

func (h *Host) changeAddress(s kernel.ChangeAddress) error {
	if _, there := h.links[s.Dev]; !there {
		return syscall.ENODEV
	}
	i := slices.Index(h.addrs, s.Address)
	switch {
	case s.Verb == kernel.Add && i >= 0:
		return syscall.EEXIST
	case s.Verb == kernel.Add, s.Verb == kernel.Replace && i < 0:
		h.addAddress(s.Address)
	case s.Verb == kernel.Replace:
	case i < 0:
		return syscall.EADDRNOTAVAIL
	default:
		h.addrs = slices.Delete(h.addrs, i, i+1)
		a := s.Prefix.Addr()
		// The kernel removes IPv4 routes whose source address goes.
		h.own = slices.DeleteFunc(h.own, func(r route.Route) bool { return r.Src == a && a.Is4() })
		h.foreign = slices.DeleteFunc(h.foreign, func(f route.Foreign) bool {
			return f.Protocol == protocolKernel && f.Dev == s.Dev && f.Prefix == s.Prefix.Masked()
		})
	}
	return nil
}

func (h *Host) addAddress(a kernel.Address) {
	h.addrs = append(h.addrs, a)
	if !a.Prefix.IsSingleIP() {
		h.foreign = append(
			h.foreign,
			route.Foreign{Route: route.Route{Prefix: a.Prefix.Masked(), Dev: a.Dev}, Protocol: protocolKernel},
		)
	}
}

// onLink returns the device of the longest prefix, where it has no next hop.
func (h *Host) onLink(a netip.Addr) string {
	var best route.Route
	consider := func(r route.Route) {
		if r.Prefix.Contains(a) && (!best.Prefix.IsValid() || r.Prefix.Bits() > best.Prefix.Bits()) {
			best = r
		}
	}
	for _, f := range h.foreign {
		consider(f.Route)
	}
	for _, r := range h.own {
		consider(r)
	}
	if best.Via.IsValid() || best.Unreachable {
		return ""
	}
	return best.Dev
}

func (h *Host) checkRoute(r route.Route) error {
	if r.Unreachable {
		return nil
	}
	if l, there := h.links[r.Dev]; !there {
		return syscall.ENODEV
	} else if !l.Up {
		return syscall.ENETDOWN
	}
	if r.Via.IsValid() && !r.Via.IsLinkLocalUnicast() && h.onLink(r.Via) != r.Dev {
		return syscall.ENETUNREACH
	}
	if r.Src.IsValid() && !slices.ContainsFunc(h.addrs, func(a kernel.Address) bool { return a.Prefix.Addr() == r.Src }) {
		return syscall.EINVAL
	}
	return nil
}

// place is what the kernel tells routes of one table apart by.
func place(r route.Route) string { return fmt.Sprint(r.Prefix.Masked(), r.UsedMetric()) }

func (h *Host) taken(r route.Route) bool {
	return slices.ContainsFunc(h.own, func(x route.Route) bool { return place(x) == place(r) }) ||
		slices.ContainsFunc(h.foreign, func(f route.Foreign) bool { return place(f.Route) == place(r) })
}

func (h *Host) changeRoute(s kernel.ChangeRoute) error {
	i := slices.IndexFunc(h.own, func(x route.Route) bool { return place(x) == place(s.Route) })
	if s.Verb == kernel.Delete {
		if i < 0 {
			return syscall.ESRCH
		}
		h.own = slices.Delete(h.own, i, i+1)
		return nil
	}
	if err := h.checkRoute(s.Route); err != nil {
		return err
	}
	switch {
	case s.Verb == kernel.Replace && i >= 0:
		h.own[i] = s.Route
		return nil
	case h.taken(s.Route):
		return syscall.EEXIST
	}
	h.own = append(h.own, s.Route)
	return nil
}

func (h *Host) changeRule(s kernel.ChangeRule) error {
	i := slices.Index(h.rules, s.Rule)
	switch {
	case s.Verb == kernel.Add && i >= 0:
		return syscall.EEXIST
	case s.Verb == kernel.Add:
		h.rules = append(h.rules, s.Rule)
	case i < 0:
		return syscall.ENOENT
	default:
		h.rules = slices.Delete(h.rules, i, i+1)
	}
	return nil
}

func (h *Host) setNAT(s kernel.SetNAT) error {
	if len(s.Rules) == 0 && h.nat == "" {
		return syscall.ENOENT
	}
	lines := make([]string, len(s.Rules))
	for i, r := range s.Rules {
		lines[i] = r.String()
	}
	h.nat = kernel.NATTable(lines)
	return nil
}

func (h *Host) setTunnels(s kernel.SetTunnels) error {
	if len(s.Ports) == 0 && h.tunnels == "" {
		return syscall.ENOENT
	}
	lines := make([]string, len(s.Ports))
	for i, p := range s.Ports {
		lines[i] = p.String()
	}
	h.tunnels = kernel.TunnelTableText(lines)
	return nil
}

func (h *Host) changeDrop(s kernel.ChangeDrop) error {
	_, there := h.links[s.Dev]
	i := slices.Index(h.drops, s.Dev)
	switch {
	case s.Verb == kernel.Delete && i < 0:
		return syscall.ENOENT
	case s.Verb == kernel.Delete:
		h.drops = slices.Delete(h.drops, i, i+1)
	case !there:
		return syscall.ENOENT
	case i < 0:
		h.drops = append(h.drops, s.Dev)
		slices.Sort(h.drops)
	}
	return nil
}

// restore does what iptables-restore --noflush does with a chain's change.
func (h *Host) restore(s kernel.Restore) error {
	i := slices.IndexFunc(h.tables, func(t kernel.IPTables) bool { return t.Tool == s.Tool })
	if i < 0 {
		return syscall.ENOENT
	}
	have := &h.tables[i].Filter
	if s.Chain.Table == kernel.MasqChain.Table {
		have = &h.tables[i].NAT
	}
	lines, err := restored(strings.Split(strings.TrimSuffix(*have, "\n"), "\n"), s)
	if err == nil {
		*have = strings.Join(lines, "\n") + "\n"
	}
	return err
}

func restored(lines []string, s kernel.Restore) ([]string, error) {
	chain := s.Chain.Name
	lines = slices.DeleteFunc(
		lines,
		func(l string) bool { return strings.HasPrefix(l, "-A "+chain+" ") || l == "-N "+chain },
	)
	lines = append(lines, "-N "+chain) // ":CHAIN -" makes or flushes it
	for line := range strings.Lines(s.Input) {
		w := strings.Fields(line)
		switch w[0] {
		case "-A":
			lines = append(lines, strings.TrimSpace(line))
		case "-D":
			i := slices.Index(lines, "-A "+strings.Join(w[1:], " "))
			if i < 0 {
				return nil, syscall.ENOENT
			}
			lines = slices.Delete(lines, i, i+1)
		case "-X":
			lines = slices.DeleteFunc(lines, func(l string) bool { return l == "-N "+chain })
		case "-I":
			lines = insert(lines, w)
		}
	}
	return lines, nil
}

// insert does "-I CHAIN NUMBER RULE".
func insert(lines []string, w []string) []string {
	rule, number := "-A "+w[1]+" "+strings.Join(w[3:], " "), 0
	for i, l := range lines {
		if strings.HasPrefix(l, "-A "+w[1]+" ") {
			if number++; fmt.Sprint(number) == w[2] {
				return slices.Insert(lines, i, rule)
			}
		}
	}
	return append(lines, rule)
}

// Forget implements kernel.Host: it is logged.
func (h *Host) Forget(_ context.Context, addrs []netip.Addr) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range addrs {
		h.log = append(h.log, "conntrack -D "+a.String())
	}
	return len(addrs), nil
}

// Watch implements kernel.Host.
func (h *Host) Watch(ctx context.Context, w kernel.Watcher) error {
	x := &watcher{w, kernel.NewPacer()}
	h.mu.Lock()
	h.watchers = append(h.watchers, x)
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watchers = slices.DeleteFunc(h.watchers, func(y *watcher) bool { return x == y })
	}()
	return x.pacer.Run(ctx, w.Fire)
}

// changed wakes who cares. h.mu is held.
func (h *Host) changed(matters func(kernel.Interest) bool) {
	for _, x := range h.watchers {
		i := kernel.Interest{All: true}
		if x.w.Interest != nil {
			i = x.w.Interest()
		}
		if matters(i) {
			x.pacer.Wake()
		}
	}
}
