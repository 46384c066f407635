package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// agentPatience is how long the agent is asked where etcd is: it answers from
// memory, and the settings file says the same.
const agentPatience = 2 * time.Second

// clusterSpecs are the settings that say where etcd and the agent are.
func clusterSpecs() []settings.Spec {
	etcd := []string{settings.EtcdEndpoints}
	return []settings.Spec{
		{Name: settings.EtcdEndpoints, Default: etcdstore.DefaultEndpoint},
		{Name: settings.EtcdPrefix, Default: topology.DefaultPrefix, With: etcd},
		{Name: settings.EtcdCAFile, With: etcd},
		{Name: settings.EtcdCertFile, With: etcd},
		{Name: settings.EtcdKeyFile, With: append(etcd, settings.EtcdCertFile)},
		{Name: settings.EtcdUsername, With: etcd},
		{Name: settings.EtcdPassword, Secret: true, With: append(etcd, settings.EtcdUsername)},
		{Name: settings.EtcdPasswordFile, With: append(etcd, settings.EtcdUsername)},
		{Name: settings.EtcdPlainPassword, With: append(etcd, settings.EtcdUsername)},
		{Name: settings.EtcdTimeout, Default: etcdstore.DefaultTimeout.String(), With: etcd},
		{Name: flagSocket, Default: api.DefaultSocket},
	}
}

// whereabouts is where etcd and the agent of this node are, and who said so.
type whereabouts struct {
	settings.Resolved
	// agent is what the agent runs with; nil where none told, or none was asked.
	agent    *api.Config
	agentErr error
	// contexts has the user's contexts, and context the one in use with its origin.
	contexts *settings.Contexts
	context  settings.Setting
	// unknown is why it cannot be known where etcd is: a place that would say so may
	// not be read.
	unknown error
	// passedOver says which places were not asked, or did not answer.
	passedOver []error
}

// ownPlaces are the line and the environment, as far as some flags go.
func (r *runner) ownPlaces(c *ucli.Context, flags []ucli.Flag) ([]settings.Place, error) {
	line := settings.Place{Source: settings.Flag, Values: map[string]settings.Value{}}
	env := settings.Place{Source: settings.Environment, Values: map[string]settings.Value{}}
	for _, f := range flags {
		name, variable := f.Names()[0], documentFlag(f).env
		v := settings.Value{Text: flagText(c, name), Where: "--" + name}
		if r.given[name] {
			line.Values[name] = v
		} else if os.Getenv(variable) != "" {
			v.Where = variable
			env.Values[name] = v
		}
	}
	var err error
	for _, p := range []settings.Place{line, env} {
		if what := settings.SplitUser(p); what != "" && err == nil {
			err = usagef("baize", "%s", what)
		}
	}
	return []settings.Place{line, env}, err
}

// flagText is a flag's value as it would be written.
func flagText(c *ucli.Context, name string) string {
	switch v := c.Value(name).(type) {
	case ucli.StringSlice:
		return strings.Join(v.Value(), ",")
	case uint:
		if v == 0 {
			return ""
		}
	}
	return fmt.Sprint(c.Value(name))
}

// whereabouts asks all places, once.
func (r *runner) whereabouts(c *ucli.Context) (*whereabouts, error) {
	if r.known != nil {
		return r.known, nil
	}
	own, err := r.ownPlaces(c, r.root.Flags)
	if err != nil {
		return nil, err
	}
	w := &whereabouts{}
	ctx, err := r.contextPlace(c, w, own)
	if err != nil {
		return nil, err
	}
	file, fileErr := filePlace(c.String(flagSettings))
	w.Resolved = settings.Resolve(clusterSpecs(), append(slices.Clone(own), ctx, file))
	decided := func() bool { return w.Resolved[settings.EtcdEndpoints].Source != settings.Default }
	places := append(slices.Clone(own), ctx)
	if s := w.Resolved[settings.EtcdEndpoints].Source; s == settings.File || s == settings.Default {
		places = append(places, w.agentPlace(c))
	}
	w.Resolved = settings.Resolve(clusterSpecs(), append(places, file))
	if fileErr != nil && !decided() {
		w.unknown = fileErr
	}
	if fileErr != nil {
		w.passedOver = append(w.passedOver, fileErr)
	}
	if w.unknown == nil {
		w.unknown = w.withheld()
	}
	r.known = w
	return w, nil
}

