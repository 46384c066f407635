package openvswitch

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/ovs"
)

func TestFirstTunnel(t *testing.T) {
	observed := func(types ...string) ovs.Observed {
		o := ovs.Observed{Ports: map[string]ovs.ObservedPort{}}
		for i, typ := range types {
			p := ovs.ObservedPort{}
			p.Type, p.ExternalIDs = typ, map[string]string{ovs.KeyRole: ovs.RoleTunnel}
			if typ == "internal" {
				p.ExternalIDs = nil
			}
			o.Ports[string(rune('a'+i))] = p
		}
		return o
	}
	for _, c := range []struct {
		before, after []string
		want          bool
	}{
		{nil, nil, false},
		{nil, []string{"internal"}, false},
		{nil, []string{"vxlan"}, true},
		{[]string{"vxlan"}, []string{"vxlan", "vxlan"}, false},
		{[]string{"vxlan"}, []string{"vxlan", "gre"}, true},
		{[]string{"vxlan"}, nil, false},
	} {
		assert.Equal(t, c.want, firstTunnel(observed(c.before...), observed(c.after...)), "%v, %v", c.before, c.after)
	}
}
