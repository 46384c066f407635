package cnitest

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Codes of section 5, "Error".
const (
	codeVersion     = 1
	codeUnsupported = 2
	codeEnvironment = 4
	codeDecode      = 6
	codeConfig      = 7
	codeNetns       = 8 // of the reference library: CNI_NETNS is not fit
	codeUnavailable = 50
	codeLimited     = 51
)

func strict(s Suite) bool { return s.Strict }

var versionRules = []rule{
	{
		section: "VERSION", says: "prints the versions that the plugin supports", once: true,
		test: func(c *call) {
			var out struct {
				Version   string   `json:"cniVersion"`
				Supported []string `json:"supportedVersions"`
			}
			c.decode(c.exec("VERSION", []byte(`{"cniVersion":"`+c.version+`"}`), nil), &out)
			assert.NotEmpty(c, out.Version)
			assert.Contains(c, out.Supported, c.version)
		},
	},
	{
		section: "VERSION", says: "repeats the version of the request", needs: strict,
		test: func(c *call) {
			var out struct {
				Version string `json:"cniVersion"`
			}
			c.decode(c.exec("VERSION", []byte(`{"cniVersion":"`+c.version+`"}`), nil), &out)
			assert.Equal(c, c.version, out.Version)
		},
	},
	{
		section: "Error", says: "1 where the version is not supported", once: true,
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"cniVersion": "9.9.9"}
			for _, verb := range []string{"ADD", "CHECK"} {
				c.fails(c.exec(verb, c.marshal(c.config(a)), c.vars(a)), []uint{codeVersion})
			}
			assert.Empty(c, c.links(a))
		},
	},
}

var environmentRules = []rule{
	{
		section: "Parameters", says: "a required variable that is missing is error 4, which names it", once: true,
		test: func(c *call) {
			for verb, required := range map[string][]string{
				"ADD":   {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
				"DEL":   {"CNI_CONTAINERID", "CNI_IFNAME"},
				"CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
			} {
				for _, name := range required {
					a := c.container()
					vars := c.vars(a)
					delete(vars, name)
					c.fails(c.exec(verb, c.marshal(c.config(a)), vars), []uint{codeEnvironment}, name)
					assert.Empty(c, c.links(a))
				}
			}
		},
	},
	{
		section: "Parameters", once: true,
		says: "a container's ID begins with a letter or digit, and has no others but _ . -",
		test: func(c *call) {
			for _, id := range []string{"a/b", "-a", "a b", "ä"} {
				a := c.container()
				a.container = id
				out := c.exec("ADD", c.marshal(c.config(a)), c.vars(a))
				c.fails(out, []uint{codeEnvironment}, named(c, "CNI_CONTAINERID")...)
				assert.Empty(c, c.links(a))
			}
		},
	},
	{
		section: "Parameters", says: "a name that no interface can have is an error", once: true,
		test: func(c *call) {
			for _, name := range []string{"..", "a/b", "a b", "a:b", strings.Repeat("x", 16)} {
				a := c.container()
				a.ifname = name
				c.fails(c.exec("ADD", c.marshal(c.config(a)), c.vars(a)), nil, named(c, "CNI_IFNAME")...)
				assert.Empty(c, c.links(a))
			}
		},
	},
	{
		section: "Parameters", says: "a namespace that is not there is an error of ADD", once: true,
		test: func(c *call) {
			a := c.container()
			a.netns += "-not"
			c.fails(c.verb("ADD", a, nil), nil, named(c, "CNI_NETNS")...)
		},
	},
	{
		section: "Parameters", says: "the runtime's own namespace is none of a container", once: true, needs: strict,
		test: func(c *call) {
			a := c.container()
			a.netns = "/proc/1/ns/net"
			a.ifname = "cnitest0"
			c.fails(c.exec("ADD", c.marshal(c.config(a)), c.vars(a)), []uint{codeEnvironment, codeNetns}, "CNI_NETNS")
			assert.NotContains(c, c.host("ip", "-br", "link"), a.ifname)
		},
	},
	{
		section: "Parameters", says: "an operation that is not known is an error", once: true,
		test: func(c *call) {
			a := c.container()
			c.fails(c.exec("FETCH", c.marshal(c.config(a)), c.vars(a)), []uint{codeEnvironment}, named(c, "CNI_COMMAND")...)
		},
	},
	{
		section: "Error", says: "6 where the configuration cannot be read", once: true,
		test: func(c *call) {
			a := c.container()
			for _, text := range []string{"", "{", "[]", `{"name":7}`} {
				c.fails(c.exec("ADD", []byte(text), c.vars(a)), []uint{codeDecode})
			}
		},
	},
	{
		section: "Error", says: "7 where the network has no valid name", once: true,
		test: func(c *call) {
			for _, name := range []any{nil, "", "a/b", "-a"} {
				a := c.container()
				a.extra = map[string]any{"name": name}
				c.fails(c.exec("ADD", c.marshal(c.config(a)), c.vars(a)), []uint{codeConfig})
				assert.Empty(c, c.links(a))
			}
		},
	},
	{
		section: "Error", says: "2 names the key and the value that are not supported", once: true, needs: strict,
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"nettwork": map[string]any{"a": 1}}
			c.fails(c.exec("ADD", c.marshal(c.config(a)), c.vars(a)), []uint{codeUnsupported}, "nettwork", `{"a":1}`)
			c.succeeds(c.verb("DEL", a, nil))
		},
	},
	{
		section: "Deriving request configuration", says: "keys that begin with cni.dev/ are the runtime's", once: true,
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"cni.dev/attachments": []any{}}
			c.add(a)
		},
	},
}

