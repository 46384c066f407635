//go:build system

package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

// kind is a kind of fault.
type kind struct {
	name string
	// service is what it concerns: two of one at a time are not what is meant. place is
	// where that is, a host drawn at random where empty.
	service, place string
	// breaks: what is sent to and from the host may be lost meanwhile; routed: that of
	// routed networks alone. Of all others no packet may be.
	breaks, routed bool
	// engines: it needs a Docker engine on the host; bare: it needs that there is none.
	engines, bare bool
	// harm does it, and returns what undoes it; nil: it heals without anybody.
	harm func(c *chaos, host string) (heal func())
}

// theHost is the service of a fault that concerns all there is on a host.
const theHost = "host"

var kinds = slices.Concat(ofDaemons, ofStore, ofSwitch, ofKernel)

// ofDaemons: the processes that Baize consists of, and those that it relies on.
var ofDaemons = []kind{
	{name: "agent killed", service: lab.ServiceAgent, harm: kills(lab.ServiceAgent)},
	{name: "agent stopped", service: lab.ServiceAgent, harm: stops(lab.ServiceAgent)},
	{name: "agent paused", service: lab.ServiceAgent, harm: func(c *chaos, h string) func() {
		c.signal(h, lab.ServiceAgent, unix.SIGSTOP)
		return func() { c.signal(h, lab.ServiceAgent, unix.SIGCONT) }
	}},
	{name: "ovs-vswitchd killed", service: lab.ServiceVswitchd, breaks: true, harm: kills(lab.ServiceVswitchd)},
	{name: "ovs-vswitchd stopped", service: lab.ServiceVswitchd, breaks: true, harm: stops(lab.ServiceVswitchd)},
	// Until ovs-vswitchd has its lock in the database again (bridge_run), it looks at no port of the
	// userspace datapath: packets wait for a second or more, as long as their sockets have room.
	{name: "ovsdb-server killed", service: lab.ServiceOVSDB, breaks: true, harm: kills(lab.ServiceOVSDB)},
	{name: "dockerd killed", service: lab.ServiceDockerd, engines: true, harm: killEngine},
	{name: "the host dies", service: theHost, breaks: true, harm: func(c *chaos, h string) func() {
		require.NoError(c.T, c.Host(h).Unplug())
		heals := []func(){func() { require.NoError(c.T, c.Host(h).Plug()) }}
		for _, s := range []string{lab.ServiceAgent, lab.ServiceVswitchd, lab.ServiceOVSDB} {
			heals = append(heals, c.kill(h, s))
		}
		return func() {
			for _, heal := range heals {
				heal()
			}
		}
	}},
}

// ofStore: etcd, what is in it, and the way there.
var ofStore = []kind{
	{name: "etcd killed", service: lab.ServiceEtcd, place: fabric, harm: kills(lab.ServiceEtcd)},
	{name: "etcd stopped", service: lab.ServiceEtcd, place: fabric, harm: stops(lab.ServiceEtcd)},
	{name: "etcd is full", service: lab.ServiceEtcd, place: fabric, harm: func(c *chaos, _ string) func() {
		etcdtest.RaiseNoSpace(c.T, c.EtcdEndpoint())
		return func() { c.etcdctl("alarm", "disarm") }
	}},
	{name: "etcd compacted", service: lab.ServiceEtcd, place: fabric, harm: func(c *chaos, _ string) func() {
		var header struct {
			Header struct {
				Revision int64 `json:"revision"`
			} `json:"header"`
		}
		require.NoError(c.T, json.Unmarshal([]byte(c.etcdctl("get", "-w", "json", prefix)), &header))
		c.etcdctl("compact", strconv.FormatInt(header.Header.Revision, 10))
		c.etcdctl("defrag")
		return nil
	}},
	{name: "etcd emptied", service: lab.ServiceEtcd, place: fabric, harm: func(c *chaos, _ string) func() {
		all := c.records()
		c.etcdctl("del", "--prefix", prefix)
		return func() { c.putBack(all) }
	}},
	{name: "a network's record spoiled", service: lab.ServiceEtcd, place: fabric, harm: func(c *chaos, _ string) func() {
		key := prefix + "networks/" + []string{"blue", "lane"}[c.random.IntN(2)]
		was := c.records()[key]
		c.etcdctl("put", key, `{"vni": "many"}`)
		return func() { c.etcdctl("put", key, was) }
	}},
	{name: "cut off from etcd", service: "the way to etcd", harm: func(c *chaos, h string) func() {
		c.Must(h, "nft", "add table inet chaos; add chain inet chaos out { type filter hook output priority 0; };"+
			"add rule inet chaos out ip daddr 192.168.77.1 meta l4proto tcp drop")
		return func() { c.try(h, "nft", "delete", "table", "inet", "chaos") } // a ruleset that is flushed took it
	}},
	{name: "certificates replaced", service: "certificates", place: fabric, harm: func(c *chaos, _ string) func() {
		was := c.authority
		var show func()
		c.authority, show = c.etcd.NewCertificate(c.Lab, 365*24*time.Hour)
		c.trust(was, c.authority)
		show()
		c.etcd.Cut()
		return func() {
			c.trust(c.authority)
			c.etcd.Cut()
		}
	}},
}

