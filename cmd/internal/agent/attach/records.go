package attach

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// recordsFile, in the state directory, has the endpoints, those on their way and
// the addresses that are promised.
const recordsFile = "endpoints.json"

// reservedFor is how long an address stays taken that was asked for and never
// given back nor used: its engine died in between.
const reservedFor = 5 * time.Minute

// Known are the endpoints of the node at a moment. It is immutable.
type Known struct {
	// Endpoints are those that are to have a port, by port.
	Endpoints []ovs.Endpoint
	// Pending are on their way: their addresses are taken, they have no port yet.
	Pending []ovs.Endpoint
	// Moving are the ports of those that are being moved here: another node has their
	// addresses until it is done.
	Moving map[string]bool
	// Complete: the ports of the bridge have been read, so that there are no
	// others.
	Complete bool
}

// All returns the endpoints and those on their way.
func (k Known) All() []ovs.Endpoint { return slices.Concat(k.Endpoints, k.Pending) }

func sameKnown(a, b Known) bool { return reflect.DeepEqual(a, b) }

// reservation is an address that an endpoint to come will have.
type reservation struct {
	network string
	addr    netip.Addr
}

// promise is when an address was reserved, and by which request.
type promise struct {
	at      time.Time
	request string
}

// records are the endpoints, in memory and in a file.
type records struct {
	file  string
	disk  atomicfile.Writer
	known *part.Cell[Known]
	// called says what people call an endpoint; nil: nobody knows.
	called func(ovs.Endpoint) string

	mu        sync.Mutex
	endpoints map[string]ovs.Endpoint // by port
	pending   map[string]ovs.Endpoint // by port
	moving    map[string]bool         // by port
	unsure    map[string]time.Time    // by port: moves that etcd may have done, and since when
	// leaving are ports of endpoints that were removed: they are not adopted.
	leaving map[string]bool
	// hashed are their ports' other names, where they have names for people.
	hashed map[string]string
	// unfinished are those of them that an agent before this one began to remove:
	// their devices may be left.
	unfinished map[string]bool
	// plugged are those of them whose devices this agent has yet to remove. The file has
	// them: an agent that is killed then leaves them to the next one.
	plugged  map[string]bool
	wake     part.Signal // there may be something to finish
	reserved map[reservation]promise
	lent     map[reservation]loan
	// closed are networks that this node has let go of (leave.go), busy those with
	// requests at work, and how many.
	closed map[string]bool
	busy   map[string]int
	// removals is when the last request for the end of an attachment began (order.go).
	removals map[api.Attachment]moment
	complete bool
	version  int

	loading sync.Once
	loadErr error
	// saving is held while the file is written, mu is not.
	saving part.Lock
	saved  int // the version in the file
}

func newRecords(file string) *records {
	return &records{
		file: file, disk: atomicfile.Write, saving: part.NewLock(), wake: part.NewSignal(), known: part.NewCell(sameKnown),
		endpoints: map[string]ovs.Endpoint{}, pending: map[string]ovs.Endpoint{},
		moving: map[string]bool{}, unsure: map[string]time.Time{}, leaving: map[string]bool{}, hashed: map[string]string{},
		reserved: map[reservation]promise{}, lent: map[reservation]loan{},
		closed: map[string]bool{}, busy: map[string]int{}, unfinished: map[string]bool{}, plugged: map[string]bool{},
		removals: map[api.Attachment]moment{},
	}
}

// Known is what is known now.
func (r *records) Known() *part.Cell[Known] { return r.known }

// Changes implements openvswitch.Endpoints.
func (r *records) Changes(s part.Signal) { r.known.Wakes(s) }

// change changes the records under the lock and tells of it.
func (r *records) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.version++
	known := Known{Endpoints: byPort(r.endpoints), Pending: byPort(r.pending), Complete: r.complete}
	if len(r.moving) > 0 {
		known.Moving = maps.Clone(r.moving)
	}
	r.known.Set(known)
}

func byPort(m map[string]ovs.Endpoint) []ovs.Endpoint {
	return slices.SortedFunc(maps.Values(m), func(a, b ovs.Endpoint) int { return cmp.Compare(a.Port, b.Port) })
}