// contextPlace is the context that was named, or the current one.
func (r *runner) contextPlace(c *ucli.Context, w *whereabouts, own []settings.Place) (settings.Place, error) {
	var err error
	w.contexts, err = r.readContexts(c)
	if errors.Is(err, os.ErrPermission) && c.String(flagConfig) == "" && c.String(flagContext) == "" {
		// HOME is another user's, as after su: nobody asked for the contexts there.
		w.passedOver = append(w.passedOver, err)
		w.contexts, err = &settings.Contexts{}, nil
	}
	if err != nil {
		return settings.Place{}, err
	}
	w.context = r.chosenContext(c, w.contexts)
	name := w.context.Value
	if name == "" {
		return settings.Place{}, nil
	}
	ctx, ok := w.contexts.Find(name)
	if !ok {
		return settings.Place{}, fmt.Errorf("%w; it is named by %s",
			notFound("context", name, w.contexts.Names(), "'baize context list' shows those of "+w.contexts.Path),
			w.context.Origin)
	}
	if _, ok := ctx.Values[settings.EtcdEndpoints]; !ok {
		return settings.Place{}, &topology.Error{
			Kind: topology.ErrInvalid, Item: "context " + name, What: "it does not say where etcd is",
			Remedy: "'baize context set " + name + " --etcd-endpoints URL'",
		}
	}
	if w.context.Source != settings.Flag {
		return ctx.Place(), nil
	}
	// The environment has precedence: who names a context on the line and gets
	// another cluster would not see it.
	if variable := overridden(ctx, own[1]); variable != "" {
		return settings.Place{}, usagef("baize", "--context %s and the variable %s contradict each other: "+
			"unset the variable, or leave --context out", name, variable)
	}
	return ctx.Place(), nil
}

// overridden is a variable of the environment that says other than a context; "" where
// none does.
func overridden(ctx settings.NamedContext, env settings.Place) (variable string) {
	for _, key := range settings.Cluster() {
		set, mine := env.Values[key]
		if v, ok := ctx.Values[key]; ok && mine && v.Text != set.Text {
			return set.Where
		}
	}
	return ""
}

// chosenContext is the name of the context in use, as a setting.
func (r *runner) chosenContext(c *ucli.Context, file *settings.Contexts) settings.Setting {
	s := settings.Setting{Name: flagContext, Value: c.String(flagContext)}
	switch {
	case r.given[flagContext]:
		s.Origin = settings.Origin{Source: settings.Flag, Where: "--" + flagContext}
	case s.Value != "":
		s.Origin = settings.Origin{Source: settings.Environment, Where: EnvVar(flagContext)}
	case file.Current != "":
		s.Value, s.Origin = file.Current, settings.Origin{Source: settings.File, Where: file.Path}
	default:
		s.Origin = settings.Origin{Source: settings.Default}
	}
	s.Set = s.Value != ""
	return s
}

// readContexts reads the user's contexts, and warns of a password in them that
// others can read.
func (r *runner) readContexts(c *ucli.Context) (*settings.Contexts, error) {
	path := c.String(flagConfig)
	if path == "" {
		var err error
		if path, err = settings.ContextsFile(); err != nil {
			return &settings.Contexts{}, nil // no home: a service, which has no contexts
		}
	}
	file, err := settings.ReadContexts(path)
	if err == nil && file.Exposed() {
		fmt.Fprintf(r.Err, "warning: %s has a password, and others can read it: chmod 600 %[1]s\n", path)
	}
	return file, err
}

// nodeFlags gives flags that mean this node what its agent runs with, or what the
// settings file says, where neither the line nor the environment says anything. A
// context is for another place.
func (r *runner) nodeFlags(c *ucli.Context, names ...string) error {
	w, err := r.whereabouts(c)
	if err != nil || w.context.Set {
		return err
	}
	w.askAgent(c)
	file, _ := filePlace(c.String(flagSettings), names...) // see whereabouts
	for _, name := range names {
		v, ok := file.Values[name]
		if w.agent != nil {
			for _, s := range w.agent.Settings {
				if s.Name == name {
					v.Text, ok = s.Value, true
				}
			}
		}
		if !ok || c.IsSet(name) {
			continue
		}
		if err := c.Set(name, v.Text); err != nil {
			return fmt.Errorf("%s %q (%s): %w", name, v.Text, cmp.Or(v.Where, "the agent's"), err)
		}
	}
	return nil
}

// filePlace is the settings file of the node, as far as etcd, the socket and more
// flags go; an error where it cannot be read.
func filePlace(file string, more ...string) (settings.Place, error) {
	p := settings.Place{Source: settings.File, Values: map[string]settings.Value{}}
	if file == "" {
		return p, nil
	}
	vars, err := settings.ReadEnvironment(file)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	names := map[string]string{}
	for _, name := range slices.Concat(settings.Cluster(), []string{settings.EtcdUser, flagSocket}, more) {
		names[EnvVar(name)] = name
	}
	for _, v := range vars {
		name, ok := names[v.Name]
		switch {
		case !ok:
		case v.Value == "":
			delete(p.Values, name) // as an assignment to a variable does
		default:
			p.Values[name] = settings.Value{Text: v.Value, Where: fmt.Sprintf("%s:%d", file, v.Line)}
		}
	}
	if what := settings.SplitUser(p); what != "" && err == nil {
		err = &topology.Error{Kind: topology.ErrInvalid, Item: "settings file " + file, What: what}
	}
	return p, err
}

