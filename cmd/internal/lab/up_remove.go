package lab

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/machine"
	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// removeUnwanted removes the hosts that are not wanted any more, and all of
// them where the fabric they were joined by is gone.
func (l *Lab) removeUnwanted(ctx context.Context) error {
	all, err := l.running()
	if err != nil {
		return err
	}
	fab, haveFabric := all[member.Fabric]
	delete(all, member.Fabric)
	for name, m := range all {
		switch {
		case !haveFabric:
			if err := l.killHost(ctx, m); err != nil {
				return err
			}
		case name == member.Router && l.state.Segments > 1:
		case !slices.Contains(l.state.Hosts, name):
			end := l.begin("%s: remove", name)
			if err := end(l.retire(ctx, fab, m)); err != nil {
				return err
			}
		}
	}
	return l.removeDirectories()
}

// removeDirectories removes those of hosts that are gone, also where they were
// not retired.
func (l *Lab) removeDirectories() error {
	dirs, _ := filepath.Glob(filepath.Join(l.cfg.dir(), member.HostPrefix+"*"))
	for _, d := range dirs {
		if !slices.Contains(l.state.Hosts, filepath.Base(d)) {
			if err := os.RemoveAll(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// retire removes a host the way an operator does, and then kills it. A host
// that cannot do its part, because it is broken, goes all the same.
func (l *Lab) retire(ctx context.Context, fab, m member.Member) error {
	h := l.Host(m.Name)
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if h.StopService(limited, ServiceAgent) == nil {
		bgp := l.state.agentBGPArgs(member.HostNumber(m.Name), h.Dir())
		_, _ = h.Exec(limited, append([]string{"baize"}, agentCleanupArgs(bgp)...)...)
	}
	err := l.removeNode(limited, fab, m.Name)
	if killErr := l.killHost(ctx, m); killErr != nil {
		return killErr
	}
	_ = fabric.Unplug(fab, m.Name)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// removeNode removes a node from the topology. One that never registered is not
// there to be removed.
func (l *Lab) removeNode(ctx context.Context, fab member.Member, name string) error {
	_, err := l.inFabric(ctx, fab, nodeRemoveArgs(name)...)
	if endedWith(err, cli.ExitNotFound) {
		return nil
	}
	return err
}

func (l *Lab) killHost(ctx context.Context, m member.Member) error {
	err := member.Kill(ctx, []member.Member{m})
	gone := func(name string) bool { return name == m.Name }
	machine.UnnameNetns(m.Lab, gone)
	machine.RemoveCgroups(m.Lab, gone)
	return err
}
