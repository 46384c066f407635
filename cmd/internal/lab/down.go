package lab

import (
	"context"
	"fmt"
	"os"

	"github.com/baize-net/baize/cmd/internal/lab/machine"
	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// Down removes a lab without a trace, whatever is left of it, also where its
// state is lost or damaged; Config.Name, BaseDir and Progress are used. It
// reports whether there was anything to remove.
func Down(ctx context.Context, cfg Config) (removed bool, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return false, err
	}
	if os.Geteuid() != 0 {
		return false, member.ErrNotRoot
	}
	unlock, err := lock(ctx, cfg)
	if err != nil {
		return false, err
	}
	defer func() { unlock(err == nil) }()
	l := &Lab{cfg: cfg}
	_, statErr := os.Stat(cfg.dir())
	removed = statErr == nil

	// Again until there are none: an Up that was killed may have left a pid 1
	// that is still being born.
	for {
		all, err := member.Find(cfg.Name)
		if err != nil {
			return removed, err
		}
		if len(all) == 0 {
			break
		}
		removed = true
		end := l.begin("stop %d hosts and the fabric", max(len(all)-1, 0))
		if err := end(member.Kill(ctx, all)); err != nil {
			return removed, err
		}
	}
	everybody := func(string) bool { return true }
	machine.UnnameNetns(cfg.Name, everybody)
	machine.RemoveCgroups(cfg.Name, everybody)
	if err := os.RemoveAll(cfg.dir()); err != nil {
		return removed, fmt.Errorf("the lab's directory: %w", err)
	}
	return removed, machine.Restore(ctx)
}

// Down removes the lab.
func (l *Lab) Down(ctx context.Context) error {
	_, err := Down(ctx, l.cfg)
	return err
}