// ofSwitch: what is altered in Open vSwitch by hand.
var ofSwitch = []kind{
	{name: "all flows deleted", service: "flows", breaks: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "ovs-ofctl", "-O", "OpenFlow14", "del-flows", "br-baize")
	}},
	{name: "flows of a table deleted", service: "flows", breaks: true, harm: func(c *chaos, h string) func() {
		table := []int{0, 5, 10, 20, 30, 70}[c.random.IntN(6)]
		return c.try(h, "ovs-ofctl", "-O", "OpenFlow14", "del-flows", "br-baize", fmt.Sprintf("table=%d", table))
	}},
	{name: "flows changed", service: "flows", breaks: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "ovs-ofctl", "-O", "OpenFlow14", "mod-flows", "br-baize", "table=20,actions=drop")
	}},
	{name: "meters and groups deleted", service: "flows", breaks: true, harm: func(c *chaos, h string) func() {
		c.try(h, "ovs-ofctl", "-O", "OpenFlow14", "del-groups", "br-baize")
		return c.try(h, "ovs-ofctl", "-O", "OpenFlow14", "del-meters", "br-baize")
	}},
	{name: "a port deleted", service: "ports", breaks: true, harm: func(c *chaos, h string) func() {
		out, _ := c.Run(h, "ovs-vsctl", "--timeout=5", "list-ports", "br-baize")
		ports := strings.Fields(out)
		slices.Sort(ports)
		if len(ports) == 0 {
			return nil // another fault has taken them all
		}
		return c.try(h, "ovs-vsctl", "--timeout=5", "--no-wait", "del-port", "br-baize", ports[c.random.IntN(len(ports))])
	}},
	{name: "the bridge deleted", service: "ports", breaks: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "ovs-vsctl", "--timeout=5", "--no-wait", "--if-exists", "del-br", "br-baize")
	}},
	{name: "the database emptied", service: "ports", breaks: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "ovs-vsctl", "--timeout=5", "--no-wait", "emer-reset")
	}},
}

