//go:build system

package linux

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/kernelfake"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func TestMain(m *testing.M) { os.Exit(testkit.InNamespaces(m, nil)) }

// host makes the devices that kernelfake.RandomState expects.
func host(t *testing.T) {
	t.Helper()
	pair := func(name string) {
		testkit.IP(t, "link add "+name+" type veth peer name x-"+name)
		testkit.IP(t, "link set x-"+name+" up")
		t.Cleanup(func() { testkit.IP(t, "link del "+name) })
	}
	pair(kernelfake.Underlay)
	testkit.IP(t, "link set "+kernelfake.Underlay+" up")
	for _, a := range kernelfake.UnderlayAddrs {
		nodad := ""
		if a.Addr().Is6() {
			nodad = " nodad"
		}
		testkit.IP(t, "address add "+a.String()+" dev "+kernelfake.Underlay+nodad)
	}
	for _, d := range append(kernelfake.Ports, kernelfake.Ends...) {
		pair(d)
	}
	t.Cleanup(func() { testkit.Run(t, "nft", "flush", "ruleset") })
}

// settle brings the kernel to a state, and proves that it is then read back as
// it was written.
func settle(t *testing.T, want kernel.State) kernel.Change {
	t.Helper()
	have := observe(t)
	c, faults := kernel.Diff(want, have, nil)
	require.Empty(t, faults)
	require.NoError(t, Host{}.Apply(t.Context(), c), c)
	again, faults := kernel.Diff(want, observe(t), nil)
	require.Empty(t, faults)
	require.Empty(t, again.String(), "after\n"+c.String())
	return c
}

func observe(t *testing.T) kernel.Observed {
	t.Helper()
	have, err := Host{}.Observe(t.Context(), kernel.Query{Forwards: true})
	require.NoError(t, err)
	require.Empty(t, have.Failed)
	return have
}

// foreign is what nobody but its owner may change.
func foreign(t *testing.T) string {
	t.Helper()
	var out []string
	for _, family := range []string{"-4", "-6"} {
		for line := range strings.Lines(testkit.IP(t, family+" route show")) {
			// Baize's, and what the kernel makes for its ports and for links.
			if !strings.Contains(line, "proto 173") && !strings.Contains(line, "dev bn-") && !strings.HasPrefix(line, "fe80::") {
				out = append(out, line)
			}
		}
	}
	return strings.Join(
		out,
		"",
	) + testkit.IP(
		t,
		"address show dev eth0 scope global",
	) + testkit.IP(
		t,
		"rule show priority 99",
	) + testkit.Run(
		t,
		"nft",
		"list",
		"table",
		"inet",
		"theirs",
	)
}

// From any state to any other, one change is enough; it can be read back, and
// nothing of anybody else has changed. The same runs on the fake kernel.
func TestJumps(t *testing.T) {
	host(t)
	testkit.IP(t, "route add 10.9.6.0/24 via 192.0.2.66")
	testkit.IP(t, "rule add priority 99 from 10.9.0.0/16 table 99")
	t.Cleanup(func() { testkit.IP(t, "rule del priority 99") })
	testkit.Run(
		t,
		"nft",
		"add table inet theirs; add chain inet theirs c { type nat hook postrouting priority 100; };"+
			" add rule inet theirs c ip saddr 10.9.0.0/16 masquerade",
	)
	before := foreign(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		settle(t, kernelfake.RandomState(r))
	}
	settle(t, kernel.State{})
	require.Equal(t, before, foreign(t))
	require.Empty(t, testkit.IP(t, "route show proto 173")+testkit.IP(t, "-6 route show proto 173"))
	require.NotContains(t, testkit.Run(t, "nft", "list", "tables"), "baize")
}

// A state prints as commands; the commands by hand make the same state.
func TestCommands(t *testing.T) {
	host(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		want := kernelfake.RandomState(r)
		settle(t, kernel.State{})
		c, _ := kernel.Diff(want, observe(t), nil)
		testkit.Run(t, "sh", "-ec", c.String())
		again, faults := kernel.Diff(want, observe(t), nil)
		require.Empty(t, faults)
		require.Empty(t, again.String(), "after\n"+c.String())
	}
	settle(t, kernel.State{})
}

