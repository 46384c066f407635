// Package names answers DNS queries of containers (RFC 1035) for the names of
// containers on other nodes. Docker's own resolver, 127.0.0.11, knows those of
// its own engine; for all others it asks the servers that the engine was
// started with, from inside the container's network namespace. One of them is
// Address, which in every container of a network of Baize is the local agent.
package names

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Address is the server's address in every container: in the engine's
// daemon.json, "dns": ["127.0.0.12", …].
var Address = netip.AddrFrom4([4]byte{127, 0, 0, 12})

// TTL is how long, in seconds, an answer may be kept. A container that starts
// again elsewhere may have another address at once.
const TTL = 1

// Directory knows the names.
type Directory interface {
	// Lookup returns the addresses that a name has in a network; found is false
	// where it has none there.
	Lookup(network, name string) (addrs []netip.Addr, found bool)
	// LookupAddr returns the names that an address has in a network.
	LookupAddr(network string, a netip.Addr) []string
}

// Answer answers a query of a container that is in the networks given. Names
// are those of any of them, alone ("web") or with the network's ("web.blue").
// For names that nobody has, the answer is SERVFAIL: then Docker's resolver
// goes on to the next server. Any other answer would be the last word, which it is below
// topology.NamesDomain. There a name has one of its addresses, by chance: resolvers that
// sort several ones (RFC 6724, rule 9) would always take the nearest.
func Answer(d Directory, networks []string, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true // or some resolvers complain
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery || q.Question[0].Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeServerFailure
		return m
	}
	question := q.Question[0]
	ours, all := topology.InNamesDomain(question.Name)
	if question.Qtype == dns.TypePTR {
		m.Answer = reverse(d, networks, question)
	} else if addrs, found := forward(d, networks, question.Name); found {
		m.Answer = balanced(question, addrs)
		if ours && !all && len(m.Answer) > 1 {
			m.Answer = m.Answer[:1]
		}
		return m // without an answer as well: the name is there, but has no such record
	}
	switch {
	case ours:
		m.Rcode = dns.RcodeNameError // a resolver goes on with the name alone
	case len(m.Answer) == 0:
		m.Rcode = dns.RcodeServerFailure
	}
	return m
}