// named are words of errors that only a strict plugin has.
func named(c *call, words ...string) []string {
	if c.suite.Strict {
		return words
	}
	return nil
}

var addRules = []rule{
	{
		section: "ADD", says: "creates CNI_IFNAME in CNI_NETNS and describes it",
		test: func(c *call) {
			a := c.container()
			result, _ := c.add(a)
			require.Equal(c, []string{a.ifname}, c.links(a))
			have := c.link(a)
			index := slices.IndexFunc(result.Interfaces, func(i *current.Interface) bool { return i.Sandbox == a.netns })
			require.GreaterOrEqual(c, index, 0, "the sandbox is the value of CNI_NETNS")
			is := result.Interfaces[index]
			assert.Equal(c, a.ifname, is.Name)
			assert.Equal(c, have.MAC, is.Mac)
			var addrs []string
			for _, ip := range result.IPs {
				require.NotNil(c, ip.Interface)
				assert.Equal(c, index, *ip.Interface)
				addrs = append(addrs, ip.Address.String())
			}
			slices.Sort(addrs)
			require.NotEmpty(c, addrs)
			assert.Equal(c, have.addrs(), addrs)
			for i, other := range result.Interfaces {
				if i != index {
					assert.Empty(c, other.Sandbox, "other interfaces are the host's")
					c.host("ip", "link", "show", "dev", other.Name)
				}
			}
		},
	},
	{
		section: "ADD", says: "the result has the MTU", since: "1.1.0", needs: strict,
		test: func(c *call) {
			a := c.container()
			result, _ := c.add(a)
			for _, i := range result.Interfaces {
				if i.Sandbox == a.netns {
					assert.Equal(c, c.link(a).MTU, i.Mtu)
				}
			}
		},
	},
	{
		section: "ADD", says: "the result has the routes that it created, and they are there",
		test: func(c *call) {
			a := c.container()
			result, _ := c.add(a)
			for _, r := range result.Routes {
				family := "-4"
				if r.Dst.IP.To4() == nil {
					family = "-6"
				}
				out := c.inside(a, "ip", family, "route", "show", "exact", r.Dst.String())
				require.NotEmpty(c, strings.TrimSpace(out), "route to %s", r.Dst.String())
				if r.GW != nil {
					assert.Contains(c, out, "via "+r.GW.String())
				}
			}
		},
	},
	{
		section: "ADD", says: "an interface of the name that is there already is an error, and stays", once: true,
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			before := c.link(a)
			c.fails(c.verb("ADD", a, nil), nil)
			assert.Equal(c, before, c.link(a))
			c.succeeds(c.verb("CHECK", a, prev))

			b := c.container()
			c.inside(b, "ip", "link", "add", b.ifname, "type", "bridge")
			c.fails(c.exec("ADD", c.marshal(c.config(b)), c.vars(b)), nil)
			assert.Contains(c, c.inside(b, "ip", "-d", "link", "show", "dev", b.ifname), "bridge")
		},
	},
	{
		section: "ADD", says: "a container may be added more than once with different names", once: true,
		test: func(c *call) {
			a := c.container()
			b := a
			b.ifname = "net1"
			c.add(a)
			c.add(b)
			assert.ElementsMatch(c, []string{a.ifname, b.ifname}, c.links(a))
			assert.NotEqual(c, c.link(a).addrs(), c.link(b).addrs())
			c.succeeds(c.verb("DEL", b, nil))
			assert.Equal(c, []string{a.ifname}, c.links(a))
		},
	},
	{
		section: "ADD", says: "prevResult is passed through, with what the plugin adds", needs: strict,
		test: func(c *call) {
			a := c.container()
			prev := json.RawMessage(fmt.Sprintf(`{"cniVersion":%q,"interfaces":[{"name":"other0","mac":"02:00:00:00:00:99",`+
				`"sandbox":%q}],"ips":[{%s"address":"192.0.2.7/24","interface":0}],"routes":[{"dst":"198.51.100.0/24",`+
				`"gw":"192.0.2.1"}],"dns":{"nameservers":["192.0.2.53"]}}`, c.version, a.netns, oldIPVersion(c.version)))
			out := c.verb("ADD", a, prev)
			require.Zero(c, out.code, "%s", out.stdout)
			result := c.result(out)
			assert.Equal(c, "other0", result.Interfaces[0].Name)
			assert.Equal(c, "192.0.2.7/24", result.IPs[0].Address.String())
			assert.Equal(c, 0, *result.IPs[0].Interface)
			assert.Equal(c, "198.51.100.0/24", result.Routes[0].Dst.String())
			assert.Contains(c, result.DNS.Nameservers, "192.0.2.53")
			require.Greater(c, len(result.IPs), 1)
			last := result.IPs[len(result.IPs)-1]
			assert.Equal(c, a.ifname, result.Interfaces[*last.Interface].Name)
		},
	},
	{
		section: "ADD", says: "containers of a network reach each other", once: true, needs: strict,
		test: func(c *call) {
			a, b := c.container(), c.container()
			c.add(a)
			result, _ := c.add(b)
			c.inside(a, "ping", "-c", "1", "-w", "10", result.IPs[0].Address.IP.String())
		},
	},
}

