package command

import (
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/topology/fault"
)

func (r *runner) configCommand() *ucli.Command {
	return &ucli.Command{
		Name: "config", Usage: "show every setting of the command line and of the agent, and where it comes from",
		Description: `A setting comes from the first of these that has it: a flag, an environment
variable, the context in use, the running agent of this node, its settings file,
the default. What belongs to an etcd (prefix, certificates, user, password) is
taken from a context, an agent or a file only together with that etcd's endpoints.
The agent does not tell its password: it is read from the settings file. Secrets
are shown as set or not set.

  baize config
  baize config -o json`,
		Flags:  []ucli.Flag{outputFlag(formatsItem...)},
		Action: r.config,
	}
}

// configItem is the configuration in JSON and YAML.
type configItem struct {
	Settings []settings.Setting `json:"settings"`
	// Agent is what the agent of this node runs with; empty where none told.
	Agent []settings.Setting `json:"agent"`
	// PassedOver says which places could not be asked, and why.
	PassedOver []string `json:"passedOver"`
}

// settingTable is how settings are shown to people.
var settingTable = kind[settings.Setting]{
	key: func(s settings.Setting) string { return s.Name },
	columns: []column[settings.Setting]{
		{"NAME", plain, func(s settings.Setting) any { return s.Name }},
		{"VALUE", plain, func(s settings.Setting) any { return s.Text() }},
		{"FROM", plain, func(s settings.Setting) any { return s.Origin.String() }},
	},
}

func (r *runner) config(c *ucli.Context) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	w, err := r.whereabouts(c)
	if err != nil {
		return err
	}
	w.askAgent(c)
	item, err := r.configItem(c, w)
	if err != nil {
		return err
	}
	if !isTable(format) {
		return r.data(format, item)
	}
	if err := settingTable.print(r, form{format: cli.Format(format)}, item.Settings); err != nil {
		return err
	}
	if item.Agent != nil {
		if err := r.say("\nThe agent at %s runs with:\n", w.Resolved[flagSocket].Value); err != nil {
			return err
		}
		if err := settingTable.print(r, form{format: cli.Format(format)}, item.Agent); err != nil {
			return err
		}
	}
	for _, p := range item.PassedOver {
		if _, err := fmt.Fprintf(r.Err, "passed over: %s\n", fault.Printable(p)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) configItem(c *ucli.Context, w *whereabouts) (configItem, error) {
	item := configItem{PassedOver: []string{}}
	own, err := r.ownPlaces(c, r.root.Flags)
	if err != nil {
		return item, err
	}
	specs := specsOf(c, r.root.Flags)
	all := settings.Resolve(specs, own)
	for name, s := range w.Resolved {
		all[name] = s
	}
	all[flagContext] = w.context
	file := all[flagConfig]
	file.Value, file.Set = w.contexts.Path, w.contexts.Path != ""
	all[flagConfig] = file
	item.Settings = listed(specs, all)
	if w.agent != nil {
		item.Agent = w.agent.Settings
	}
	for _, err := range w.passedOver {
		item.PassedOver = append(item.PassedOver, err.Error())
	}
	return item, nil
}
