package membership

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/topology"
)

// What is leased and given back, by what is needed and when it was so last.
func TestDecide(t *testing.T) {
	const grace = 10 * time.Minute
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration, seen bool) map[string]lastNeed {
		return map[string]lastNeed{"blue": {now.Add(-d), seen}}
	}
	blue := topology.Network{
		Name: "blue", IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48"),
		SubnetLenIPv4: 24, SubnetLenIPv6: 64,
	}
	with := func(change func(*topology.Network)) topology.Network {
		n := blue
		change(&n)
		return n
	}
	docker := with(func(n *topology.Network) { n.CreatedBy = topology.CreatedByDocker })
	v4 := topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.5.0/24"), Node: "host1"}
	v6 := topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("fd00:10:1:5::/64"), Node: "host1"}
	other := topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.6.0/24"), Node: "host2"}
	reserved, segment := v4, v4
	reserved.Reserved, segment.Segment = true, "docker0"
	both := []lacking{{"blue", topology.IPv4}, {"blue", topology.IPv6}}
	blueOnly := []string{"blue"}
	used := map[string]lastNeed{"blue": {seen: true}}
	none := map[string]lastNeed{}

	for name, c := range map[string]struct {
		network    topology.Network
		subnets    []topology.Subnet
		needed     bool
		ahead      []string
		incomplete bool
		last       map[string]lastNeed
		want       decision
	}{
		"it exists, and nothing needs it": {
			network: blue, subnets: []topology.Subnet{other},
			want: decision{last: none},
		},
		"an endpoint": {
			network: blue, needed: true,
			want: decision{wanted: blueOnly, lacking: both, last: used},
		},
		"before all have said": {
			network: blue, needed: true, incomplete: true,
			want: decision{wanted: blueOnly, lacking: both, last: used},
		},
		"leased in one family": {
			network: blue, needed: true, subnets: []topology.Subnet{v6},
			want: decision{wanted: blueOnly, lacking: both[:1], last: used},
		},
		"leased": {
			network: blue, needed: true, subnets: []topology.Subnet{v4, v6},
			want: decision{wanted: blueOnly, last: used},
		},
		"ahead": {
			network: blue, ahead: []string{"red", "blue"},
			want: decision{wanted: blueOnly, lacking: both, last: used},
		},
		"reserved by a person": {
			network: blue, subnets: []topology.Subnet{reserved},
			want: decision{wanted: blueOnly, lacking: both[1:], last: used},
		},
		"docker0 has a subnet": {
			network: blue, subnets: []topology.Subnet{segment},
			want: decision{wanted: blueOnly, lacking: both, last: used},
		},
		"kernels are routers in it": {
			network: with(func(n *topology.Network) { n.Router = true }),
			want:    decision{wanted: blueOnly, lacking: both, last: used},
		},
		"its source leases": {
			network: with(func(n *topology.Network) { n.Layout = "elsewhere" }), needed: true,
			want: decision{last: none},
		},
		"it is being deleted": {
			network: with(func(n *topology.Network) { n.Deleting = topology.DeleteUnused }), needed: true,
			subnets: []topology.Subnet{v4}, want: decision{last: none},
		},
		"not needed, as the agent starts": {
			network: blue, subnets: []topology.Subnet{v4},
			want: decision{last: map[string]lastNeed{"blue": {now, false}}, next: grace},
		},
		"not needed, and not all have said": {
			network: blue, subnets: []topology.Subnet{v4}, incomplete: true, last: ago(time.Hour, true),
			want: decision{last: none},
		},
		"not needed any more": {
			network: blue, subnets: []topology.Subnet{v4}, last: used, want: decision{last: ago(0, true), next: grace},
		},
		"not needed for a while": {
			network: blue, subnets: []topology.Subnet{v4}, last: ago(4*time.Minute, true),
			want: decision{last: ago(4*time.Minute, true), next: 6 * time.Minute},
		},
		"not needed for the grace": {
			network: blue, subnets: []topology.Subnet{v4}, last: ago(grace, true),
			want: decision{last: ago(grace, true), idle: blueOnly},
		},
		"the last network of Docker's was removed": {
			network: docker, subnets: []topology.Subnet{v4}, last: used,
			want: decision{last: ago(0, true), idle: blueOnly},
		},
		"Docker's, and the agent has only started": {
			network: docker, subnets: []topology.Subnet{v4}, want: decision{last: ago(0, false), next: grace},
		},
		"nothing is left to give back": {
			network: blue, last: ago(time.Hour, true),
			want: decision{last: none},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &topology.Snapshot{
				Networks: map[string]topology.Network{"blue": c.network}, Subnets: map[topology.SubnetID]topology.Subnet{},
			}
			for _, sub := range c.subnets {
				s.Subnets[topology.SubnetID{Network: "blue", Prefix: sub.Prefix}] = sub
			}
			assert.Equal(t, c.want, decide(situation{
				snapshot: s, self: "host1", ahead: c.ahead, needs: map[string]bool{"blue": c.needed}, complete: !c.incomplete,
				grace: grace, now: now, last: c.last,
			}))
		})
	}
}