// oldIPVersion is the key that addresses had before 1.0.0.
func oldIPVersion(version string) string {
	if strings.HasPrefix(version, "0.") {
		return `"version":"4",`
	}
	return ""
}

var delRules = []rule{
	{
		section: "DEL", says: "deletes the interface, also twice, with and without prevResult",
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			c.succeeds(c.verb("DEL", a, prev))
			assert.Empty(c, c.links(a))
			c.succeeds(c.verb("DEL", a, prev))
			c.succeeds(c.verb("DEL", a, nil))
			c.add(a) // the same container again, as after a restart
		},
	},
	{
		section: "DEL", says: "succeeds for what was never added, and leaves others alone", once: true,
		test: func(c *call) {
			a, b := c.container(), c.container()
			c.add(a)
			c.succeeds(c.verb("DEL", b, nil))
			b.ifname = "net7"
			c.succeeds(c.verb("DEL", b, nil))
			assert.Equal(c, []string{a.ifname}, c.links(a))
		},
	},
	{
		section: "DEL", says: "succeeds where the interface is gone", once: true,
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			c.inside(a, "ip", "link", "delete", a.ifname)
			c.succeeds(c.verb("DEL", a, prev))
		},
	},
	{
		section: "DEL", says: "succeeds where the namespace is gone", once: true,
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			c.host("ip", "netns", "delete", a.container)
			c.succeeds(c.verb("DEL", a, prev))
		},
	},
	{
		section: "DEL", says: "succeeds without CNI_NETNS", once: true,
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			c.host("ip", "netns", "delete", a.container)
			a.netns = ""
			c.succeeds(c.verb("DEL", a, prev))
			c.succeeds(c.verb("DEL", a, nil))
			if c.suite.Left != nil {
				assert.Empty(c, c.suite.Left(c.T, c.network))
			}
		},
	},
}

func modified(c *call, a attachment, how ...string) {
	c.Helper()
	_, prev := c.add(a)
	c.succeeds(c.verb("CHECK", a, prev))
	c.inside(a, how...)
	c.fails(c.verb("CHECK", a, prev), nil)
}

