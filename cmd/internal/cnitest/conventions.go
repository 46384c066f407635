package cnitest

import "github.com/stretchr/testify/assert"

func takesAddrs(s Suite) bool { return s.Addr != nil }

var conventionRules = []rule{
	{
		section: "Conventions", says: "the capability ips gives the address", needs: takesAddrs,
		test: func(c *call) {
			a := c.container()
			addr := c.suite.Addr(c.T)
			a.extra = map[string]any{"runtimeConfig": map[string]any{"ips": []string{addr}}}
			result, _ := c.add(a)
			assert.Contains(c, c.link(a).addrs(), addr)
			assert.Equal(c, addr, result.IPs[0].Address.String())
			// Nobody else gets it.
			b := c.container()
			b.extra = a.extra
			c.fails(c.exec("ADD", c.marshal(c.config(b)), c.vars(b)), nil)
			assert.Empty(c, c.links(b))
		},
	},
	{
		section: "Conventions", says: "args.cni.ips gives the address, and CNI_ARGS where there is none", once: true,
		needs: takesAddrs,
		test: func(c *call) {
			a, b := c.container(), c.container()
			first, second := c.suite.Addr(c.T), c.suite.Addr(c.T)
			a.extra = map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{first}}}}
			a.args = "IP=" + second
			c.add(a)
			assert.Contains(c, c.link(a).addrs(), first)
			b.args = "IP=" + second
			c.add(b)
			assert.Contains(c, c.link(b).addrs(), second)
		},
	},
	{
		section: "Conventions", says: "an address that makes no sense is an error", once: true, needs: takesAddrs,
		test: func(c *call) {
			for _, addr := range []string{"10.1", "::zz", "192.0.2.1/24"} {
				a := c.container()
				a.extra = map[string]any{"runtimeConfig": map[string]any{"ips": []string{addr}}}
				c.fails(c.exec("ADD", c.marshal(c.config(a)), c.vars(a)), nil)
				assert.Empty(c, c.links(a))
			}
		},
	},
	{
		section: "Conventions", says: "the capability mac gives the link address", once: true,
		needs: func(s Suite) bool { return s.MAC },
		test: func(c *call) {
			a := c.container()
			mac := mustMAC(c, "02:11:22:33:44:55")
			a.extra = map[string]any{"runtimeConfig": map[string]any{"mac": mac.String()}}
			_, prev := c.add(a)
			assert.Equal(c, mac.String(), c.link(a).MAC)
			c.succeeds(c.verb("CHECK", a, prev))
		},
	},
	{
		section: "Conventions", says: "the capability bandwidth limits traffic, which CHECK verifies", once: true,
		needs: func(s Suite) bool { return s.Bandwidth },
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]any{
				"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 800_000,
			}}}
			result, prev := c.add(a)
			assert.Contains(c, c.inside(a, "tc", "qdisc", "show", "dev", a.ifname), "rate 16Mbit")
			for _, i := range result.Interfaces {
				if i.Sandbox == "" {
					assert.Contains(c, c.host("tc", "qdisc", "show", "dev", i.Name), "rate 8Mbit")
				}
			}
			c.succeeds(c.verb("CHECK", a, prev))
			c.inside(a, "tc", "qdisc", "delete", "dev", a.ifname, "root")
			c.fails(c.verb("CHECK", a, prev), nil)
		},
	},
	{
		section: "Conventions", says: "dns of the configuration is in the result", once: true,
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"dns": map[string]any{"nameservers": []string{"192.0.2.1"}, "search": []string{"a.b"}}}
			result, _ := c.add(a)
			assert.Equal(c, []string{"192.0.2.1"}, result.DNS.Nameservers)
			assert.Equal(c, []string{"a.b"}, result.DNS.Search)
		},
	},
	{
		section: "Conventions", says: "the capability dns is in the result", once: true, needs: strict,
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"runtimeConfig": map[string]any{"dns": map[string]any{
				"servers": []string{"192.0.2.2"}, "searches": []string{"c.d"}, "options": []string{"ndots:5"},
			}}}
			result, _ := c.add(a)
			assert.Equal(c, []string{"192.0.2.2"}, result.DNS.Nameservers)
			assert.Equal(c, []string{"c.d"}, result.DNS.Search)
			assert.Equal(c, []string{"ndots:5"}, result.DNS.Options)
		},
	},
	{
		section: "Conventions", says: "args that are not known are ignored, CNI_ARGS with IgnoreUnknown", once: true,
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"args": map[string]any{"cni": map[string]any{"labels": []any{}}, "x": 1}}
			a.args = "IgnoreUnknown=true;K8S_POD_NAME=web;FOO=BAR"
			c.add(a)
		},
	},
}
