package docker0

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/topology/fault"
)

// firewallTimeout bounds one listing of the host's rules.
const firewallTimeout = 5 * time.Second

// bridgeNetfilter says whether bridged IPv4 packets pass the host's firewall
// (kernel, Documentation/networking/ip-sysctl).
const bridgeNetfilter = "/proc/sys/net/bridge/bridge-nf-call-iptables"

// firewall is what the last looks at the host's firewall found.
type firewall struct {
	looked time.Time
	// found is in force, suspect is what the next look would confirm.
	found, suspect []fault.Fault
}

// look says whether the host's firewall drops what docker0 bridges from one port
// to another, which goes for other hosts' frames as well. It reads the rules once
// in every at most.
func (f *firewall) look(ctx context.Context, every time.Duration, log *logrus.Entry) []fault.Fault {
	if time.Since(f.looked) < every-every/10 {
		return f.found
	}
	now, err := readFirewall(ctx, Bridge)
	if err != nil {
		log.Debugf("look at the firewall: %v", err)
		return f.found
	}
	// A start of Docker makes docker0 first and its rules later, a reload is not
	// one step either: what is seen twice counts.
	seen := now
	if !slices.Equal(now, f.suspect) {
		now = nil
	}
	f.looked, f.suspect, f.found = time.Now(), seen, now
	return f.found
}

func readFirewall(ctx context.Context, bridge string) ([]fault.Fault, error) {
	b, err := os.ReadFile(bridgeNetfilter)
	if errors.Is(err, os.ErrNotExist) || (err == nil && string(bytes.TrimSpace(b)) == "0") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, firewallTimeout)
	defer cancel()
	rules, err := exec.CommandContext(ctx, "iptables", "-w", "2", "-S").Output()
	if err != nil {
		return nil, err
	}
	return bridgeVerdict(string(rules), bridge), nil
}

// bridgeVerdict follows a new packet from one port of a bridge to another
// through the filter table, as 'iptables -S' prints it.
func bridgeVerdict(rules, bridge string) []fault.Fault {
	f := filterRules{bridge: bridge, chains: map[string][]string{}, policy: map[string]string{}}
	for line := range strings.Lines(rules) {
		switch w := strings.Fields(line); {
		case len(w) == 3 && w[0] == "-P":
			f.policy[w[1]] = w[2]
		case len(w) > 2 && w[0] == "-A":
			f.chains[w[1]] = append(f.chains[w[1]], strings.TrimSpace(line))
		}
	}
	item := "firewall of this host"
	switch verdict, rule := f.walk("FORWARD", 0); {
	case verdict == "DROP" || verdict == "REJECT":
		return []fault.Fault{{
			Code: fault.FirewallDrops, Severity: fault.Error,
			Item: item,
			What: "containers of " + bridge + " reach neither each other nor other hosts: " +
				"'" + rule + "', as Docker's --icc=false makes it",
			Remedy: "start Docker without --icc=false, or let bridged packets pass the firewall by: 'sysctl -w " +
				"net.bridge.bridge-nf-call-iptables=0'",
		}}
	case verdict == "" && f.policy["FORWARD"] == "DROP":
		return []fault.Fault{{
			Code: fault.FirewallDrops, Severity: fault.Error,
			Item: item,
			What: "it drops what " + bridge + " bridges: the policy of FORWARD is DROP and Docker's own rules are gone, as " +
				"after a reload of the firewall",
			Remedy: "'systemctl restart docker' puts them back; or " +
				"'iptables -I FORWARD -i " + bridge + " -o " + bridge + " -j ACCEPT'",
		}}
	}
	return nil
}

type filterRules struct {
	bridge string
	chains map[string][]string
	policy map[string]string
}

// walk returns the verdict of a chain and the rule that gives it; "" when none
// does. Rules that match on more than interfaces are passed over.
func (f filterRules) walk(chain string, depth int) (verdict, rule string) {
	if depth > 20 {
		return "", ""
	}
	for _, line := range f.chains[chain] {
		target, matches := f.match(line)
		switch {
		case !matches || target == "":
		case target == "RETURN":
			return "", ""
		case slices.Contains([]string{"ACCEPT", "DROP", "REJECT"}, target):
			return target, line
		default:
			if v, r := f.walk(target, depth+1); v != "" {
				return v, r
			}
		}
	}
	return "", ""
}

func (f filterRules) match(line string) (target string, matches bool) {
	w := strings.Fields(line)[2:]
	for i := 0; i < len(w); {
		not := w[i] == "!"
		if not {
			i++
		}
		if i+1 >= len(w) {
			return "", false
		}
		switch w[i] {
		case "-i", "-o":
			if (w[i+1] == f.bridge) == not {
				return "", false
			}
		case "-j", "-g":
			return w[i+1], !not
		case "-m":
			if w[i+1] != "comment" {
				return "", false
			}
		case "--comment":
			// A comment of several words is in quotes.
			if strings.HasPrefix(w[i+1], `"`) {
				for i+1 < len(w) && !strings.HasSuffix(w[i+1], `"`) {
					i++
				}
			}
		default:
			return "", false
		}
		i += 2
	}
	return "", false
}
