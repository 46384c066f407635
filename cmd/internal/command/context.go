package command

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

const flagPasswordStdin = "password-stdin"

func (r *runner) contextCommand() *ucli.Command {
	plan := &ucli.BoolFlag{Name: flagDryRun, Usage: "change nothing, and show what would be changed"}
	return &ucli.Command{
		Name: "context", Aliases: []string{"ctx"}, Usage: "keep how clusters are reached, by name",
		Description: `For who looks after clusters from elsewhere: a context has the endpoints of a
cluster's etcd, and the prefix, certificates and user for it. They are kept in
~/.config/baize/config.yaml, or where XDG_CONFIG_HOME or --config says, in a file
that only its owner can read. --context names the one to use; without it the
current one is used.

  baize context set prod --etcd-endpoints https://etcd1:2379
  baize context use prod
  baize --context lab network list`,
		Subcommands: []*ucli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the contexts",
				Flags: contexts.flags(), Action: contexts.list(r, polling("reading the contexts", r.contextItems)),
			},
			{
				Name: "show", Usage: "show a context (default the one in use)", ArgsUsage: "[NAME]",
				Flags: []ucli.Flag{outputFlag(formatsItem...)}, Action: r.contextShow,
			},
			{
				Name: "use", Usage: "make a context the current one", ArgsUsage: "[NAME]",
				Flags:  []ucli.Flag{&ucli.BoolFlag{Name: "none", Usage: "use no context"}, plan},
				Action: r.contextUse,
			},
			{
				Name: "set", Usage: "make a context, or change its settings", ArgsUsage: "NAME",
				Description: `The settings are the global flags of etcd. Those that are not given stay as they
are; one that is given as "" is removed.

  baize context set prod --etcd-cafile ca.crt
  baize context set prod --etcd-username ops --password-stdin <password.txt
  baize context set prod --etcd-cafile ""`,
				Flags: []ucli.Flag{
					&ucli.BoolFlag{
						Name: flagPasswordStdin, Usage: "read etcd's password from the first line of standard input",
					},
					plan,
				},
				Action: r.contextSet,
			},
			{
				Name: "delete", Aliases: []string{"rm"}, Usage: "delete a context", ArgsUsage: "NAME",
				Flags: []ucli.Flag{plan}, Action: r.contextDelete,
			},
		},
	}
}

// contextItem is a context in JSON and YAML.
type contextItem struct {
	Name     string             `json:"name"`
	Current  bool               `json:"current"`
	Settings []settings.Setting `json:"settings"`
	resolved settings.Resolved
}

func newContextItem(n settings.NamedContext, current string) contextItem {
	specs := clusterSpecs()[:len(settings.Cluster())]
	s := settings.Resolve(specs, []settings.Place{n.Place()})
	return contextItem{Name: n.Name, Current: n.Name == current, Settings: listed(specs, s), resolved: s}
}

var contexts = kind[contextItem]{
	name: "context",
	key:  func(i contextItem) string { return i.Name },
	none: "no contexts: make one with 'baize context set NAME --etcd-endpoints URL'",
	columns: []column[contextItem]{
		{"NAME", plain, func(i contextItem) any { return i.Name }},
		{"CURRENT", plain, func(i contextItem) any { return i.Current }},
		{"ENDPOINTS", plain, func(i contextItem) any { return i.resolved[settings.EtcdEndpoints].List() }},
		{"PREFIX", plain, func(i contextItem) any { return i.resolved[settings.EtcdPrefix].Value }},
		{"USER", plain, func(i contextItem) any { return i.resolved[settings.EtcdUsername].Value }},
		{"CERTFILE", wide, func(i contextItem) any { return i.resolved[settings.EtcdCertFile].Value }},
	},
}

// ownContexts reads the user's contexts, to change or show them.
func (r *runner) ownContexts(c *ucli.Context) (*settings.Contexts, error) {
	file, err := r.readContexts(c)
	if err == nil && file.Path == "" {
		err = usagef(c.Command.HelpName, "neither HOME nor XDG_CONFIG_HOME says where contexts are: give --config FILE")
	}
	return file, err
}

func findContext(file *settings.Contexts, name string) (settings.NamedContext, error) {
	n, ok := file.Find(name)
	if !ok {
		return n, notFound("context", name, file.Names(), "'baize context list' shows those of "+file.Path)
	}
	return n, nil
}

// contextText is a context in a line, without its password.
func contextText(n settings.NamedContext) string {
	var parts []string
	for _, s := range newContextItem(n, "").Settings {
		if s.Set {
			parts = append(parts, s.Name+"="+s.Text())
		}
	}
	return strings.Join(parts, " ")
}

func (r *runner) contextItems(_ context.Context, c *ucli.Context) ([]contextItem, error) {
	file, err := r.ownContexts(c)
	if err != nil {
		return nil, err
	}
	items := []contextItem{}
	for _, n := range file.List {
		items = append(items, newContextItem(n, file.Current))
	}
	return items, nil
}

