//go:build system

package chaos

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
)

// dockerCLI is the engine's client on a host of the lab.
const dockerCLI = "/usr/bin/docker"

// guests are what comes and goes while faults last: one is there before and leaves, one
// comes, and one moves to another host. With -chaos-docker some are containers in a network
// of Docker's, all others network namespaces.
type guests struct{ leaving, coming, moving guest }

type guest struct {
	name, host string
	container  bool
}

// invite has one guest come before the faults, and chooses where the other one will.
func (c *chaos) invite() guests {
	c.T.Helper()
	c.invited++
	draw := func(what string) guest {
		host := c.hosts[c.random.IntN(len(c.hosts))]
		return guest{fmt.Sprintf("%s%d", what, c.invited), host, *docker && c.random.IntN(2) == 0}
	}
	g := guests{draw("leaves"), draw("comes"), draw("moves")}
	g.moving.container = false
	c.comes(g.leaving)
	c.comes(g.moving)
	return g
}

// turn lets one leave and the other one come, as far as the faults allow: they may be told
// to try again.
func (g guests) turn(c *chaos) {
	c.note("%s: %s is to leave; %s: %s is to come", g.leaving.host, g.leaving.name, g.coming.host, g.coming.name)
	c.remove(g.leaving)
	c.add(g.coming)
	c.move(g.moving, c.after(g.moving.host))
}

// leave has the one be gone and the other one be reached, and then be gone as well.
func (g guests) leave(c *chaos) {
	c.T.Helper()
	c.goes(g.leaving)
	c.comes(g.coming)
	c.goes(g.coming)
	c.isAtOne(g.moving)
}

// after is the host that comes after another.
func (c *chaos) after(host string) string {
	return c.hosts[(slices.Index(c.hosts, host)+1)%len(c.hosts)]
}

// move moves a guest to another host, or not: its agent may not be there, or etcd.
func (c *chaos) move(g guest, to string) {
	c.turned[g.host]++
	c.turned[to]++
	_, _ = c.Run(to, "ip", "netns", "add", g.name)
	out, err := c.Run(to, "timeout", "20", "baize", "endpoint", "move", g.name, g.host, "--netns", g.name)
	c.note("%s from %s to %s: %s%v", g.name, g.host, to, out, err)
}

// isAtOne waits until a guest that was to move is at one host, the old or the new one, and is
// reached there; then it leaves.
func (c *chaos) isAtOne(g guest) {
	c.T.Helper()
	places := []guest{g, {g.name, c.after(g.host), false}}
	var at []guest
	c.Await(g.name+" is at one host", func() (bool, string) {
		at = nil
		var saw []string
		for _, p := range places {
			addr, err := c.address(p)
			if addr.IsValid() {
				at = append(at, p)
			}
			saw = append(saw, fmt.Sprintf("%s: %s %v", p.host, addr, err))
			if err != nil {
				return false, saw[len(saw)-1]
			}
		}
		return len(at) == 1, strings.Join(saw, "; ")
	})
	c.comes(at[0])
	for _, p := range places {
		c.goes(p)
	}
}

// comes waits until a guest is there and is reached from another host.
func (c *chaos) comes(g guest) {
	c.T.Helper()
	c.Await(g.name+" comes to "+g.host, func() (bool, string) {
		if addr, err := c.address(g); err == nil && addr.IsValid() {
			from := c.after(g.host)
			out, err := c.reach(from, addr, g.container)
			return err == nil, fmt.Sprintf("%s from %s: %s", addr, from, out)
		}
		out := c.add(g)
		return false, out
	})
}

// goes waits until nothing is left of a guest.
func (c *chaos) goes(g guest) {
	c.T.Helper()
	c.Await(g.name+" leaves "+g.host, func() (bool, string) {
		addr, err := c.address(g)
		if err == nil && !addr.IsValid() {
			return true, ""
		}
		return false, c.remove(g)
	})
	if !g.container {
		c.try(g.host, "ip", "netns", "delete", g.name)
	}
}