// askAgent asks the agent of this node, where there is one.
func (w *whereabouts) askAgent(c *ucli.Context) {
	socket := w.Resolved[flagSocket].Value
	if _, err := os.Stat(socket); errors.Is(err, os.ErrNotExist) || w.agent != nil || w.agentErr != nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.Context, agentPatience)
	defer cancel()
	cfg, err := api.NewClient(socket).Config(ctx)
	if err != nil {
		w.agentErr = err
		w.passedOver = append(w.passedOver, err)
		return
	}
	w.agent = &cfg
}

// agentPlace is what the agent of this node says, if there is one.
func (w *whereabouts) agentPlace(c *ucli.Context) settings.Place {
	p := settings.Place{Source: settings.Agent, Values: map[string]settings.Value{}}
	w.askAgent(c)
	if w.agent == nil {
		return p
	}
	for _, s := range w.agent.Settings {
		if slices.Contains(settings.Cluster(), s.Name) && !s.Secret {
			p.Values[s.Name] = settings.Value{Text: s.Value, Where: w.Resolved[flagSocket].Value}
		}
	}
	return p
}

// withheld is an error where the agent has a password that it does not tell, and
// nobody else tells either.
func (w *whereabouts) withheld() error {
	user := w.Resolved[settings.EtcdUsername]
	told := w.Resolved[settings.EtcdPassword].Set || w.Resolved[settings.EtcdPasswordFile].Set
	if user.Source != settings.Agent || !user.Set || told {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "etcd user " + user.Value,
		What:   "the agent does not tell the password it runs with",
		Remedy: "set " + EnvVar(settings.EtcdPassword) + ", or keep it in " + settings.DefaultFile,
	}
}

// storeConfig says how etcd is reached.
func (r *runner) storeConfig(c *ucli.Context) (etcdstore.Config, error) {
	w, err := r.whereabouts(c)
	if err == nil {
		err = w.unknown
	}
	if err != nil {
		return etcdstore.Config{}, err
	}
	cfg, err := etcdConfig(w.Resolved)
	if w.Resolved[settings.EtcdEndpoints].Source == settings.Default && w.agentErr != nil {
		cfg.Origin = "the default; the agent, which may have another, does not answer"
		if errors.Is(w.agentErr, os.ErrPermission) {
			cfg.Origin = "the default; this user may not ask the agent, which may have another"
		}
	}
	return cfg, err
}

// etcdConfig turns settings into the store's configuration.
func etcdConfig(s settings.Resolved) (etcdstore.Config, error) {
	endpoints, timeout := s[settings.EtcdEndpoints], s[settings.EtcdTimeout]
	cfg := etcdstore.Config{
		Endpoints: endpoints.List(),
		Origin:    endpoints.Phrase(),
		Prefix:    s[settings.EtcdPrefix].Value,
		CAFile:    s[settings.EtcdCAFile].Value,
		CertFile:  s[settings.EtcdCertFile].Value,
		KeyFile:   s[settings.EtcdKeyFile].Value,
		Username:  s[settings.EtcdUsername].Value,
		Password:  s[settings.EtcdPassword].Value,

		PasswordFile:  s[settings.EtcdPasswordFile].Value,
		PlainPassword: s[settings.EtcdPlainPassword].Value == "true",
	}
	var err error
	if cfg.Timeout, err = time.ParseDuration(timeout.Value); err != nil || cfg.Timeout <= 0 {
		return cfg, &topology.Error{
			Kind: topology.ErrInvalid, Item: fmt.Sprintf("%s %q (%s)", timeout.Name, timeout.Value, timeout.Phrase()),
			What: "no positive duration", Remedy: "write it like 3s",
		}
	}
	return cfg, nil
}

// agentClient reaches the agent of this node.
func (r *runner) agentClient(c *ucli.Context) *api.Client { return api.NewClient(r.socket(c).Value) }

// socket is where the agent of this node listens. It is known without etcd, and
// without the agent.
func (r *runner) socket(c *ucli.Context) settings.Setting {
	if r.known != nil {
		return r.known.Resolved[flagSocket]
	}
	own, _ := r.ownPlaces(c, r.root.Flags) // what is wrong with the rest does not matter here
	file, _ := filePlace(c.String(flagSettings))
	return settings.Resolve(clusterSpecs(), append(own, file))[flagSocket]
}

// specsOf are the settings that flags stand for, with their defaults.
func specsOf(c *ucli.Context, flags []ucli.Flag) []settings.Spec {
	cluster := clusterSpecs()
	var out []settings.Spec
	for _, f := range flags {
		name := f.Names()[0]
		if name == settings.EtcdUser {
			continue // other words for two others
		}
		spec := settings.Spec{Name: name, Default: flagText(c, name)}
		if i := slices.IndexFunc(cluster, func(s settings.Spec) bool { return s.Name == name }); i >= 0 {
			spec = cluster[i]
		}
		out = append(out, spec)
	}
	return out
}

// listed returns settings in the order of specs.
func listed(specs []settings.Spec, s settings.Resolved) []settings.Setting {
	out := make([]settings.Setting, len(specs))
	for i, spec := range specs {
		out[i] = s[spec.Name].Public()
	}
	return out
}
