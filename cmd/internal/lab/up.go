package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/machine"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// Deadlines of the steps of Up. A step takes a second or two on an idle
// machine.
const (
	etcdTimeout    = 60 * time.Second
	ovsTimeout     = 60 * time.Second
	agentTimeout   = 180 * time.Second // an emulated processor may take two thirds of it
	dockerTimeout  = 120 * time.Second
	commandTimeout = 30 * time.Second
)

// Up makes a lab, or makes one that exists what Config says: what is missing
// or has died is made anew, hosts are added or removed, what runs is left
// alone. On an error everything stays for a look at the logs; Up may be
// repeated.
func Up(ctx context.Context, cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, member.ErrNotRoot
	}
	if err := engine.Check(false, false); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer unlock(false)
	l := &Lab{cfg: cfg}
	before, err := readState(cfg.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.state, err = before.merge(cfg)
	if err != nil {
		return nil, err
	}
	if err := engine.Check(l.state.Docker, l.state.Segments > 1 || l.state.FRR); err != nil {
		return nil, err
	}
	err = l.up(ctx)
	return l, err
}

// AddHost adds the host with the lowest free number and returns it.
func (l *Lab) AddHost(ctx context.Context) (*Host, error) {
	var added string
	err := l.changeHosts(ctx, func(hosts []string) ([]string, error) {
		if len(hosts) >= MaxHosts {
			return nil, &topology.Error{
				Kind: topology.ErrFull, Item: "lab " + l.cfg.Name, What: fmt.Sprintf("it has %d hosts already", MaxHosts),
			}
		}
		now := resize(hosts, len(hosts)+1)
		for _, h := range now {
			if !slices.Contains(hosts, h) {
				added = h
			}
		}
		return now, nil
	})
	return l.Host(added), err
}

// RemoveHost removes a host: its agent cleans up, the node is removed from the
// topology, then the host goes.
func (l *Lab) RemoveHost(ctx context.Context, name string) error {
	return l.changeHosts(ctx, func(hosts []string) ([]string, error) {
		if !slices.Contains(hosts, name) {
			return nil, noHost(l.cfg.Name, name, hosts)
		}
		return slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == name }), nil
	})
}

func (l *Lab) changeHosts(ctx context.Context, change func([]string) ([]string, error)) error {
	unlock, err := lock(ctx, l.cfg)
	if err != nil {
		return err
	}
	defer unlock(false)
	now, err := readState(l.cfg.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return noLab(l.cfg)
	}
	if err != nil {
		return err
	}
	if now.Hosts, err = change(now.Hosts); err != nil {
		return err
	}
	l.mu.Lock()
	l.state = now
	l.mu.Unlock()
	return l.up(ctx)
}

// up makes what runs what l.state says. The lock is held.
func (l *Lab) up(ctx context.Context) error {
	if err := l.refuseNamesake(); err != nil {
		return err
	}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	if err := l.removeUnwanted(ctx); err != nil {
		return err
	}
	fab, err := l.upFabric(ctx)
	if err != nil {
		return err
	}
	if err := l.upRouter(ctx, fab); err != nil {
		return err
	}
	if err := l.upNetworks(ctx, fab); err != nil {
		return err
	}
	if err := l.upHosts(ctx, fab); err != nil {
		return err
	}
	if l.cfg.NoProof {
		return nil
	}
	l.Proof, err = l.Prove(ctx)
	return err
}

// prepare makes the lab's files, and the machine ready for its members.
func (l *Lab) prepare(ctx context.Context) error {
	if err := os.MkdirAll(l.cfg.dir(), 0o755); err != nil {
		return fmt.Errorf("the lab's directory: %w", err)
	}
	if err := l.state.write(l.cfg.dir()); err != nil {
		return err
	}
	if err := machine.Prepare(ctx, l.cfg.dir()); err != nil {
		return err
	}
	// In place: the hosts have this very file.
	return os.WriteFile(l.cfg.hostsFile(), fabric.EtcHosts(l.state.Hosts, l.state.Segments), 0o644)
}
