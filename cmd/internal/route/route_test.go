package route

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func via(prefix, gw string) Route {
	return Route{Prefix: netip.MustParsePrefix(prefix), Via: netip.MustParseAddr(gw), Dev: "eth0"}
}

func TestDiff(t *testing.T) {
	a, b, six := via("10.1.5.0/24", "192.0.2.5"), via("10.1.7.0/24", "192.0.2.7"), via("fd00:1:5::/64", "2001:db8::5")
	moved := a
	moved.Via = netip.MustParseAddr("192.0.2.9")
	higher := a
	higher.Metric = 100
	sixKernel := six
	sixKernel.Metric = 1024
	cases := map[string]struct {
		want     []Route
		have     Observed
		change   Change
		problems int
	}{
		"nothing": {},
		"new":     {want: []Route{a, six}, change: Change{Add: []Route{a, sixKernel}}},
		"there":   {want: []Route{a, six}, have: Observed{Own: []Route{sixKernel, a}}},
		"another next hop": {
			want:   []Route{moved},
			have:   Observed{Own: []Route{a}},
			change: Change{Replace: []Route{moved}},
		},
		"owner gone": {
			want:   []Route{a},
			have:   Observed{Own: []Route{b, a}},
			change: Change{Remove: []Route{b}},
		},
		"twice wanted": {want: []Route{a, moved}, change: Change{Add: []Route{a}}},
		"foreign in its place": {
			want:     []Route{a, b},
			have:     Observed{Foreign: []Foreign{{Route: moved, Protocol: 4}}},
			change:   Change{Add: []Route{b}},
			problems: 1,
		},
		"foreign, less preferred": {
			want:   []Route{a},
			have:   Observed{Foreign: []Foreign{{Route: higher}}},
			change: Change{Add: []Route{a}},
		},
		"foreign, preferred": {
			want:     []Route{six},
			have:     Observed{Foreign: []Foreign{{Route: Route{Prefix: six.Prefix, Dev: "eth1", Metric: 10}}}},
			change:   Change{Add: []Route{sixKernel}},
			problems: 1,
		},
		"another metric is another route": {
			want:   []Route{higher},
			have:   Observed{Own: []Route{a}},
			change: Change{Add: []Route{higher}, Remove: []Route{a}},
		},
		"foreign only": {have: Observed{Foreign: []Foreign{{Route: a, Protocol: 4}}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			change, problems := Diff(c.want, c.have)
			assert.Equal(t, c.change, change)
			assert.Len(t, problems, c.problems)
		})
	}
}

// From any set of routes to any other, the difference is enough, and a second
// one is empty.
func TestDiffConverges(t *testing.T) {
	all := []Route{
		via("10.1.5.0/24", "192.0.2.5"),
		via("10.1.5.0/24", "192.0.2.6"),
		via("10.1.6.0/24", "192.0.2.6"),
		{
			Prefix:      netip.MustParsePrefix("10.1.0.0/16"),
			Unreachable: true,
		},
		via("fd00:1:5::/64", "2001:db8::5"),
		via("fd00:1:5::/64", "2001:db8::6"),
	}
	some := func() (out []Route) {
		for _, r := range all {
			if rand.IntN(2) == 0 {
				out = append(out, r)
			}
		}
		return out
	}
	have := Observed{}
	for range 500 {
		want := some()
		c, _ := Diff(want, have)
		table := map[key]Route{}
		for _, r := range have.Own {
			table[r.key()] = r
		}
		for _, r := range append(c.Add, c.Replace...) {
			table[r.key()] = r
		}
		for _, r := range c.Remove {
			delete(table, r.key())
		}
		have.Own = nil
		for _, r := range table {
			have.Own = append(have.Own, r)
		}
		c, problems := Diff(want, have)
		require.True(t, c.Empty(), c)
		require.Empty(t, problems)
	}
}

func TestString(t *testing.T) {
	assert.Equal(t, "10.1.5.0/24 via 192.0.2.5 dev eth0", via("10.1.5.0/24", "192.0.2.5").String())
	assert.Equal(
		t,
		"unreachable fd00::/48 metric 1024",
		Route{Prefix: netip.MustParsePrefix("fd00::/48"), Unreachable: true}.String(),
	)
	assert.Equal(
		t,
		"10.1.5.0/24 dev bz src 10.1.5.1",
		Route{Prefix: netip.MustParsePrefix("10.1.5.0/24"), Dev: "bz", Src: netip.MustParseAddr("10.1.5.1")}.String(),
	)
}
