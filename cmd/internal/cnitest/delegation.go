package cnitest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func delegates(s Suite) bool { return s.Delegates && s.Addr != nil }

// ipam configures the fake ipam plugin for a container, and the address it answers.
func (c *call) ipam(addr string) attachment {
	c.Helper()
	a := c.container()
	a.extra = map[string]any{"ipam": map[string]any{"type": fakeIPAM, "own": "key"}}
	result := fmt.Sprintf(`{"cniVersion":%q,"ips":[{%s"address":%q}],"routes":[{"dst":"203.0.113.0/24","gw":%q}],`+
		`"dns":{"nameservers":["192.0.2.53"]}}`, c.version, oldIPVersion(c.version), addr, neighbour(c, addr))
	c.file("result."+a.container, result)
	return a
}

// neighbour is an address beside another, in its prefix.
func neighbour(c *call, addr string) string {
	c.Helper()
	p, err := netip.ParsePrefix(addr)
	require.NoError(c, err)
	if next := p.Addr().Next(); p.Contains(next) {
		return next.String()
	}
	return p.Addr().Prev().String()
}

func (c *call) fakeDir() string { return c.suite.Path[len(c.suite.Path)-1] }

// file writes a file of the fake ipam plugin.
func (c *call) file(name, text string) {
	c.Helper()
	require.NoError(c, os.WriteFile(filepath.Join(c.fakeDir(), name), []byte(text), 0o644))
}

// told returns what the fake ipam plugin was called with; ok is false where it was not.
func (c *call) told(verb string, a attachment) (stdin map[string]json.RawMessage, env string, ok bool) {
	c.Helper()
	b, err := os.ReadFile(filepath.Join(c.fakeDir(), verb+"."+a.container+".stdin"))
	if os.IsNotExist(err) {
		return nil, "", false
	}
	require.NoError(c, err)
	require.NoError(c, json.Unmarshal(b, &stdin), "%s", b)
	e, err := os.ReadFile(filepath.Join(c.fakeDir(), verb+"."+a.container+".env"))
	require.NoError(c, err)
	return stdin, string(e), true
}

var ipamRules = []rule{
	{
		section: "Delegation", says: "the ipam plugin decides on addresses, routes and name servers", needs: delegates,
		test: func(c *call) {
			addr := c.suite.Addr(c.T)
			a := c.ipam(addr)
			result, prev := c.add(a)
			assert.Contains(c, c.link(a).addrs(), addr)
			require.NotEmpty(c, result.IPs)
			assert.Equal(c, addr, result.IPs[0].Address.String())
			assert.Contains(c, c.inside(a, "ip", "route", "show", "203.0.113.0/24"), "via "+neighbour(c, addr))
			assert.Equal(c, []string{"192.0.2.53"}, result.DNS.Nameservers)
			if c.version == "0.3.1" {
				return
			}
			c.succeeds(c.verb("CHECK", a, prev))
			_, _, ok := c.told("CHECK", a)
			assert.True(c, ok, "CHECK is delegated, too")
			c.inside(a, "ip", "route", "delete", "203.0.113.0/24")
			c.fails(c.verb("CHECK", a, prev), nil)
		},
	},
	{
		section: "Delegation", says: "it gets the same environment and the whole configuration", once: true, needs: delegates,
		test: func(c *call) {
			a := c.ipam(c.suite.Addr(c.T))
			a.args = "IgnoreUnknown=true;ARG=7"
			a.extra["args"] = map[string]any{"some": "thing"}
			c.add(a)
			c.succeeds(c.verb("DEL", a, nil))
			for _, verb := range []string{"ADD", "DEL"} {
				stdin, env, ok := c.told(verb, a)
				require.True(c, ok, verb)
				for k, v := range c.config(a) {
					assert.JSONEq(c, string(c.marshal(v)), string(stdin[k]), "%s: %s", verb, k)
				}
				for k, v := range c.vars(a) {
					assert.Contains(c, env, k+"="+v)
				}
				assert.Contains(c, env, "CNI_COMMAND="+verb)
				assert.Contains(c, env, "CNI_PATH="+strings.Join(c.suite.Path, ":"))
			}
		},
	},
	{
		section: "Delegation", says: "where it fails at ADD, DEL follows, and nothing is left", once: true, needs: delegates,
		test: func(c *call) {
			a := c.ipam(c.suite.Addr(c.T))
			c.file("fail.ADD."+a.container, "")
			c.fails(c.exec("ADD", c.marshal(c.config(a)), c.vars(a)), nil, "told to fail")
			_, _, ok := c.told("DEL", a)
			assert.True(c, ok)
			assert.Empty(c, c.links(a))
		},
	},
	{
		section: "Delegation", says: "where ADD fails after it, DEL takes the address back", once: true, needs: delegates,
		test: func(c *call) {
			a := c.ipam(c.suite.Addr(c.T))
			c.inside(a, "ip", "link", "add", a.ifname, "type", "bridge")
			c.fails(c.exec("ADD", c.marshal(c.config(a)), c.vars(a)), nil)
			_, _, ok := c.told("DEL", a)
			assert.True(c, ok)
		},
	},
	{
		section: "Delegation", says: "its errors are returned", once: true, needs: delegates,
		test: func(c *call) {
			a := c.ipam(c.suite.Addr(c.T))
			_, prev := c.add(a)
			for _, verb := range []string{"CHECK", "DEL"} {
				c.file("fail."+verb+"."+a.container, "")
				c.fails(c.verb(verb, a, prev), nil, "told to fail")
				require.NoError(c, os.Remove(filepath.Join(c.fakeDir(), "fail."+verb+"."+a.container)))
			}
			assert.Empty(c, c.links(a), "DEL did the rest all the same")
		},
	},
	{
		section: "Delegation", says: "DEL is delegated without a namespace, too", once: true, needs: delegates,
		test: func(c *call) {
			a := c.ipam(c.suite.Addr(c.T))
			c.add(a)
			c.host("ip", "netns", "delete", a.container)
			a.netns = ""
			c.succeeds(c.verb("DEL", a, nil))
			_, _, ok := c.told("DEL", a)
			assert.True(c, ok)
		},
	},
	{
		section: "Delegation", says: "GC and STATUS are delegated", since: "1.1.0", needs: delegates,
		test: func(c *call) {
			a := c.ipam(c.suite.Addr(c.T))
			config := c.config(a)
			config["cni.dev/valid-attachments"] = []any{}
			for _, verb := range []string{"GC", "STATUS"} {
				c.succeeds(c.exec(verb, c.marshal(config), nil))
				_, _, ok := c.told(verb, attachment{})
				assert.True(c, ok, verb)
			}
		},
	},
}
