package command

import (
	"encoding/json"
	"io"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

const flagDryRun, flagYes = "dry-run", "yes"

// nothing is what there was before something was made, and what there is after it was removed.
const nothing = "none"

func dryRunFlag() ucli.Flag {
	return &ucli.BoolFlag{Name: flagDryRun, Usage: "write nothing, and show the records in etcd before and after"}
}

// yesFlag is for commands that ask.
func yesFlag() ucli.Flag { return &ucli.BoolFlag{Name: flagYes, Usage: "do not ask"} }

// agreed asks before something that cuts off what runs. A script has to say --yes.
func (r *runner) agreed(c *ucli.Context, question string) (bool, error) {
	if c.Bool(flagYes) || c.Bool(flagDryRun) {
		return true, nil
	}
	if in, ok := r.In.(*os.File); ok && !cli.IsTerminal(in) {
		return false, usagef(c.Command.HelpName, "%s There is no terminal to ask at: say --yes", question)
	}
	return r.confirm(question)
}

// writing is withSnapshot for commands that write: with --dry-run they write nothing.
func (r *runner) writing(c *ucli.Context, f func(s *etcdstore.Store, snap *topology.Snapshot) error) error {
	return r.withSnapshot(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		return r.rehearsed(c, s, func() error { return f(s, snap) })
	})
}

// rehearsed runs f, and with --dry-run shows what it would have written instead of
// what it says.
func (r *runner) rehearsed(c *ucli.Context, s *etcdstore.Store, f func() error) error {
	if !c.Bool(flagDryRun) {
		return f()
	}
	rehearsal, out := s.Rehearse(), r.Out
	r.Out = io.Discard
	err := f()
	r.Out = out
	if err != nil {
		return err
	}
	return r.showRehearsal(c, rehearsal.Changes())
}

// rehearsedLine says what one thing that is no record would become.
func (r *runner) rehearsedLine(item, before, after string) error {
	if err := r.say("%s\n  before  %s\n  after   %s", item, before, after); err != nil {
		return err
	}
	return r.say("nothing was changed (--dry-run)")
}

// rehearsedItem is a record in JSON and YAML. Before and After are left out where
// there is none.
type rehearsedItem struct {
	Key    string          `json:"key"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

func (r *runner) showRehearsal(c *ucli.Context, changes []etcdstore.RehearsedChange) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	items := []rehearsedItem{}
	for _, x := range changes {
		items = append(items, rehearsedItem{x.Key, record(x.Before), record(x.After)})
	}
	if format != "" && !isTable(format) {
		return r.data(format, items)
	}
	text := func(raw json.RawMessage) string {
		if raw == nil {
			return nothing
		}
		return string(raw)
	}
	for _, x := range items {
		if err := r.say("%s\n  before  %s\n  after   %s", x.Key, text(x.Before), text(x.After)); err != nil {
			return err
		}
	}
	return r.say("nothing was changed (--dry-run)")
}

// record is a value as JSON; one that is none is a string.
func record(value []byte) json.RawMessage {
	if value == nil || json.Valid(value) {
		return value
	}
	text, _ := json.Marshal(strings.ToValidUTF8(string(value), "\ufffd")) // a string always is
	return text
}