// put makes an endpoint one that is to have a port.
func (r *records) put(e ovs.Endpoint) (err error) {
	r.change(func() {
		if err = r.checkOpen(e.Network); err != nil {
			return
		}
		r.endpoints[e.Port] = e
		delete(r.pending, e.Port)
		delete(r.leaving, e.Port)
		delete(r.unfinished, e.Port)
		delete(r.plugged, e.Port)
		for _, ip := range e.IPs {
			delete(r.reserved, reservation{e.Network, ip})
		}
	})
	return err
}

// remove makes an endpoint one that is to have none.
func (r *records) remove(port string) {
	r.change(func() {
		if e, there := r.endpoints[port]; there && portOf(e) != port {
			r.hashed[portOf(e)] = port
		}
		delete(r.endpoints, port)
		delete(r.pending, port)
		r.leaving[port], r.plugged[port] = true, true
	})
}

// unplugged notes that the device of a removed endpoint is gone.
func (r *records) unplugged(port string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.plugged[port] {
		delete(r.plugged, port)
		r.version++
	}
}

// portOf returns the name of the port that an endpoint has, or is to have.
func (r *records) portOf(e ovs.Endpoint) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port, there := r.find(e); there {
		return port
	}
	return portOf(e)
}

// find returns the port of an endpoint that is there or on its way. It needs r.mu.
func (r *records) find(e ovs.Endpoint) (port string, there bool) {
	for _, m := range []map[string]ovs.Endpoint{r.endpoints, r.pending} {
		for port, o := range m {
			if o.Network == e.Network && o.Name == e.Name {
				return port, true
			}
		}
	}
	return "", false
}

// rename gives a pending endpoint another port. It is refused where another endpoint has
// that, or an agent before this one has left it. Nobody is told but the file: what is on its
// way has no port yet, and a pass that began now would be waited for when it has.
func (r *records) rename(e ovs.Endpoint, port string) (renamed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, attached := r.endpoints[port]
	_, coming := r.pending[port]
	if _, pending := r.pending[e.Port]; !pending || attached || coming || r.unfinished[port] || r.plugged[port] {
		return false
	}
	delete(r.pending, e.Port)
	if r.moving[e.Port] {
		delete(r.moving, e.Port)
		r.moving[port] = true
	}
	e.Port = port
	r.pending[port] = e
	r.version++
	return true
}

// has reports whether an endpoint is to have a port.
func (r *records) has(port string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.endpoints[port]
	return ok
}

// isLeaving reports whether the port of a removed endpoint may be there still.
func (r *records) isLeaving(port string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaving[port]
}

// leavingAs returns the port of a removed endpoint that may be there still, by what it is
// called unless it has a name for people; "" where there is none.
func (r *records) leavingAs(hashed string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port := cmp.Or(r.hashed[hashed], hashed); r.leaving[port] {
		return port
	}
	return ""
}

// await makes an endpoint one on its way, which has no port, unless one of the checks
// refuses it.
func (r *records) await(e ovs.Endpoint, checks ...func() error) (err error) {
	r.change(func() {
		for _, check := range append(checks, func() error { return r.checkOpen(e.Network) }) {
			if err = check(); err != nil {
				return
			}
		}
		if _, had := r.endpoints[e.Port]; had {
			delete(r.endpoints, e.Port)
			r.leaving[e.Port] = true
		}
		r.pending[e.Port] = e
		delete(r.unfinished, e.Port)
	})
	return err
}

// forget takes an endpoint out of those on their way.
func (r *records) forget(e ovs.Endpoint) {
	r.change(func() {
		delete(r.pending, e.Port)
		if _, unsure := r.unsure[e.Port]; !unsure {
			delete(r.moving, e.Port)
		}
	})
}

// Adopt implements openvswitch.Endpoints. Endpoints that only their port tells
// of are those of an agent that did not keep a file, or lost it.
func (r *records) Adopt(atPorts []ovs.Endpoint) []ovs.Endpoint {
	_ = r.loadOnce() // a fault of the part
	r.mu.Lock()
	there := make(map[string]bool, len(atPorts))
	var adopted []ovs.Endpoint
	for _, e := range atPorts {
		e.Node = "" // ours
		there[e.Port] = true
		if _, known := r.endpoints[e.Port]; !known && !r.leaving[e.Port] {
			adopted = append(adopted, e)
		}
	}
	for port := range r.leaving {
		if !there[port] {
			delete(r.leaving, port)
			maps.DeleteFunc(r.hashed, func(_, of string) bool { return of == port })
			if r.unfinished[port] {
				r.wake.Wake()
			}
		}
	}
	complete := r.complete
	r.mu.Unlock()
	if len(adopted) > 0 || !complete {
		r.change(func() {
			for _, e := range adopted {
				if !r.leaving[e.Port] {
					r.endpoints[e.Port] = e
				}
			}
			r.complete = true
		})
	}
	return r.known.Get().Endpoints
}

