package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
)

// Cleanup removes from this host what Baize made, and nothing else: ports,
// flows, the bridge unless a foreign port hangs on it, the endpoints' network
// devices, the files of the state directory; with cfg.BGP also its routes on the
// routers of the fabric. The node's records in etcd are the business of 'baize
// node remove'. It returns what it removed and what it
// left, one line each.
func Cleanup(ctx context.Context, cfg Config, log *logrus.Logger) ([]string, error) {
	cfg, err := cfg.Defaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, &topology.Error{Kind: topology.ErrUnavailable, Item: "baize agent cleanup", What: "needs root", Remedy: "run it with sudo"}
	}
	if _, err := api.NewClient(cfg.Socket).Status(ctx); err == nil {
		return nil, &topology.Error{Kind: topology.ErrInUse, Item: "socket " + cfg.Socket, What: "the agent is running and would put everything back", Remedy: "stop it first: 'systemctl stop baize'"}
	}
	db, err := vswitch.New(vswitch.Config{Endpoint: cfg.OVSDB, Bridge: cfg.Bridge})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	observed, err := db.Observe(ctx)
	if err != nil {
		return nil, err
	}
	// First, so that nothing more comes for what goes.
	report, err := forget(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	cleared, err := db.ClearRestoreWait(ctx)
	if err != nil {
		return nil, err
	}
	if cleared {
		report = append(report, "removed other_config:"+ovs.RestoreWait)
	}
	routes, err := cleanRoutes()
	report = append(report, routes...)
	if err != nil {
		return report, err
	}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		if removed, err := hostnet.AcceptForwarded(ctx, f, nil); err != nil {
			log.Warn(err)
		} else if removed {
			report = append(report, fmt.Sprintf("removed the chain of Baize in the firewall (%s)", f))
		}
		if _, err := hostnet.Masquerade(ctx, f, netip.Prefix{}, nil); err != nil {
			log.Warn(err)
		}
	}
	devices, err := hostnet.Veths(hostnet.HostPrefix)
	if err != nil {
		return nil, err
	}
	// Another bridge's agent may have its own on this host.
	devices = slices.DeleteFunc(devices, func(d string) bool { return observed.Foreign[d] != "" })
	if observed.Bridge != nil && !foreignBridge(observed) {
		done, err := cleanBridge(ctx, cfg, db, observed)
		report = append(report, done...)
		if err != nil {
			return report, err
		}
		for name, p := range observed.Ports {
			if p.Owned() && p.Role() == ovs.RoleEndpoint && !slices.Contains(devices, name) {
				devices = append(devices, name)
			}
		}
	}
	slices.Sort(devices)
	for _, d := range devices {
		if err := hostnet.Detach(ctx, d); err != nil {
			return report, err
		}
		report = append(report, "removed network device "+d)
	}
	if err := hostnet.SyncIngressDrops(nil); err != nil {
		log.Warnf("ingress rules: %v", err)
	}
	dismissStandIn(cfg.DockerSocket)
	state := func(name string) string { return filepath.Join(cfg.StateDir, name) }
	for _, f := range []string{state("topology.json"), state("flannel.json"), state("node-id"), state(dockerFile), cfg.DockerEnv} {
		if err := os.Remove(f); err == nil {
			report = append(report, "removed "+f)
		} else if !errors.Is(err, os.ErrNotExist) {
			return report, err
		}
	}
	return report, nil
}

func cleanBridge(ctx context.Context, cfg Config, db *vswitch.Client, observed ovs.Observed) ([]string, error) {
	foreign := observed.ForeignPorts()
	if len(foreign) == 0 {
		if err := db.Apply(ctx, ovs.DBChange{DeleteBridge: cfg.Bridge}); err != nil {
			return nil, err
		}
		return []string{fmt.Sprintf("removed bridge %s with %d ports", cfg.Bridge, len(observed.Ports))}, nil
	}
	flows := openflow.New(openflow.Config{Bridge: cfg.Bridge, RunDir: cfg.OVSRunDir})
	have, err := flows.Observe(ctx)
	if err != nil {
		return nil, err
	}
	if err := flows.Apply(ctx, nil, have.IDs()); err != nil {
		return nil, err
	}
	var own []string
	for name, p := range observed.Ports {
		if p.Owned() {
			own = append(own, name)
		}
	}
	if err := db.Apply(ctx, ovs.DBChange{RemovePorts: own}); err != nil {
		return nil, err
	}
	return []string{
		fmt.Sprintf("removed %d ports and %d flows of bridge %s", len(own), len(have.Flows), cfg.Bridge),
		fmt.Sprintf("left bridge %s: foreign ports are on it: %v", cfg.Bridge, foreign),
	}, nil
}