// ofKernel: what is altered in a host's kernel by hand, and its place in the underlay.
var ofKernel = []kind{
	{name: "the firewall's chain flushed", service: "firewall", routed: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "iptables", "-w", "-F", "BAIZE-FORWARD")
	}},
	{name: "the ruleset flushed", service: "firewall", routed: true, bare: true, harm: func(c *chaos, h string) func() {
		c.try(h, "nft", "flush", "ruleset")
		return func() { c.policy(h) }
	}},
	{name: "routes deleted", service: "routes", routed: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "ip", "route", "flush", "table", "all", "proto", "173")
	}},
	{name: "addresses deleted", service: "routes", routed: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "ip", "address", "flush", "dev", "bn-lane")
	}},
	{name: "a device taken down", service: "routes", routed: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "ip", "link", "set", "bn-lane", "down")
	}},
	{name: "sysctls altered", service: "sysctls", routed: true, harm: func(c *chaos, h string) func() {
		return c.try(h, "sysctl", "-qw", "net.ipv4.ip_forward=0", "net/ipv4/conf/bn-lane/rp_filter=1")
	}},
	{name: "the VTEP changes", service: "cable", breaks: true, harm: func(c *chaos, h string) func() {
		out := c.Must(h, "ip", "-4", "-o", "addr", "show")
		found := hostAddress.FindStringSubmatch(out)
		require.NotEmpty(c.T, found, out)
		device, was := found[1], found[2]
		now := strings.Replace(was, "77.", "77.1", 1) // 192.168.77.11 is then 192.168.77.111
		change := func(from, to string) {
			c.Must(h, "sysctl", "-qw", "net/ipv4/conf/"+device+"/promote_secondaries=1")
			c.Must(h, "ip", "addr", "replace", to, "dev", device) // the lab gives the first one back by and by
			c.Must(h, "ip", "addr", "del", from, "dev", device)
		}
		change(was, now)
		return func() { change(now, was) }
	}},
	{name: "cut off", service: "cable", breaks: true, harm: func(c *chaos, h string) func() {
		require.NoError(c.T, c.Host(h).Unplug())
		return func() { require.NoError(c.T, c.Host(h).Plug()) }
	}},
}

// hostAddress is a host's device and address in the underlay, as ip(8) prints it.
var hostAddress = regexp.MustCompile(`(\S+) +inet (192\.168\.77\.\d+/\d+)`)

// kills kills a service, which its supervisor starts again.
func kills(service string) func(*chaos, string) func() {
	return func(c *chaos, h string) func() { return c.kill(h, service) }
}

// stops stops a service until it is healed.
func stops(service string) func(*chaos, string) func() {
	return func(c *chaos, h string) func() {
		require.NoError(c.T, c.Host(h).StopService(c.T.Context(), service))
		return func() { require.NoError(c.T, c.Host(h).StartService(c.T.Context(), service)) }
	}
}

func (c *chaos) kill(h, service string) func() {
	c.signal(h, service, unix.SIGKILL)
	return func() { require.NoError(c.T, c.Host(h).AwaitService(c.T.Context(), service)) }
}

func (c *chaos) signal(h, service string, sig unix.Signal) {
	require.NoError(c.T, c.Host(h).Kill(c.T.Context(), service, sig))
}

// policy makes the host drop what it forwards, as Docker does: Baize has to have an exception.
func (c *chaos) policy(h string) { c.Must(h, "iptables", "-w", "-P", "FORWARD", "DROP") }

// try runs a command that another fault may have left nothing to do.
func (c *chaos) try(h string, argv ...string) func() {
	out, err := c.Run(h, argv...)
	if err != nil {
		c.note("%s: %s: %v %s", h, strings.Join(argv, " "), err, strings.TrimSpace(out))
	}
	return nil
}

func (c *chaos) etcdctl(argv ...string) string {
	c.T.Helper()
	return c.Must(fabric, append([]string{"etcdctl", "--endpoints=" + c.EtcdEndpoint()}, argv...)...)
}

// records are the cluster's, by key.
func (c *chaos) records() map[string]string {
	c.T.Helper()
	return keysAndValues(c.etcdctl("get", "--prefix", prefix))
}

// keysAndValues reads what etcdctl prints, where no value has lines.
func keysAndValues(text string) map[string]string {
	out := map[string]string{}
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		out[lines[i]] = lines[i+1]
	}
	return out
}

// putBack writes the records again that are not there any more, as one does with a backup:
// what agents keep alive they write themselves.
func (c *chaos) putBack(all map[string]string) {
	c.T.Helper()
	now := c.records()
	for key, value := range all {
		if _, there := now[key]; !there && !strings.HasPrefix(key, prefix+"alive/") {
			c.etcdctl("put", key, value)
		}
	}
}

// trust replaces the file with the authorities that agents trust.
func (c *chaos) trust(certificates ...[]byte) {
	c.T.Helper()
	file := c.authorities()
	require.NoError(c.T, os.WriteFile(file+".new", slices.Concat(certificates...), 0o644))
	require.NoError(c.T, os.Rename(file+".new", file))
}

func (c *chaos) authorities() string { return filepath.Join(c.dir, "ca.crt") }
