package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/agent/docker0"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// Cleanup removes from this host what Baize made, and nothing else: each part
// undoes its own, in the order in which nothing new comes for what goes. The
// node's records in etcd are the business of 'baize node remove': they are only
// left to the next installation of its name. It returns what
// it removed and what it left, one line each. What one part cannot undo does not
// keep the others from it. In a dry run nothing changes, and an agent may run.
func Cleanup(ctx context.Context, cfg Config, dryRun bool, log *logrus.Logger) ([]string, error) {
	undo := part.Undo{DryRun: dryRun}
	cfg, err := forCleanup(ctx, cfg, undo)
	if err != nil {
		return nil, err
	}
	// Every part that an agent of this host may have had.
	cfg.DockerPlugin, cfg.DockerBridge = docker.ModeOn, docker0.Bridge
	w, err := localWorld(cfg, log)
	if err != nil {
		return nil, err
	}
	defer w.close()
	if w.Identity.ID, err = cfg.knownID(); err != nil {
		return nil, err
	}
	if w.Identity.ID != "" {
		if err := w.connect(ctx, cfg); err != nil {
			log.Warn(err)
		}
	}
	a, err := New(cfg, w, log)
	if err != nil {
		return nil, err
	}
	var report []string
	var errs []error
	for _, p := range slices.Backward(a.parts) {
		done, err := p.Cleanup(ctx, undo)
		report = append(report, done...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name(), err))
		}
	}
	files, err := undo.RemoveFiles(append(atomicfile.Left(cfg.StateDir, 0), cfg.identityFile())...)
	return append(report, files...), errors.Join(append(errs, err)...)
}

// Kept returns the endpoints that Cleanup would cut off; an error where there can be
// no cleanup.
func Kept(ctx context.Context, cfg Config) ([]ovs.Endpoint, error) {
	cfg, err := forCleanup(ctx, cfg, part.Undo{})
	if err != nil {
		return nil, err
	}
	return attach.ReadFile(cfg.StateDir)
}

// KeptSource returns what a source of an agent's topology has kept in its state directory
// (SourceDeps.Cache); an error where it has nothing.
func KeptSource(stateDir, file string) (*topology.Snapshot, error) {
	return hub.NewCache(filepath.Join(stateDir, file), topology.NewRawSnapshot, func(error) {}).Load()
}

// forCleanup completes a configuration, and refuses where nothing may be cleaned up.
func forCleanup(ctx context.Context, cfg Config, undo part.Undo) (Config, error) {
	cfg, err := cfg.Defaults()
	if err != nil {
		return cfg, err
	}
	if os.Geteuid() != 0 {
		return cfg, &topology.Error{
			Kind:   topology.ErrUnavailable,
			Item:   "baize agent cleanup",
			What:   "needs root",
			Remedy: "run it with sudo",
		}
	}
	if _, err := api.NewClient(cfg.Socket).Status(ctx); err == nil && !undo.DryRun {
		return cfg, &topology.Error{
			Kind: topology.ErrInUse, Item: "socket " + cfg.Socket, What: "the agent is running and would put everything back",
			Remedy: "stop it first: 'systemctl stop baize'",
		}
	}
	return cfg, nil
}