var checkRules = []rule{
	{
		section: "CHECK", says: "succeeds immediately after ADD", since: "0.4.0",
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			c.succeeds(c.verb("CHECK", a, prev))
			c.succeeds(c.verb("CHECK", a, prev))
		},
	},
	{
		section: "CHECK", says: "is error 1 before version 0.4.0", once: true,
		test: func(c *call) {
			a := c.container()
			a.extra = map[string]any{"cniVersion": "0.3.1"}
			c.fails(c.exec("CHECK", c.marshal(c.config(a)), c.vars(a)), []uint{codeVersion})
		},
	},
	{
		section: "CHECK", says: "needs prevResult", since: "0.4.0", once: true,
		test: func(c *call) {
			a := c.container()
			c.add(a)
			c.fails(c.verb("CHECK", a, nil), nil, "prevResult")
		},
	},
	{
		section: "CHECK", says: "fails where the interface is missing", since: "0.4.0", once: true,
		test: func(c *call) {
			a := c.container()
			modified(c, a, "ip", "link", "delete", a.ifname)
		},
	},
	{
		section: "CHECK", says: "fails where an address is missing", since: "0.4.0", once: true,
		test: func(c *call) {
			a := c.container()
			modified(c, a, "ip", "addr", "flush", "dev", a.ifname, "scope", "global")
		},
	},
	{
		section: "CHECK", says: "fails after DEL", since: "0.4.0", once: true,
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			c.succeeds(c.verb("DEL", a, prev))
			c.fails(c.verb("CHECK", a, prev), nil)
		},
	},
	{
		section: "CHECK", says: "allows what a later plugin of the chain has added", since: "0.4.0", once: true,
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			c.inside(a, "ip", "link", "add", "other0", "type", "bridge")
			c.inside(a, "ip", "addr", "add", "192.0.2.9/24", "dev", a.ifname)
			c.inside(a, "ip", "route", "add", "198.51.100.0/24", "dev", a.ifname)
			c.inside(a, "ip", "link", "set", "dev", a.ifname, "mtu", "1300")
			c.succeeds(c.verb("CHECK", a, prev))
		},
	},
	{
		section: "CHECK", says: "fails where a route of the result is missing", since: "0.4.0", once: true,
		test: func(c *call) {
			a := c.container()
			result, prev := c.add(a)
			for _, r := range result.Routes {
				c.inside(a, "ip", "route", "delete", r.Dst.String())
				c.fails(c.verb("CHECK", a, prev), nil)
				return
			}
		},
	},
}

var statusRules = []rule{
	{
		section: "STATUS", says: "succeeds where the plugin can serve ADD", since: "1.1.0",
		test: func(c *call) { c.succeeds(c.exec("STATUS", c.marshal(c.config(attachment{})), nil)) },
	},
	{
		section: "STATUS", says: "is error 50 or 51 where it cannot", since: "1.1.0",
		needs: func(s Suite) bool { return s.Broken != nil },
		test: func(c *call) {
			repair := c.suite.Broken(c.T)
			c.fails(c.exec("STATUS", c.marshal(c.config(attachment{})), nil), []uint{codeUnavailable, codeLimited})
			repair()
			c.succeeds(c.exec("STATUS", c.marshal(c.config(attachment{})), nil))
		},
	},
}

// valid is the configuration of GC with the attachments that are left.
func (c *call) valid(list ...attachment) []byte {
	c.Helper()
	entries := []map[string]string{}
	for _, a := range list {
		entries = append(entries, map[string]string{"containerID": a.container, "ifname": a.ifname})
	}
	config := c.config(attachment{})
	config["cni.dev/valid-attachments"] = entries
	return c.marshal(config)
}

var gcRules = []rule{
	{
		section: "GC", says: "removes what is not among the valid attachments, and nothing else", since: "1.1.0",
		test: func(c *call) {
			a, b := c.container(), c.container()
			second := b
			second.ifname = "net1"
			_, prev := c.add(a)
			c.add(b)
			c.add(second)
			c.succeeds(c.exec("GC", c.valid(a, b, second), nil))
			assert.Len(c, c.links(b), 2)
			c.succeeds(c.exec("GC", c.valid(a, second), nil))
			c.succeeds(c.verb("CHECK", a, prev))
			if c.suite.Left == nil {
				return // an interface plugin need not remove it from a container
			}
			assert.Equal(c, []string{"net1"}, c.links(b))
			c.succeeds(c.exec("GC", c.valid(), nil))
			assert.Empty(c, c.suite.Left(c.T, c.network))
			c.succeeds(c.exec("GC", c.valid(), nil))
		},
	},
	{
		section: "GC", says: "is for one network", since: "1.1.0",
		test: func(c *call) {
			a := c.container()
			_, prev := c.add(a)
			other := *c
			other.network += "-other"
			c.succeeds(other.exec("GC", other.valid(), nil))
			c.succeeds(c.verb("CHECK", a, prev))
		},
	},
	{
		section: "GC", says: "is error 1 before version 1.1.0", since: "1.1.0",
		test: func(c *call) {
			a := attachment{extra: map[string]any{"cniVersion": "1.0.0"}}
			c.fails(c.exec("GC", c.marshal(c.config(a)), nil), []uint{codeVersion})
		},
	},
}

// mustMAC parses a link address of a rule.
func mustMAC(c *call, s string) net.HardwareAddr {
	c.Helper()
	m, err := net.ParseMAC(s)
	require.NoError(c, err)
	return m
}
