//go:build system

package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fabric is the lab's member with the underlay and etcd.
const fabric = "fabric"

// prefix is that of the cluster's keys in etcd.
const prefix = "/baize/v1/"

// seen is what a look found: a line of what there is, by what it is. Two looks that are
// equal found the same.
type seen map[string]string

// see looks at the whole domain: what there is in etcd, in every host's switch and kernel. The error
// says what did not answer.
func (c *chaos) see() (seen, error) {
	out := seen{}
	if err := c.seeStore(out); err != nil {
		return nil, err
	}
	for _, h := range c.hosts {
		if err := c.seeSwitch(h, out); err != nil {
			return nil, err
		}
		if err := c.seeKernel(h, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// seeStore reads etcd by key: who has which subnet, who is where, whose agent is alive.
func (c *chaos) seeStore(out seen) error {
	text, err := c.Run(fabric, "etcdctl", "--endpoints="+c.EtcdEndpoint(), "get", "--prefix", prefix)
	if err != nil {
		return fmt.Errorf("etcd: %w: %s", err, text)
	}
	for key, line := range keysAndValues(text) {
		key = strings.TrimPrefix(key, prefix)
		var value struct {
			Node  string   `json:"node"`
			VTEPs []string `json:"vteps"`
			IPv4  string   `json:"ipv4"`
			VNI   int      `json:"vni"`
		}
		if err := json.Unmarshal([]byte(line), &value); err != nil {
			return fmt.Errorf("key %s: %w", key, err)
		}
		out["key "+key] = fmt.Sprintf("%+v", value)
	}
	return nil
}

// What a flow has that may be another when it was made anew: its cookie, the numbers of
// meters, and those of ports, which become their names.
var (
	cookie = regexp.MustCompile(`^ *cookie=0x[0-9a-f]+, `)
	meter  = regexp.MustCompile(`meter:\d+`)
	toPort = regexp.MustCompile(`set_field:0x([0-9a-f]+)->reg2`)
)

// seeSwitch reads the ports and the flows of a host's bridge.
func (c *chaos) seeSwitch(h string, out seen) error {
	ports, err := c.Run(h, "ovs-vsctl", "--timeout=5", "list-ports", "br-baize")
	if err != nil {
		return fmt.Errorf("%s: %w: %s", h, err, ports)
	}
	names := map[string]string{}
	for _, p := range strings.Fields(ports) {
		text, err := c.Run(h, "ovs-vsctl", "--timeout=5", "--columns=type,options,error,ofport", "list", "interface", p)
		if err != nil {
			return fmt.Errorf("%s: %w: %s", h, err, text)
		}
		text, number, _ := strings.Cut(text, "ofport")
		n, _ := strconv.Atoi(strings.Trim(number, " :\n"))
		names[fmt.Sprintf("%x", n)] = p
		out[h+": port "+p] = strings.Join(strings.Fields(text), " ")
	}
	flows, err := c.Run(h, "ovs-ofctl", "-O", "OpenFlow14", "--names", "--no-stats", "dump-flows", "br-baize")
	if err != nil {
		return fmt.Errorf("%s: %w: %s", h, err, flows)
	}
	for line := range strings.Lines(flows) {
		line = toPort.ReplaceAllStringFunc(line, func(x string) string {
			return "to " + names[toPort.FindStringSubmatch(x)[1]]
		})
		line = meter.ReplaceAllString(line, "meter")
		if text := strings.TrimSpace(cookie.ReplaceAllString(line, "")); strings.Contains(text, "actions=") {
			out[h+": flow "+text] = "there"
		}
	}
	return nil
}

// kernelViews are what a host's kernel has for Baize, by the commands that list it: a line each.
var kernelViews = [][]string{
	{"ip", "-4", "route", "show", "table", "all", "proto", "173"},
	{"ip", "rule", "show"},
	{"ip", "-4", "-o", "address", "show"},
	{"iptables", "-w", "-S", "FORWARD"},
	{"iptables", "-w", "-S", "BAIZE-FORWARD"},
	{"sysctl", "net.ipv4.ip_forward", "net/ipv4/conf/bn-lane/rp_filter", "net/ipv4/conf/bn-lane/arp_ignore"},
}

// deviceNumber is another after a device was made anew.
var deviceNumber = regexp.MustCompile(`^\d+: `)

// seeKernel reads what a host's kernel has.
func (c *chaos) seeKernel(h string, out seen) error {
	for _, view := range kernelViews {
		text, err := c.Run(h, view...)
		if err != nil {
			return fmt.Errorf("%s: %s: %w: %s", h, strings.Join(view, " "), err, text)
		}
		for n, line := range strings.Split(strings.TrimSpace(text), "\n") {
			if view[0] != "iptables" {
				n = 0 // the order says nothing
			}
			if *docker && view[0] == "iptables" && !strings.Contains(line, "BAIZE") {
				continue // an engine that starts has its own rules in another order
			}
			line = deviceNumber.ReplaceAllString(strings.Join(strings.Fields(line), " "), "")
			out[fmt.Sprintf("%s: %s %d %s", h, view[0], n, line)] = "there"
		}
	}
	return nil
}

// differences are what one look found and another did not, a few of them.
func differences(was, is seen) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(was)) {
		switch now, there := is[k]; {
		case !there:
			out = append(out, "is gone: "+k)
		case now != was[k]:
			out = append(out, fmt.Sprintf("%s was %q and is %q", k, was[k], now))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(is)) {
		if _, there := was[k]; !there {
			out = append(out, "is new: "+k)
		}
	}
	const some = 8
	if n := len(out) - some; n > 0 {
		out = append(out[:some], fmt.Sprintf("and %d more", n))
	}
	return out
}

// The checker sees what is gone, new or another.
func TestDifferences(t *testing.T) {
	was := seen{"a": "1", "b": "1", "c": "1"}
	require.Empty(t, differences(was, maps.Clone(was)))
	require.Equal(t, []string{`b was "1" and is "2"`, "is gone: c", "is new: d"}, differences(was, seen{"a": "1", "b": "2", "d": "1"}))
	many := seen{}
	for i := range 20 {
		many[fmt.Sprintf("flow %02d", i)] = "there"
	}
	require.Len(t, differences(many, seen{}), 9)
	require.Equal(t, "and 12 more", differences(many, seen{})[8])
}
