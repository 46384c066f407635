package command

import (
	"os"
	"strings"
	"unicode/utf8"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/topology"
)

// mayChangeHost needs root, and asks unless --yes was given.
func (r *runner) mayChangeHost(c *ucli.Context, question string) (bool, error) {
	if os.Geteuid() != 0 {
		return false, &topology.Error{
			Kind: topology.ErrUnavailable, Item: c.Command.HelpName, What: "needs root",
			Remedy: "run it with sudo; --dry-run needs none",
		}
	}
	if c.Bool(flagYes) {
		return true, nil
	}
	return r.confirm(question)
}

func (r *runner) showChanges(changes []hostfile.Change, whole bool) error {
	for _, ch := range changes {
		if err := r.showChange(ch, whole); err != nil {
			return err
		}
	}
	if len(changes) == 0 {
		return r.say("nothing has to change")
	}
	return nil
}

// showChange names a file; whole shows its text, too.
func (r *runner) showChange(c hostfile.Change, whole bool) error {
	if c.Text == nil {
		return r.say("remove %s", c.Path)
	}
	if err := r.say("write  %s", c.Path); err != nil || !whole {
		return err
	}
	if strings.HasSuffix(c.Path, ".sh") || !utf8.Valid(c.Text) {
		return nil // long, and the same everywhere; or a program
	}
	for line := range strings.Lines(string(c.Text)) {
		if err := r.say("       | %s", strings.TrimRight(line, "\n")); err != nil {
			return err
		}
	}
	return nil
}
