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

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/topology"
)

// Docker has its rules, and the policy DROP, in the filter table of iptables
// (moby, "Docker and iptables"). Nothing that another table accepted helps
// there: the packet has to be accepted in this one.
var (
	acceptChain = chain{kernel.AcceptChain}
	masqChain   = chain{kernel.MasqChain}
)

// chain is one of Baize's own in a table of iptables.
type chain struct{ kernel.Chain }

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
		more, err := acceptChain.ensure(ctx, other, targets, acceptChain.Forces)
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
			names, err := os.ReadFile(
				"/proc/thread-self/net/" + strings.TrimSuffix(iptables(f), "tables") + "_tables_names",
			)
			if err != nil || !slices.Contains(strings.Fields(string(names)), acceptChain.Table) {
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

// Masquerade gives packets that leave a network the host's own address, and
// those that enter it from elsewhere: network is the whole, own are this host's
// parts of it, whose containers see who sends to them. The zero prefix removes
// all that. Otherwise it is as AcceptForwarded.
func Masquerade(
	ctx context.Context,
	f topology.Family,
	network netip.Prefix,
	own []netip.Prefix,
) (changed bool, err error) {
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
	return append(
		rules,
		fmt.Sprintf("-s %s ! -d %s -j MASQUERADE", network, multicast),
		fmt.Sprintf("-d %s -j MASQUERADE", network),
	)
}

// ensure makes the chain what it has to be. needed, where not nil, says by the
// table's rules whether there is to be one.
func (c chain) ensure(
	ctx context.Context,
	tool string,
	rules []string,
	needed func(have string) bool,
) (changed bool, err error) {
	if _, err := exec.LookPath(tool); err != nil {
		return false, nil //nolint:nilerr // then nothing filters by it either
	}
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	have, err := exec.CommandContext(ctx, tool, "-w", "2", "-t", c.Table, "-S").Output()
	if err != nil {
		return false, firewallFailed(tool, "reading the rules", err)
	}
	if needed != nil && !needed(string(have)) {
		rules = nil
	}
	change := c.Change(string(have), rules)
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
	return &topology.Error{
		Kind:   topology.ErrUnavailable,
		Item:   "firewall of this host",
		What:   fmt.Sprintf("%s: %s: %v", tool, what, err),
		Remedy: "let it forward what it routes for Baize's networks",
	}
}