func (c *chaos) add(g guest) string {
	c.turned[g.host]++
	if g.container {
		c.turned[g.host]++
		_, _ = c.Run(g.host, dockerCLI, "rm", "-f", g.name)
		out, err := c.Run(g.host, "timeout", "10", dockerCLI, "run", "-d", "--init", "--name", g.name, "--network", "shop",
			lab.DockerImage, "sleep", "100000")
		return fmt.Sprint(out, err)
	}
	_, _ = c.Run(g.host, "ip", "netns", "add", g.name)
	out, err := c.Run(g.host, "timeout", "10", "baize", "endpoint", "add", g.name, "--network", "blue", "--netns", g.name)
	return fmt.Sprint(out, err)
}

func (c *chaos) remove(g guest) string {
	c.turned[g.host]++
	argv := []string{"timeout", "10", "baize", "endpoint", "remove", g.name}
	if g.container {
		argv = []string{"timeout", "10", dockerCLI, "rm", "-f", g.name}
	}
	out, err := c.Run(g.host, argv...)
	return fmt.Sprint(out, err)
}

// address is a guest's; invalid where there is no such guest.
func (c *chaos) address(g guest) (netip.Addr, error) {
	if g.container {
		out, err := c.Run(g.host, dockerCLI, "ps", "-a", "--filter", "name=^"+g.name+"$", "--format", "{{.State}}")
		if err != nil || strings.TrimSpace(out) == "" {
			return netip.Addr{}, err
		}
		out, err = c.Run(g.host, dockerCLI, "inspect", "-f", "{{.NetworkSettings.Networks.shop.IPAddress}}", g.name)
		if err != nil {
			return netip.Addr{}, err
		}
		return netip.ParseAddr(strings.TrimSpace(out))
	}
	out, err := c.Run(g.host, "baize", "endpoint", "list", "-o", "json")
	if err != nil {
		return netip.Addr{}, err
	}
	var all []struct {
		Name string       `json:"name"`
		IPs  []netip.Addr `json:"ips"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return netip.Addr{}, err
	}
	for _, e := range all {
		if e.Name == g.name && len(e.IPs) > 0 {
			return e.IPs[0], nil
		}
	}
	return netip.Addr{}, nil
}

func (c *chaos) reach(from string, to netip.Addr, container bool) (string, error) {
	if container {
		return c.Run(from, dockerCLI, "exec", peer, "ping", "-c", "1", "-W", "1", to.String())
	}
	return c.Run(from+"/c1", "ping", "-c", "1", "-W", "1", to.String())
}

// engines makes a network of Docker's on every host, with a container that stays.
func (c *chaos) engines() {
	c.T.Helper()
	for _, h := range c.hosts {
		c.Must(h, dockerCLI, "network", "create", "-d", "baize", "--ipam-driver", "baize", "--ipam-opt", "baize.network=shop",
			"-o", "baize.network=shop", "--subnet", "10.7.0.0/16", "shop")
		c.add(guest{peer, h, true})
		addr, err := c.address(guest{peer, h, true})
		require.NoError(c.T, err)
		c.Must(h, dockerCLI, "rm", "-f", peer)
		// It keeps its address when it is started again: none that another one is given while it is away.
		b := addr.As4()
		b[3] = 250
		c.Must(h, dockerCLI, "run", "-d", "--init", "--name", peer, "--network", "shop", "--ip", netip.AddrFrom4(b).String(),
			lab.DockerImage, "sleep", "100000")
	}
}

// peer is the container that stays on every host.
const peer = "peer"

// killEngine kills an engine, whose containers end with it, and starts the one that stays again.
func killEngine(c *chaos, h string) func() {
	back := c.kill(h, lab.ServiceDockerd)
	return func() {
		back()
		c.Await(peer+" runs again on "+h, func() (bool, string) {
			out, err := c.Run(h, "timeout", "20", dockerCLI, "start", peer)
			return err == nil, out
		})
	}
}