// balanced returns the records asked for of addresses, in an order by chance (RFC 1794).
func balanced(q dns.Question, addrs []netip.Addr) []dns.RR {
	var out []dns.RR
	for _, a := range addrs {
		if r := record(q, a); r != nil {
			out = append(out, r)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func header(q dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: TTL}
}

// record returns the record asked for of an address; nil where it is of the
// other family.
func record(q dns.Question, a netip.Addr) dns.RR {
	switch {
	case q.Qtype == dns.TypeA && a.Is4():
		return &dns.A{Hdr: header(q), A: a.AsSlice()}
	case q.Qtype == dns.TypeAAAA && a.Is6():
		return &dns.AAAA{Hdr: header(q), AAAA: a.AsSlice()}
	}
	return nil
}

func forward(d Directory, networks []string, name string) (addrs []netip.Addr, found bool) {
	for _, n := range networks {
		for _, form := range topology.NameForms(n, name) {
			if list, ok := d.Lookup(n, form); ok {
				addrs, found = append(addrs, list...), true
				break
			}
		}
	}
	return addrs, found
}

func reverse(d Directory, networks []string, q dns.Question) []dns.RR {
	a, ok := reverseAddr(q.Name)
	if !ok {
		return nil
	}
	var out []dns.RR
	for _, n := range networks {
		for _, name := range d.LookupAddr(n, a) {
			out = append(out, &dns.PTR{Hdr: header(q), Ptr: dns.Fqdn(name + "." + n)})
		}
	}
	return out
}

// reverseAddr reads the address that a name of a PTR query stands for: RFC 1035
// section 3.5, RFC 3596 section 2.5.
func reverseAddr(name string) (netip.Addr, bool) {
	labels := func(suffix string) ([]string, bool) {
		rest, ok := strings.CutSuffix(strings.ToLower(name), suffix)
		l := strings.Split(rest, ".")
		slices.Reverse(l)
		return l, ok
	}
	text := ""
	if l, ok := labels(".in-addr.arpa."); ok {
		text = strings.Join(l, ".")
	} else if l, ok := labels(".ip6.arpa."); ok && len(l) == 32 {
		for i, nibble := range l {
			if i > 0 && i%4 == 0 {
				text += ":"
			}
			text += nibble
		}
	}
	a, err := netip.ParseAddr(text)
	return a, err == nil
}

// Servers are the servers in containers of this host, and that of the host itself.
type Servers struct {
	directory Directory
	log       logrus.FieldLogger
	host      netip.AddrPort // where thisHost is served

	mu      sync.Mutex
	running map[string]*server // by network namespace
}

// New returns servers that answer from d. There are none before Sync.
func New(d Directory, log logrus.FieldLogger) *Servers {
	return &Servers{directory: d, log: log, running: map[string]*server{}}
}

type server struct {
	sockets  hostnet.NameServer
	udp, tcp *dns.Server
	serving  sync.WaitGroup
	mu       sync.Mutex
	networks []string
}

// Sync makes the servers be in the network namespaces given, by path, each
// with the names of the networks given. A namespace without its server is
// tried again with the next call; the errors are about those.
func (s *Servers) Sync(wanted map[string][]string) (errs []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, sv := range s.running {
		// An open socket keeps a namespace that its container has left.
		if _, ok := wanted[path]; !ok {
			sv.close()
			delete(s.running, path)
		}
	}
	for path, networks := range wanted {
		sv := s.running[path]
		if sv == nil {
			var err error
			if sv, err = s.start(path); err != nil {
				errs = append(errs, fmt.Errorf("names of other nodes: %w", err))
				continue
			}
			s.running[path] = sv
		}
		sv.mu.Lock()
		sv.networks = networks
		sv.mu.Unlock()
	}
	return errs
}

// Close ends all servers.
func (s *Servers) Close() { s.Sync(nil) }

// queryTimeout bounds how long a client may take with a query over TCP.
const queryTimeout = 2 * time.Second

func (s *Servers) start(path string) (*server, error) {
	var sockets hostnet.NameServer
	var err error
	if path == thisHost {
		sockets, err = listenHost(s.host)
	} else {
		sockets, err = hostnet.ListenNames(path, Address)
	}
	if err != nil {
		return nil, err
	}
	sv := &server{sockets: sockets}
	limit := rate.NewLimiter(queriesPerSecond, queriesAtOnce)
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		err := fault.Protect(func() error {
			sv.mu.Lock()
			networks := sv.networks
			sv.mu.Unlock()
			m := Answer(s.directory, networks, q)
			if w.RemoteAddr().Network() == "udp" {
				m.Truncate(size(q))
			} else if !limit.Allow() {
				return w.Close()
			}
			return w.WriteMsg(m)
		})
		if err != nil {
			s.log.Debugf("names: answer a query: %v", err)
		}
	})
	sv.udp = &dns.Server{
		PacketConn: sockets.UDP, Handler: h,
		DecorateReader: func(r dns.Reader) dns.Reader { return limitedReader{r, limit} },
	}
	tcp := netutil.LimitListener(sockets.TCP, connections)
	sv.tcp = &dns.Server{Listener: tcp, Handler: h, ReadTimeout: queryTimeout, WriteTimeout: queryTimeout}
	var started sync.WaitGroup
	for _, d := range []*dns.Server{sv.udp, sv.tcp} {
		started.Add(1)
		once := sync.OnceFunc(started.Done)
		d.NotifyStartedFunc = once
		sv.serving.Go(func() {
			defer once()
			if err := d.ActivateAndServe(); err != nil {
				s.log.Debugf("names: %v", err)
			}
		})
	}
	started.Wait() // a server cannot be ended before it runs
	return sv, nil
}

// size is that of an answer that fits in a datagram (RFC 1035 section
// 2.3.4; RFC 6891).
func size(q *dns.Msg) int {
	if o := q.IsEdns0(); o != nil {
		return max(int(o.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

// closeTimeout bounds the end of a server.
const closeTimeout = time.Second

func (sv *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for _, d := range []*dns.Server{sv.udp, sv.tcp} {
		_ = d.ShutdownContext(ctx) // its sockets are closed below
	}
	_ = sv.sockets.Close() // closed twice is fine
	sv.serving.Wait()
}