func TestRepair(t *testing.T) {
	host(t)
	whole := netip.MustParsePrefix("10.1.0.0/16")
	want := kernel.State{
		Links: []kernel.Link{{Name: "bn-blue", MAC: "02:42:0a:01:05:01", MTU: 1450, Up: true}},
		Sysctls: append(
			kernel.PortSysctls("bn-blue"),
			kernel.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"},
			kernel.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"},
		),
		Addresses: []kernel.Address{{Dev: "bn-blue", Prefix: netip.MustParsePrefix("10.1.5.1/32")}},
		Firewall: kernel.Firewall{
			NAT: []kernel.NATRule{
				{Src: whole, Dst: whole, Return: true},
				{Src: whole, Dst: netip.MustParsePrefix("224.0.0.0/4"), NotDst: true},
			},
			Drops:   kernel.Drops{Use: true, Devices: []string{"bz-a"}},
			Tunnels: []kernel.TunnelPort{{}, {UDP: 4789}},
		},
	}
	c := settle(t, want)
	require.Contains(
		t,
		c.String(),
		"sysctl -w net.ipv6.conf.eth0.accept_ra=2\n",
		"who heeded router advertisements goes on",
	)
	require.Equal(t, "2", strings.TrimSpace(testkit.Run(t, "sysctl", "-n", "net.ipv6.conf.eth0.accept_ra")))
	for command, fix := range map[string]string{
		"ip link set bn-blue mtu 1400": "ip link set bn-blue mtu 1450\n",
		"ip link set bn-blue address 02:00:00:00:00:07": "ip link set bn-blue address " +
			"02:42:0a:01:05:01\n",
		"ip address add 10.1.9.9/16 dev bn-blue": "ip address del 10.1.9.9/16 dev " +
			"bn-blue\n",
		"sysctl -w net.ipv4.ip_forward=0":                                        "sysctl -w net.ipv4.ip_forward=1\n",
		"nft add rule inet baize postrouting drop":                               "add table inet baize\n",
		"nft add chain inet baize other":                                         "add table inet baize\n",
		"nft flush chain inet baize postrouting":                                 "add table inet baize\n",
		"nft insert rule inet baize postrouting ip saddr 10.1.0.0/17 masquerade": "add table inet baize\n",
		"nft delete table netdev baize": "nft 'add table netdev baize; add " +
			"chain netdev baize bz-a { type filter hook ingress ",
		"nft flush chain inet baize-tunnels input":                    "add table inet baize-tunnels\n",
		"nft add rule inet baize-tunnels input udp dport 4789 accept": "add table inet baize-tunnels\n",
		"nft delete table inet baize-tunnels":                         "add table inet baize-tunnels\n",
		"nft flush ruleset":                                           "add table inet baize\n",
		"ip link set bn-blue down":                                    "ip link set bn-blue up\n",
		"ip address del 10.1.5.1/32 dev bn-blue": "ip address add 10.1.5.1/32 dev " +
			"bn-blue\n",
		"nft add rule inet baize postrouting ip saddr 10.1.0.0/16 tcp dport 1 return": "add table inet baize\n",
	} {
		testkit.Run(t, "sh", "-ec", command)
		require.Contains(t, settle(t, want).String(), fix, command)
	}
	// A table reads as it prints.
	listed := testkit.Run(t, "nft", "list", "table", "inet", "baize")
	for _, r := range want.Firewall.NAT {
		require.Contains(t, listed, r.String())
	}
}

// The kernel makes a link-local address of its own: meanwhile, perhaps.
func TestLinkLocalTwice(t *testing.T) {
	host(t)
	address := kernel.ChangeAddress{Verb: kernel.Replace, Address: kernel.Address{
		Dev: kernelfake.Underlay, Prefix: netip.MustParsePrefix("fe80::42/64"),
	}}
	for range 2 {
		require.NoError(t, Host{}.Apply(t.Context(), kernel.Change{Steps: []kernel.Step{address}}))
		require.Contains(t, observe(t).Addresses, address.Address)
	}
}

