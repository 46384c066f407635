package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
)

// chain is one of Baize's own in a table of iptables, called from one of the
// kernel's; behind is the chain that comes before it there, if it is.
type chain struct{ table, parent, name, behind string }

// Docker has its rules, and the policy DROP, in the filter table of iptables
// (moby, "Docker and iptables"). Nothing that another table accepted helps
// there: the packet has to be accepted in this one.
var (
	acceptChain = chain{"filter", "FORWARD", "BAIZE-FORWARD", "DOCKER-USER"}
	masqChain   = chain{"nat", "POSTROUTING", "BAIZE-MASQ", ""}
)

// acceptTimeout bounds one look at, or change of, the rules.
const acceptTimeout = 5 * time.Second

// AcceptForwarded makes the host's firewall let pass, when it forwards, what the
// rules match, each written as iptables(8) prints it ("-i bn-blue"). They are in a
// chain of their own, in front of Docker's rules and behind DOCKER-USER, which is
// the operator's. It changes only what differs, in one step, and reports whether
// it did; no rules at all remove the chain. A host without iptables has nothing
// to be changed. Where a host has rules of both kinds, iptables-legacy's and
// iptables-nft's, a packet passes both, and both are told.
func AcceptForwarded(ctx context.Context, f topology.Family, rules []string) (changed bool, err error) {
	targets := make([]string, len(rules))
	for i, r := range rules {
		targets[i] = r + " -j ACCEPT"
	}
	tool := iptables(f)
	changed, err = acceptChain.ensure(ctx, tool, targets, nil)
	if err != nil {
		return changed, err
	}
	for _, other := range otherKinds(f) {
		more, err := acceptChain.ensure(ctx, other, targets, forwards)
		changed = changed || more
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func iptables(f topology.Family) string {
	if f == topology.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// otherKinds returns the tools for tables that the host's iptables does not
// show (iptables-legacy and iptables-nft, see xtables-nft(8)).
func otherKinds(f topology.Family) []string {
	own, _ := program(iptables(f))
	var out []string
	for _, kind := range []string{"-legacy", "-nft"} {
		tool := iptables(f) + kind
		if p, err := program(tool); err != nil || p == own {
			continue
		}
		if kind == "-legacy" {
			// To look at a table of this kind makes one, through which all packets pass.
			names, err := os.ReadFile("/proc/thread-self/net/" + map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"}[f] + "_tables_names")
			if err != nil || !slices.Contains(strings.Fields(string(names)), acceptChain.table) {
				continue
			}
		}
		out = append(out, tool)
	}
	return out
}

// program returns the file behind a command's links.
func program(command string) (string, error) {
	p, err := exec.LookPath(command)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(p)
}

// forwards reports whether rules, as 'iptables -S' prints them, say anything
// about packets that the host forwards.
func forwards(rules string) bool {
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "-A FORWARD ") || (strings.HasPrefix(line, "-P FORWARD ") && strings.TrimSpace(line) != "-P FORWARD ACCEPT") {
			return true
		}
	}
	return false
}

// Masquerade gives packets that leave a network the host's own address, and
// those that enter it from elsewhere: network is the whole, own are this host's
// parts of it, whose containers see who sends to them. The zero prefix removes
// all that. Otherwise it is as AcceptForwarded.
func Masquerade(ctx context.Context, f topology.Family, network netip.Prefix, own []netip.Prefix) (changed bool, err error) {
	return masqChain.ensure(ctx, iptables(f), masqRules(network, own), nil)
}

func masqRules(network netip.Prefix, own []netip.Prefix) []string {
	if !network.IsValid() {
		return nil
	}
	multicast := "224.0.0.0/4"
	if network.Addr().Is6() {
		multicast = "ff00::/8"
	}
	rules := []string{fmt.Sprintf("-s %s -d %s -j RETURN", network, network)}
	for _, p := range own {
		rules = append(rules, fmt.Sprintf("-d %s -j RETURN", p))
	}
	return append(rules, fmt.Sprintf("-s %s ! -d %s -j MASQUERADE", network, multicast), fmt.Sprintf("-d %s -j MASQUERADE", network))
}

// ensure makes the chain what it has to be. needed, where not nil, says by the
// table's rules whether it is to be touched.
func (c chain) ensure(ctx context.Context, tool string, rules []string, needed func(have string) bool) (changed bool, err error) {
	if _, err := exec.LookPath(tool); err != nil {
		return false, nil //nolint:nilerr // then nothing filters by it either
	}
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	have, err := exec.CommandContext(ctx, tool, "-w", "2", "-t", c.table, "-S").Output()
	if err != nil {
		return false, firewallFailed(tool, "reading the rules", err)
	}
	if needed != nil && !needed(string(have)) {
		return false, nil
	}
	change := c.change(string(have), rules)
	if change == "" {
		return false, nil
	}
	restore := exec.CommandContext(ctx, tool+"-restore", "-w", "2", "--noflush")
	restore.Stdin = strings.NewReader(change)
	if out, err := restore.CombinedOutput(); err != nil {
		return false, firewallFailed(tool, strings.TrimSpace("changing the rules: "+string(out)), err)
	}
	return true, nil
}

func firewallFailed(tool, what string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		what += ": " + strings.TrimSpace(string(exit.Stderr))
	}
	return &topology.Error{Kind: topology.ErrUnavailable, Item: "firewall of this host", What: fmt.Sprintf("%s: %s: %v", tool, what, err), Remedy: "let it forward what it routes for Baize's networks"}
}

// change returns what iptables-restore is to do, given what 'iptables -S'
// prints; empty where all is as it has to be.
func (c chain) change(have string, want []string) string {
	var ours, parent []string
	there := false
	for line := range strings.Lines(have) {
		line = strings.TrimSpace(line)
		if line == "-N "+c.name {
			there = true
		}
		if rule, ok := strings.CutPrefix(line, "-A "+c.name+" "); ok {
			ours = append(ours, rule)
		}
		if rule, ok := strings.CutPrefix(line, "-A "+c.parent+" "); ok {
			parent = append(parent, rule)
		}
	}
	jump := "-j " + c.name
	isJump := func(r string) bool { return r == jump }
	// Right behind the operator's chain, else first.
	place := slices.Index(parent, "-j "+c.behind) + 1
	jumps := 0
	for _, r := range parent {
		if isJump(r) {
			jumps++
		}
	}
	inPlace := jumps == 1 && place < len(parent) && isJump(parent[place])
	if len(want) == 0 && !there && jumps == 0 || len(want) > 0 && inPlace && slices.Equal(ours, want) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n", c.table, c.name)
	for _, r := range want {
		fmt.Fprintf(&b, "-A %s %s\n", c.name, r)
	}
	for range jumps {
		fmt.Fprintf(&b, "-D %s %s\n", c.parent, jump)
	}
	if len(want) == 0 {
		fmt.Fprintf(&b, "-X %s\n", c.name)
	} else {
		// Counted without the jumps that were just deleted.
		rest := slices.DeleteFunc(slices.Clone(parent), isJump)
		fmt.Fprintf(&b, "-I %s %d %s\n", c.parent, slices.Index(rest, "-j "+c.behind)+2, jump)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
