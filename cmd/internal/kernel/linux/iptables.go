package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/topology"
)

// iptables reads the rules of each kind of iptables, legacy and nft (see
// xtables-nft(8)): where a host has rules of both, a packet passes both. Tables
// that are not there are not asked for, since to look at one makes it.
func (r *reader) iptables(ctx context.Context) error {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		for _, tool := range tools(f) {
			has, err := tables(f, tool.legacy)
			if err != nil {
				return err
			}
			t := kernel.IPTables{Tool: tool.name, Family: f}
			if has(kernel.AcceptChain.Table, kernel.AcceptChain.Parent) {
				if t.Filter, err = list(ctx, tool.name, kernel.AcceptChain.Table); err != nil {
					return err
				}
			}
			if has(kernel.MasqChain.Table, kernel.MasqChain.Name) {
				if t.NAT, err = list(ctx, tool.name, kernel.MasqChain.Table); err != nil {
					return err
				}
			}
			r.o.IPTables = append(r.o.IPTables, t)
		}
	}
	return nil
}

type iptablesTool struct {
	name   string
	legacy bool
}

// tools returns the host's own iptables and that of the other kind, where they
// are installed. A host without has nothing that filters by it.
func tools(f topology.Family) []iptablesTool {
	base := "iptables"
	if f == topology.IPv6 {
		base = "ip6tables"
	}
	var out []iptablesTool
	var seen []string
	for _, name := range []string{base, base + "-legacy", base + "-nft"} {
		p, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if p, err = filepath.EvalSymlinks(p); err != nil || slices.Contains(seen, p) {
			continue
		}
		seen = append(seen, p)
		// Before 1.8 there was one kind, without a name.
		out = append(out, iptablesTool{name, !strings.Contains(filepath.Base(p), "nft")})
	}
	return out
}

// tables says which chains there are. Of iptables-legacy only the tables are
// known.
func tables(f topology.Family, legacy bool) (func(table, chain string) bool, error) {
	if legacy {
		file := "/proc/thread-self/net/ip_tables_names"
		if f == topology.IPv6 {
			file = "/proc/thread-self/net/ip6_tables_names"
		}
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		names := strings.Fields(string(b))
		return func(table, _ string) bool { return slices.Contains(names, table) }, nil
	}
	number := nftables.TableFamilyIPv4
	if f == topology.IPv6 {
		number = nftables.TableFamilyIPv6
	}
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChainsOfTableFamily(number)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) &&
		!errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	return func(table, chain string) bool {
		return slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == table && c.Name == chain })
	}, nil
}

func list(ctx context.Context, tool, table string) (string, error) {
	out, err := run(ctx, "", tool, "-w", "2", "-t", table, "-S")
	return string(out), err
}

func restore(ctx context.Context, s kernel.Restore) error {
	_, err := run(ctx, s.Input, s.Tool+"-restore", "-w", "2", "--noflush")
	return err
}

func run(ctx context.Context, input string, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.WaitDelay = strings.NewReader(input), time.Second
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}