// contents is what the file has.
type contents struct {
	Endpoints []record `json:"endpoints"`
	// Pending are on their way.
	Pending []record `json:"pending,omitempty"`
	// Reserved are addresses that were promised to an engine.
	Reserved []reservedAddr `json:"reserved,omitempty"`
	// Lent are addresses that other nodes are about to pin.
	Lent []lentAddr `json:"lent,omitempty"`
	// Leaving are ports that are being removed.
	Leaving []string `json:"leaving,omitempty"`
	// Removals are the last requests for the end of attachments.
	Removals []removal `json:"removals,omitempty"`
}

// record is an endpoint in the file: what its port has in external_ids.
type record struct {
	Name    string         `json:"name"`
	Network string         `json:"network"`
	IPs     []netip.Addr   `json:"ips"`
	MAC     string         `json:"mac,omitempty"`
	Allow   []netip.Prefix `json:"allow,omitempty"`
	// AllowTraffic are kinds of traffic.
	AllowTraffic []topology.Traffic `json:"allowTraffic,omitempty"`

	Netns  string            `json:"netns,omitempty"`
	Ifname string            `json:"ifname,omitempty"`
	Port   string            `json:"port"`
	Labels map[string]string `json:"labels,omitempty"`
}

func recordOf(e ovs.Endpoint) record {
	return record{e.Name, e.Network, e.IPs, e.MAC.String(), e.Allow, e.AllowTraffic, e.Netns, e.Ifname, e.Port, e.Labels}
}

// endpoint reads a record back. ok is false where it makes no sense.
func (r record) endpoint() (e ovs.Endpoint, ok bool) {
	e = ovs.Endpoint{
		Name:    r.Name,
		Network: r.Network,
		IPs:     r.IPs,
		Allow:   r.Allow,

		AllowTraffic: r.AllowTraffic,

		Netns:  r.Netns,
		Ifname: r.Ifname,
		Port:   r.Port,
		Labels: r.Labels,
	}
	if r.MAC != "" {
		mac, err := topology.ParseMAC(r.MAC)
		if err != nil {
			return e, false
		}
		e.MAC = mac
	}
	port := e.Port
	e, err := ovs.EndpointOf(e.AsPort()) // one reader: what a port may not say, the file may not either
	return e, err == nil && port != ""
}