func (r *runner) contextShow(c *ucli.Context) error {
	file, err := r.ownContexts(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	if name == "" {
		if name = r.chosenContext(c, file).Value; name == "" {
			return usagef(c.Command.HelpName, "no context is in use: name one, or see 'baize context list'")
		}
	}
	n, err := findContext(file, name)
	if err != nil {
		return err
	}
	item := newContextItem(n, file.Current)
	return r.item(c, item, func() []field {
		current := "no"
		if item.Current {
			current = "yes"
		}
		out := []field{{"name", item.Name}, {"current", current}}
		for _, s := range item.Settings {
			out = append(out, field{s.Name, s.Text()})
		}
		return out
	}, "")
}

func (r *runner) contextUse(c *ucli.Context) error {
	name, none := c.Args().First(), c.Bool("none")
	if (name == "") != none {
		return usagef(c.Command.HelpName, "name one context, or say --none")
	}
	file, err := r.ownContexts(c)
	if err != nil {
		return err
	}
	var chosen settings.NamedContext
	if !none {
		if chosen, err = findContext(file, name); err != nil {
			return err
		}
	}
	if c.Bool(flagDryRun) {
		return r.rehearsedLine("the current context", cmp.Or(file.Current, nothing), cmp.Or(name, nothing))
	}
	file.Use(name)
	if err := file.Write(); err != nil {
		return err
	}
	if none {
		return r.say("no context is the current one")
	}
	own, err := r.ownPlaces(c, r.root.Flags)
	if err != nil {
		return err
	}
	if variable := overridden(chosen, own[1]); variable != "" {
		fmt.Fprintf(r.Err, "the variable %s is set and comes before the context: 'unset %[1]s', and 'baize config' shows "+
			"what holds\n", variable)
	}
	return r.say("context %s is the current one", name)
}

func (r *runner) contextSet(c *ucli.Context) error {
	name := c.Args().First()
	if err := settings.CheckContextName(name); err != nil {
		return usagef(c.Command.HelpName, "%v", err)
	}
	values, err := r.contextValues(c)
	if err != nil {
		return err
	}
	file, err := r.ownContexts(c)
	if err != nil {
		return err
	}
	n, existed := file.Find(name)
	forgetPassword(n, values)
	if err := checkContext(c, n.With(name, values)); err != nil {
		return err
	}
	if c.Bool(flagDryRun) {
		before := nothing
		if existed {
			before = contextText(n)
		}
		return r.rehearsedLine("context "+name, before, contextText(n.With(name, values)))
	}
	file.Set(name, values)
	if err := file.Write(); err != nil {
		return err
	}
	if existed {
		return r.say("context %s changed", name)
	}
	return r.say("context %s made: 'baize context use %[1]s' makes it the current one", name)
}

// contextValues are the settings of etcd on the line.
func (r *runner) contextValues(c *ucli.Context) (map[string]string, error) {
	command := c.Command.HelpName
	own, err := r.ownPlaces(c, r.root.Flags)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, key := range settings.Cluster() {
		v, ok := own[0].Values[key]
		if !ok {
			continue
		}
		if settings.IsFile(key) && v.Text != "" {
			if v.Text, err = filepath.Abs(v.Text); err != nil {
				return nil, err
			}
		}
		values[key] = v.Text
	}
	if c.Bool(flagPasswordStdin) {
		if _, both := values[settings.EtcdPassword]; both {
			return nil, usagef(command, "--etcd-password and --%s both give a password: give one of them", flagPasswordStdin)
		}
		in := bufio.NewScanner(r.In)
		if !in.Scan() || strings.TrimSpace(in.Text()) == "" {
			return nil, usagef(command, "--%s: the first line of standard input has no password", flagPasswordStdin)
		}
		values[settings.EtcdPassword] = strings.TrimRight(in.Text(), "\r")
	}
	if len(values) == 0 {
		return nil, usagef(command, "says nothing to set: give --%s, or another flag of etcd", settings.EtcdEndpoints)
	}
	return values, nil
}

// forgetPassword adds the removal of the old user's password where another user is
// named, without one.
func forgetPassword(n settings.NamedContext, values map[string]string) {
	user, named := values[settings.EtcdUsername]
	if _, given := values[settings.EtcdPassword]; named && !given && user != n.Values[settings.EtcdUsername].Text {
		values[settings.EtcdPassword] = ""
	}
}

// checkContext refuses a context that could never be used. A user without a
// password is fine: the variable may have it.
func checkContext(c *ucli.Context, n settings.NamedContext) error {
	if _, ok := n.Values[settings.EtcdEndpoints]; !ok {
		return usagef(c.Command.HelpName, "context %s does not say where etcd is: give --%s", n.Name, settings.EtcdEndpoints)
	}
	cfg, err := etcdConfig(newContextItem(n, "").resolved)
	if err != nil {
		return err
	}
	if cfg.Username == "" && cfg.Password != "" {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: "context " + n.Name, What: "a password without a user",
			Remedy: "give --etcd-username, too",
		}
	}
	cfg.Username, cfg.Password, cfg.PasswordFile, cfg.Origin = "", "", "", ""
	s, err := etcdstore.Open(c.Context, cfg)
	if err != nil {
		return fmt.Errorf("context %s: %w", n.Name, err)
	}
	return s.Close()
}

func (r *runner) contextDelete(c *ucli.Context) error {
	name := c.Args().First()
	file, err := r.ownContexts(c)
	if err != nil {
		return err
	}
	n, err := findContext(file, name)
	if err != nil {
		return err
	}
	if c.Bool(flagDryRun) {
		return r.rehearsedLine("context "+name, contextText(n), nothing)
	}
	current := file.Current == name
	file.Delete(name)
	if err := file.Write(); err != nil {
		return err
	}
	if current {
		return r.say("context %s deleted: none is the current one now", name)
	}
	return r.say("context %s deleted", name)
}
