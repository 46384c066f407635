package gather

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs/openflow"
)

// File is one of a bundle.
type File struct{ Name, Text string }

// Files are what a colleague may want to see beside the facts: what programs print, the
// agent's log and files. None of them has a secret: the agent leaves them out of its
// configuration, and neither its settings file nor any key is read.
func Files(ctx context.Context, cfg Config) []File {
	runDir := cfg.RunDir
	if runDir == "" {
		runDir = openflow.DefaultRunDir
	}
	bridge := "unix:" + filepath.Join(runDir, cfg.Bridge+".mgmt")
	var out []File
	for _, f := range []struct {
		name string
		argv []string
	}{
		{"ovs-vsctl-show.txt", []string{"ovs-vsctl", "--db=" + cfg.OVSDB, "--timeout=5", "show"}},
		{"ovs-interfaces.txt", []string{"ovs-vsctl", "--db=" + cfg.OVSDB, "--timeout=5", "list", "Interface"}},
		{"ovs-ports.txt", []string{"ovs-vsctl", "--db=" + cfg.OVSDB, "--timeout=5", "list", "Port"}},
		{"flows.txt", []string{"ovs-ofctl", "-O", "OpenFlow14", "dump-flows", bridge}},
		{"port-counters.txt", []string{"ovs-ofctl", "-O", "OpenFlow14", "dump-ports", bridge}},
		{"ip-link.txt", []string{"ip", "-d", "-s", "link"}},
		{"ip-address.txt", []string{"ip", "address"}},
		{"ip-route.txt", []string{"ip", "route", "show", "table", "all"}},
		{"ip-rule.txt", []string{"ip", "rule"}},
		{"ip-neighbour.txt", []string{"ip", "neighbour"}},
		{"nft.txt", []string{"nft", "-a", "list", "ruleset"}},
		{"tc.txt", []string{"tc", "-s", "qdisc", "show"}},
		{"sockets.txt", []string{"ss", "-lunp"}},
		{"log-agent.txt", []string{"journalctl", "-u", "baize", "-n", "2000", "--no-pager"}},
		{"log-openvswitch.txt", []string{"journalctl", "-u", "openvswitch-switch", "-u", "ovs-vswitchd", "-n", "500",
			"--no-pager"}},
		{"log-kernel.txt", []string{"dmesg", "-T"}},
	} {
		text, err := run(ctx, f.argv...)
		if err != nil {
			text += "\n" + strings.Join(f.argv, " ") + ": " + err.Error() + "\n"
		}
		out = append(out, File{f.name, text})
	}
	for _, name := range []string{"endpoints.json", "topology.json"} {
		if b, err := os.ReadFile(filepath.Join(cfg.StateDir, name)); err == nil {
			out = append(out, File{"state/" + name, string(b)})
		}
	}
	ask := func(name string, f func() (any, error)) {
		v, err := f()
		b, _ := json.MarshalIndent(v, "", "  ")
		if err != nil {
			b = []byte(err.Error() + "\n")
		}
		out = append(out, File{name, string(b)})
	}
	limited, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	agent := api.NewClient(cfg.Socket)
	ask("agent-config.json", func() (any, error) { return agent.Config(limited) })
	ask("agent-routes.json", func() (any, error) { return agent.Routes(limited) })
	return out
}