// A bad element costs only itself, and says what is wrong.
func TestOneBadElement(t *testing.T) {
	host(t)
	testkit.IP(t, "route add 10.1.7.0/24 via 192.0.2.66")
	p := netip.MustParsePrefix
	add := func(prefix, via, dev string) kernel.Step {
		return kernel.ChangeRoute{
			Verb:  kernel.Add,
			Route: route.Route{Prefix: p(prefix), Via: netip.MustParseAddr(via), Dev: dev},
		}
	}
	err := Host{}.Apply(t.Context(), kernel.Change{Steps: []kernel.Step{
		add(
			"10.1.5.0/24",
			"198.51.100.1",
			"eth0",
		),
		add("10.1.6.0/24", "192.0.2.6", "eth9"),
		add("10.1.7.0/24", "192.0.2.6", "eth0"),
		kernel.SetSysctl{Sysctl: kernel.Sysctl{Key: "net/ipv4/no", Value: "1"}},
		add("10.1.8.0/24", "192.0.2.6", "eth0"),
	}})
	var items []string
	for _, f := range fault.All(err) {
		items = append(items, string(f.Code)+" "+f.Item)
	}
	require.Equal(
		t,
		[]string{
			"BZ0504 route 10.1.5.0/24",
			"BZ0504 route 10.1.6.0/24",
			"BZ0501 route 10.1.7.0/24",
			"BZ0504 sysctl net.ipv4.no",
		},
		items,
	)
	require.ErrorIs(t, err, unix.ENETUNREACH)
	require.ErrorIs(t, err, unix.ENODEV)
	require.ErrorIs(t, err, topology.ErrConflict)
	require.Contains(t, testkit.IP(t, "route show proto 173"), "10.1.8.0/24 via 192.0.2.6")
	testkit.IP(t, "route del 10.1.8.0/24")
}

// Docker's policy is in the filter table of iptables, of either kind.
func TestIPTables(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			tool := "iptables-" + kind
			t.Cleanup(func() {
				testkit.Run(
					t,
					"sh",
					"-c",
					tool+" -P FORWARD ACCEPT; "+tool+" -F; "+tool+" -X; "+tool+" -t nat -F; "+tool+" -t nat -X",
				)
			})
			want := kernel.State{Firewall: kernel.Firewall{Accept: []kernel.AcceptRule{
				{
					Family: topology.IPv4,
					In:     "bn-blue",
				},
				{
					Family: topology.IPv4,
					Src:    netip.MustParsePrefix("10.1.5.0/24"),
					Dst:    netip.MustParsePrefix("10.1.0.0/16"),
					Out:    "eth0",
				},
			}}}
			settle(t, want)
			require.NotContains(t, testkit.Run(t, tool, "-S"), "BAIZE", "nothing there drops anything")
			testkit.Run(
				t,
				"sh",
				"-ec",
				tool+" -P FORWARD DROP; "+tool+" -N DOCKER-USER; "+tool+" -A FORWARD -j DOCKER-USER; "+tool+" -A FORWARD -j RETURN",
			)
			settle(t, want)
			rules := testkit.Run(t, tool, "-S")
			require.Contains(t, rules, "-A FORWARD -j DOCKER-USER\n-A FORWARD -j BAIZE-FORWARD\n-A FORWARD -j RETURN\n")
			require.Contains(
				t,
				rules,
				"-A BAIZE-FORWARD -i bn-blue -j ACCEPT\n-A BAIZE-FORWARD -s 10.1.5.0/24 -d 10.1.0.0/16 -o eth0 -j ACCEPT\n",
			)
			for _, command := range []string{
				" -F BAIZE-FORWARD", " -D FORWARD -j BAIZE-FORWARD", " -I FORWARD -j BAIZE-FORWARD",
			} {
				testkit.Run(t, "sh", "-ec", tool+command)
				settle(t, want)
				require.Equal(t, rules, testkit.Run(t, tool, "-S"), command)
			}
			// The chain of the version before is removed once the table replaces it.
			testkit.Run(
				t,
				"sh",
				"-ec",
				tool+" -t nat -N BAIZE-MASQ; "+tool+" -t nat -A BAIZE-MASQ -s 10.1.0.0/16 -j MASQUERADE; "+
					tool+" -t nat -I POSTROUTING -j BAIZE-MASQ",
			)
			whole := netip.MustParsePrefix("10.1.0.0/16")
			want.Firewall.NAT = []kernel.NATRule{{Src: whole, Dst: whole, Return: true}, {Src: whole}}
			c := settle(t, want)
			require.Less(t, strings.Index(c.String(), "table inet baize {"), strings.Index(c.String(), "-X BAIZE-MASQ"))
			require.NotContains(t, testkit.Run(t, tool, "-t", "nat", "-S"), "BAIZE")
			testkit.Run(t, tool, "-P", "FORWARD", "ACCEPT")
			testkit.Run(t, tool, "-F", "FORWARD")
			testkit.Run(t, tool, "-A", "FORWARD", "-j", "BAIZE-FORWARD")
			settle(t, want)
			require.NotContains(t, testkit.Run(t, tool, "-S"), "BAIZE", "nothing forces it any more")
			settle(t, kernel.State{})
		})
	}
}

