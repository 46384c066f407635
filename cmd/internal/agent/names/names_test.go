package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// directory has names as "network/name".
type directory map[string][]netip.Addr

func (d directory) Lookup(network, name string) ([]netip.Addr, bool) {
	a, ok := d[network+"/"+name]
	return a, ok
}

func (d directory) LookupAddr(network string, a netip.Addr) (out []string) {
	for k, addrs := range d {
		if name, ok := strings.CutPrefix(k, network+"/"); ok && addrs[0] == a {
			out = append(out, name)
		}
	}
	return out
}

var known = directory{
	"blue/web": {netip.MustParseAddr("10.1.5.2"), netip.MustParseAddr("fd00:10:1:5::2")},
	"red/web":  {netip.MustParseAddr("10.2.5.2")},
	"red/db":   {netip.MustParseAddr("10.2.6.2")},
	"blue/a.b": {netip.MustParseAddr("10.1.5.3")},
}

func TestAnswer(t *testing.T) {
	const none = dns.RcodeServerFailure
	for name, c := range map[string]struct {
		networks string
		query    string
		kind     uint16
		rcode    int
		want     string
	}{
		"IPv4":                    {"blue", "web.", dns.TypeA, 0, "10.1.5.2"},
		"IPv6":                    {"blue", "web.", dns.TypeAAAA, 0, "fd00:10:1:5::2"},
		"letters of either case":  {"blue", "WeB.", dns.TypeA, 0, "10.1.5.2"},
		"with the network's name": {"blue", "web.Blue.", dns.TypeA, 0, "10.1.5.2"},
		"a dot in the name":       {"blue", "a.b.", dns.TypeA, 0, "10.1.5.3"},
		"of two networks":         {"blue red", "web.", dns.TypeA, 0, "10.1.5.2 10.2.5.2"},
		"of one of two":           {"blue red", "web.red.", dns.TypeA, 0, "10.2.5.2"},
		"there, but no IPv6":      {"red", "db.", dns.TypeAAAA, 0, ""},
		"there, but no MX":        {"red", "db.", dns.TypeMX, 0, ""},
		"of a network not joined": {"blue", "db.", dns.TypeA, none, ""},
		"of nobody":               {"blue", "example.org.", dns.TypeA, none, ""},
		"reverse":                 {"red", "2.6.2.10.in-addr.arpa.", dns.TypePTR, 0, "db.red."},
		"reverse, IPv6": {
			"blue", "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.1.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, none, "",
		},
		"alone in the domain":     {"blue", "WEB.Baize.Internal.", dns.TypeA, 0, "10.1.5.2"},
		"with its network there":  {"red", "db.red.baize.internal.", dns.TypeA, 0, "10.2.6.2"},
		"all in the domain":       {"blue red", "all.web.baize.internal.", dns.TypeA, 0, "10.1.5.2 10.2.5.2"},
		"nobody in the domain":    {"blue red", "nobody.baize.internal.", dns.TypeA, dns.RcodeNameError, ""},
		"another network's there": {"blue", "db.red.baize.internal.", dns.TypeA, dns.RcodeNameError, ""},
		"no IPv6 in the domain":   {"red", "db.baize.internal.", dns.TypeAAAA, 0, ""},
		"reverse of nobody":       {"blue", "2.6.2.10.in-addr.arpa.", dns.TypePTR, none, ""},
		"no reverse name":         {"blue", "web.", dns.TypePTR, none, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q := new(dns.Msg).SetQuestion(c.query, c.kind)
			m := Answer(known, strings.Fields(c.networks), q)
			require.Equal(t, c.rcode, m.Rcode)
			require.Equal(t, q.Id, m.Id)
			var got []string
			for _, r := range m.Answer {
				require.Equal(t, c.query, r.Header().Name, "spelled as it was asked")
				got = append(got, dns.Field(r, 1))
			}
			slices.Sort(got)
			require.Equal(t, c.want, strings.Join(got, " "))
			_, err := m.Pack()
			require.NoError(t, err)
		})
	}
}

// Finding U12: containers of several hosts with one name share what is sent to it.
func TestBalance(t *testing.T) {
	pool := directory{"blue/web": nil}
	for i := range 5 {
		pool["blue/web"] = append(pool["blue/web"], netip.AddrFrom4([4]byte{10, 1, byte(i), 2}))
	}
	for name, records := range map[string]int{"web.": 5, "all.web.blue.baize.internal.": 5, "web.baize.internal.": 1} {
		first := map[string]int{}
		for range 1000 {
			m := Answer(pool, []string{"blue"}, new(dns.Msg).SetQuestion(name, dns.TypeA))
			require.Len(t, m.Answer, records)
			first[dns.Field(m.Answer[0], 1)]++
		}
		require.Len(t, first, 5)
		for addr, n := range first {
			require.InDelta(t, 200, n, 100, "%s first of %s", addr, name) // eight standard deviations
		}
	}
}

func TestReverseAddr(t *testing.T) {
	for name, want := range map[string]string{
		"2.5.1.10.in-addr.arpa.": "10.1.5.2",
		"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.1.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa.": "fd00:10:1:5::2",
		"5.1.10.in-addr.arpa.": "", "web.": "", "1.2.3.ip6.arpa.": "", ".in-addr.arpa.": "",
	} {
		a, ok := reverseAddr(name)
		require.Equal(t, want != "", ok, name)
		if ok {
			require.Equal(t, want, a.String())
		}
	}
}

func TestOddQueries(t *testing.T) {
	two := new(dns.Msg).SetQuestion("web.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	notify := new(dns.Msg).SetNotify("web.")
	chaos := new(dns.Msg).SetQuestion("web.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	for _, q := range []*dns.Msg{two, notify, chaos, {}} {
		require.Equal(t, dns.RcodeServerFailure, Answer(known, []string{"blue"}, q).Rcode)
	}
}