// ReadFile returns the endpoints that the file of a state directory has; none where
// there is no file. It is for those who look at a host whose agent may not run.
func ReadFile(stateDir string) ([]ovs.Endpoint, error) {
	b, err := os.ReadFile(filepath.Join(stateDir, recordsFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var c contents
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	var out []ovs.Endpoint
	for _, r := range c.Endpoints {
		if e, ok := r.endpoint(); ok {
			out = append(out, e)
		}
	}
	return out, err
}

type reservedAddr struct {
	Network string     `json:"network"`
	Addr    netip.Addr `json:"addr"`
	At      time.Time  `json:"at"`
	Request string     `json:"request,omitempty"`
}

// loadOnce reads the file before anything is done with the records.
func (r *records) loadOnce() error {
	r.loading.Do(func() { r.loadErr = r.load() })
	return r.loadErr
}

// load reads the file. One that is not there is an empty one.
func (r *records) load() error {
	b, err := os.ReadFile(r.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var c contents
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.StateUnwritable, Item: r.file,
			What:   "cannot be read, the ports of the bridge tell what endpoints there are: " + err.Error(),
			Remedy: "it is written anew",
		}
	}
	r.change(func() {
		for _, x := range c.Endpoints {
			if e, ok := x.endpoint(); ok {
				r.endpoints[e.Port] = e
			}
		}
		for _, x := range c.Pending {
			e, ok := x.endpoint()
			if _, plugin := api.AttachmentOf(e); ok && plugin {
				r.unfinished[e.Port] = true // whoever asked for it has to ask this agent
			} else if ok {
				r.pending[e.Port] = e
			}
		}
		for _, x := range c.Reserved {
			r.reserved[reservation{x.Network, x.Addr}] = promise{x.At, x.Request}
		}
		for _, port := range c.Leaving {
			if _, again := r.endpoints[port]; !again {
				r.leaving[port] = true
				// The device of one that is pending again is replaced, or removed with it.
				if _, pending := r.pending[port]; !pending {
					r.unfinished[port] = true
				}
			}
		}
		r.loadRemovals(c.Removals)
		for _, x := range c.Lent {
			r.lent[reservation{x.Network, x.Addr}] = loan{x.Node, x.Revision, x.At}
		}
	})
	r.saved = r.version
	return nil
}

// save writes the file unless it is as it has to be. Calls that come together
// write once.
func (r *records) save() error {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	version := r.version
	c := contents{Endpoints: []record{}}
	for _, e := range byPort(r.endpoints) {
		c.Endpoints = append(c.Endpoints, recordOf(e))
	}
	for _, e := range byPort(r.pending) {
		c.Pending = append(c.Pending, recordOf(e))
	}
	for x, p := range r.reserved {
		c.Reserved = append(c.Reserved, reservedAddr{x.network, x.addr, p.at, p.request})
	}
	for port := range r.leaving {
		c.Leaving = append(c.Leaving, port)
	}
	c.Leaving = slices.AppendSeq(c.Leaving, maps.Keys(r.unfinished))
	c.Leaving = slices.AppendSeq(c.Leaving, maps.Keys(r.plugged))
	slices.Sort(c.Leaving)
	c.Leaving = slices.Compact(c.Leaving)
	c.Removals = r.recentRemovals()
	for x, l := range r.lent {
		c.Lent = append(c.Lent, lentAddr{x.network, x.addr, l.node, l.revision, l.at})
	}
	r.mu.Unlock()
	if version == r.saved {
		return nil
	}
	slices.SortFunc(c.Reserved, func(a, b reservedAddr) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
	slices.SortFunc(c.Lent, func(a, b lentAddr) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
	b, err := json.MarshalIndent(c, "", "  ")
	if err == nil {
		err = r.disk(r.file, append(b, '\n'), 0o600)
	}
	if err != nil {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.StateUnwritable, Item: r.file,
			What:   fmt.Sprintf("the endpoints' file cannot be written: %v; their ports have their records as well", err),
			Remedy: "look at the disk: 'df'",
		}
	}
	r.saved = version
	return nil
}

// taken returns those of a network's addresses that endpoints of this node have
// or are to have. It needs r.mu.
func (r *records) taken(network string) map[netip.Addr]string {
	taken := map[netip.Addr]string{}
	for x, p := range r.reserved {
		if time.Since(p.at) > reservedFor {
			delete(r.reserved, x)
		} else if x.network == network {
			taken[x.addr] = "a container that is being started"
		}
	}
	for _, m := range []map[string]ovs.Endpoint{r.endpoints, r.pending} {
		for _, e := range m {
			if e.Network != network {
				continue
			}
			// An endpoint with that address would have its MAC.
			if a, ok := topology.AddrOfMAC(e.MAC.String()); ok && taken[a] == "" {
				taken[a] = r.item(e) + ", whose MAC is made of it"
			}
			// A wider prefix is what the endpoint forwards for, not what it has.
			for _, a := range e.Allow {
				if a.IsSingleIP() && taken[a.Addr()] == "" {
					taken[a.Addr()] = r.item(e) + ", which is allowed it"
				}
			}
			for _, ip := range e.IPs {
				taken[ip] = r.item(e)
			}
		}
	}
	return taken
}

// repeated finds what an earlier one of the same requests has reserved. It needs
// r.mu.
func (r *records) repeated(q Reservation) (netip.Addr, bool) {
	for x, p := range r.reserved {
		if q.Request != "" && p.request == q.Request && x.network == q.Network {
			return x.addr, true
		}
	}
	return netip.Addr{}, false
}

// finish removes what is left of the ports that an agent before this one began to
// remove, once the switch has them no more.
func (r *records) finish(detach func(port string) error) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for port := range r.unfinished {
		if r.leaving[port] || !r.complete {
			continue
		}
		// Under the lock, so that nobody makes a device of that name meanwhile. It is
		// so only after a start.
		if e := detach(port); e != nil {
			err = errors.Join(err, e)
			continue
		}
		delete(r.unfinished, port)
		r.version++
	}
	return err
}