// No answer is not the same as no way.
func TestLookups(t *testing.T) {
	host(t)
	testkit.IP(t, "route add 198.51.100.0/24 via 192.0.2.254")
	testkit.IP(t, "route add unreachable 203.0.113.0/24")
	ask := func(addrs ...string) (out []kernel.Lookup) {
		q := kernel.Query{SkipFirewall: true}
		for _, a := range addrs {
			q.Lookups = append(q.Lookups, netip.MustParseAddr(a))
		}
		o, err := Host{}.Observe(t.Context(), q)
		require.NoError(t, err)
		for _, a := range q.Lookups {
			out = append(out, o.Lookups[a])
		}
		return out
	}
	require.Equal(t, []kernel.Lookup{{Dev: "eth0"}, {Dev: "eth0"}, {}, {}, {}, {Dev: "lo"}},
		ask("192.0.2.6", "2001:db8::6", "198.51.100.1", "203.0.113.1", "100.64.0.1", "192.0.2.1"))
}

// What matters fires, what does not wakes nobody.
func TestWatch(t *testing.T) {
	host(t)
	ctx, cancel := context.WithCancel(t.Context())
	fired := make(chan struct{}, 100)
	var wakes atomic.Int32
	done := make(chan error, 1)
	interest := kernel.Interest{
		Networks:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
		Addrs:      []netip.Addr{netip.MustParseAddr("198.51.100.7")},
		Neighbours: []netip.Addr{netip.MustParseAddr("169.254.7.7")},
	}
	for _, s := range kernel.PortSysctls("bn-blue") {
		interest.Sysctls = append(interest.Sysctls, s.Key)
	}
	go func() {
		done <- Host{}.Watch(ctx, kernel.Watcher{
			Interest: func() kernel.Interest { return interest },
			Fire:     func() { wakes.Add(1); fired <- struct{}{} },
			Fault:    func(what string, err error) { done <- fmt.Errorf("%s: %w", what, err) },
		})
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case <-fired:
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			require.Fail(t, "not fired: "+what)
		}
	}
	wait("at the start")
	for _, c := range []string{
		"ip route add 10.1.6.0/24 via 192.0.2.66", "ip route add 198.51.100.0/24 via 192.0.2.254",
		"ip link set bn-blue mtu 1400",
		"ip neigh add 169.254.7.7 lladdr 02:00:00:00:00:07 dev bn-blue", "ip neigh del 169.254.7.7 dev bn-blue",
		"sysctl -w net.ipv4.conf.bn-blue.arp_ignore=0", "sysctl -w net.ipv6.conf.bn-blue.accept_ra=1",
		"ip address add 10.1.5.1/32 dev bn-red", "nft add table inet baize",
		"iptables-nft -P FORWARD DROP", "iptables-nft -P FORWARD ACCEPT",
	} {
		testkit.Run(t, "sh", "-ec", c)
		wait(c)
	}
	// Quiet first: a change may have been seen twice.
	require.Eventually(t, func() bool {
		before := wakes.Load()
		for i := range 50 {
			testkit.Run(
				t,
				"sh",
				"-ec",
				fmt.Sprintf(
					"ip route add 100.64.%d.0/24 via 192.0.2.66; "+
						"ip route add 10.1.7.0/24 table 99 via 192.0.2.66; ip route del 10.1.7.0/24 table 99",
					i,
				),
			)
			testkit.IP(t, "link set bz-b down")
			testkit.IP(t, "neigh replace 192.0.2.67 lladdr 02:00:00:00:00:08 dev "+kernelfake.Underlay)
			testkit.Run(t, "cat", "/proc/sys/net/ipv4/conf/bn-blue/arp_ignore")
		}
		testkit.Run(
			t,
			"sh",
			"-ec",
			"nft add table inet theirs; iptables-nft -N OTHER; iptables-nft -X OTHER; ip route flush root 100.64.0.0/16",
		)
		return wakes.Load() == before
	}, 30*time.Second, 100*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}
