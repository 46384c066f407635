package command

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// doctorAll asks every node.
func (r *runner) doctorAll(c *ucli.Context) error {
	wait := min(c.Duration("wait"), topology.MaxQuestionSeconds*time.Second).Round(time.Second)
	return r.withSnapshot(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		asked, err := waiting(r, c, "asking all nodes", func(ctx context.Context) ([]doctor.Asked, error) {
			return panels.AskDoctors(ctx, s, snap, wait)
		})
		if err != nil {
			return err
		}
		report := doctor.Cluster(asked, time.Now(), currentVersion().Version, wait)
		answers := 0
		for _, n := range asked {
			if n.Answer != nil {
				answers++
			}
		}
		return r.diagnosis(c, report, answers == 0)
	})
}

// fix runs the commands of a report that take nothing from anybody, and looks again.
func (r *runner) fix(c *ucli.Context, report doctor.Report) (doctor.Facts, error) {
	for _, command := range report.Safe() {
		if err := r.note("$ %s", command); err != nil {
			return doctor.Facts{}, err
		}
		ctx, cancel := context.WithTimeout(c.Context, fixTimeout)
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = r.Err, r.Err, time.Second
		err := cmd.Run()
		cancel()
		if err != nil { // the next one may work all the same
			if err := r.note("  %v", err); err != nil {
				return doctor.Facts{}, err
			}
		}
	}
	return r.facts(c)
}

// fixTimeout bounds one command: a service may take its time to start.
const fixTimeout = time.Minute

// note tells something on the error stream, beside the report.
func (r *runner) note(format string, args ...any) error {
	_, err := fmt.Fprintf(r.Err, format+"\n", args...)
	return err
}
