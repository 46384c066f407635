package command

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// kind declares how items of one kind are listed. Their fields in JSON are those
// of its schema (schema/NAME.json), which --filter and --sort know them from.
type kind[T any] struct {
	name    string
	columns []column[T]
	// key is what -q and -o name print.
	key func(T) string
	// none is said where there is nothing to list.
	none string
	// draw, unless nil, is how people see the items: in place of a table.
	draw func(out *bytes.Buffer, items []T, color bool)
}

// column is one column of a table.
type column[T any] struct {
	title string
	style style
	value func(T) any
}

// style is how a column is shown.
type style int

const (
	plain    style = iota
	wide           // by -o wide only
	state          // words such as ready and down
	optional       // where an item has a value, and by -o wide
)

// Names of the flags of listings.
const (
	flagWatch     = "watch"
	flagFilter    = "filter"
	flagSort      = "sort"
	flagQuiet     = "quiet"
	flagNoHeaders = "no-headers"
	flagColor     = "color"
)

// flags are those of every listing, after its own.
func (k kind[T]) flags(own ...ucli.Flag) []ucli.Flag {
	// What chooses items is meant for one kind of them: BAIZE_NODE_FILTER.
	env := func(flag string) []string { return cli.Env(k.name + "-" + flag) }
	return append(own,
		&ucli.BoolFlag{
			Name: flagWatch, Aliases: []string{"w"}, EnvVars: env(flagWatch),
			Usage: "show it again after every change, until Ctrl-C",
		},
		&ucli.StringSliceFlag{
			Name: flagFilter, Aliases: []string{"f"}, EnvVars: env(flagFilter),
			Usage: "only those whose `FIELD=VALUE`, a field of -o json; a * stands for anything",
		},
		&ucli.StringFlag{
			Name: flagSort, EnvVars: env(flagSort), Usage: "sort by this `FIELD` of -o json, or by -FIELD in descending order",
		},
		&ucli.BoolFlag{Name: flagQuiet, Aliases: []string{"q"}, EnvVars: env(flagQuiet), Usage: "names only"},
		&ucli.BoolFlag{Name: flagNoHeaders, Usage: "leave out the first line of a table"},
		colorFlag(), outputFlag(formatsList...),
	)
}

// colorFlag is --color.
func colorFlag() ucli.Flag {
	return &ucli.StringFlag{
		Name: flagColor, Value: cli.ColorAuto,
		Usage: "colour states: `WHEN` is auto (on a terminal, unless NO_COLOR is set), always or never",
	}
}

// form is how a listing was asked for.
type form struct {
	format    cli.Format
	query     cli.Query
	noHeaders bool
	color     bool
}

// form reads the flags of a listing. Other commands that print items of the kind
// have a part of them.
func (k kind[T]) form(r *runner, c *ucli.Context) (f form, err error) {
	format, err := outputOf(c)
	if err != nil {
		return f, err
	}
	f = form{format: cli.Format(format), noHeaders: c.Bool(flagNoHeaders)}
	if c.Bool(flagQuiet) {
		f.format = cli.FormatName
	}
	if f.color, err = colorOf(r, c); err != nil {
		return f, err
	}
	filters, sort := c.StringSlice(flagFilter), c.String(flagSort)
	if len(filters) == 0 && sort == "" {
		return f, nil
	}
	f.query, err = cli.ParseQuery(schemaFields(k.name), filters, sort)
	return f, err
}

func colorOf(r *runner, c *ucli.Context) (bool, error) {
	return cli.UseColor(r.Out, c.String(flagColor))
}

// origin is where the items of a listing come from. It calls show with them: once,
// or, with watch, again whenever they may have changed, until the context ends.
// What show returns ends it. stale says why the items may be old ones.
type origin[T any] func(r *runner, c *ucli.Context, watch bool, show func(items []T, stale error) error) error

// list is the action of a listing.
func (k kind[T]) list(r *runner, from origin[T]) ucli.ActionFunc {
	return func(c *ucli.Context) error {
		f, err := k.form(r, c)
		if err != nil {
			return err
		}
		if c.Bool(flagWatch) {
			return k.watch(r, c, f, from)
		}
		return from(r, c, false, func(items []T, _ error) error { return k.print(r, f, items) })
	}
}

// print writes a listing. Where nothing is in it, a table says so on the error
// stream: a script sees nothing.
func (k kind[T]) print(r *runner, f form, items []T) error {
	var out bytes.Buffer
	empty, err := k.write(&out, f, items)
	if err == nil && empty != "" && isTable(string(f.format)) {
		_, err = fmt.Fprintln(r.Err, empty)
		return err
	}
	if err == nil {
		_, err = r.Out.Write(out.Bytes())
	}
	return err
}

// write renders a listing; empty is what to say where nothing is in it.
func (k kind[T]) write(out *bytes.Buffer, f form, items []T) (empty string, err error) {
	if len(items) == 0 {
		empty = k.none
	} else if items, err = choose(f.query, items); err != nil {
		return "", err
	} else if len(items) == 0 {
		empty = "nothing matches --filter"
	}
	if k.draw != nil && f.format == cli.FormatTable {
		if len(items) > 0 {
			k.draw(out, items, f.color)
		}
		return empty, nil
	}
	t := cli.Table{NoHeaders: f.noHeaders, Color: f.color}
	for _, col := range k.columns {
		hidden := col.style == wide
		if col.style == optional {
			hidden = !slices.ContainsFunc(items, func(x T) bool { return cli.Cell(col.value(x)) != cli.Cell(nil) })
		}
		t.Columns = append(t.Columns, cli.Column{Name: col.title, Wide: hidden, State: col.style == state})
	}
	for _, item := range items {
		row := make([]any, len(k.columns))
		for i, col := range k.columns {
			row[i] = col.value(item)
		}
		t.Rows = append(t.Rows, row)
		t.Names = append(t.Names, k.key(item))
	}
	return empty, cli.Print(out, f.format, t, items)
}

// choose returns the items that a query chooses, in its order.
func choose[T any](q cli.Query, items []T) ([]T, error) {
	if q.Empty() {
		return items, nil
	}
	raw := make([]any, len(items))
	for i, item := range items {
		var err error
		if raw[i], err = cli.Generic(item); err != nil {
			return nil, err
		}
	}
	out := []T{}
	for _, i := range q.Select(raw) {
		out = append(out, items[i])
	}
	return out, nil
}

// watch shows a listing until it is interrupted, which is how it is meant to end.
func (k kind[T]) watch(r *runner, c *ucli.Context, f form, from origin[T]) error {
	return r.watching(c, func(terminal bool, show func(string, error) error) error {
		return from(r, c, true, func(items []T, stale error) error {
			var out bytes.Buffer
			empty, err := k.write(&out, f, items)
			if err != nil {
				return err
			}
			if terminal && empty != "" && isTable(string(f.format)) {
				return show(empty+"\n", stale)
			}
			return show(out.String(), stale)
		})
	})
}

// watching runs what shows a text again and again, until it is interrupted. show says
// why a text may be an old one: above it on a terminal, on the error stream elsewhere.
func (r *runner) watching(
	c *ucli.Context, run func(terminal bool, show func(text string, stale error) error) error,
) error {
	screen := cli.NewScreen(r.Out)
	said := ""
	err := run(screen.Terminal(), func(text string, stale error) error {
		hint := ""
		if stale != nil {
			hint = "as last known: " + cli.Printable(stale.Error()) + "\n"
		}
		if screen.Terminal() {
			return screen.Show(hint + text)
		}
		if hint != said {
			said = hint
			_, _ = fmt.Fprint(r.Err, hint)
		}
		return screen.Show(text)
	})
	if cerr := screen.Close(); err == nil {
		err = cerr
	}
	if c.Context.Err() != nil {
		return nil // the way it is meant to end
	}
	return err
}

// fromTopology takes items from etcd, and follows the changes there.
func fromTopology[T any](items func(c *ucli.Context, s *topology.Snapshot) ([]T, error)) origin[T] {
	return func(r *runner, c *ucli.Context, watch bool, show func([]T, error) error) error {
		deliver := func(s *topology.Snapshot, stale error) error {
			list, err := items(c, s)
			if err != nil {
				return err
			}
			return show(list, stale)
		}
		// Once in any case: it waits, and fails, as a person expects.
		err := r.withTopology(c, "", func(s *topology.Snapshot) error { return deliver(s, nil) })
		if err != nil || !watch {
			return err
		}
		return r.followTopology(c, deliver)
	}
}

// watchEvery is how often --watch asks what it cannot follow.
const watchEvery = 2 * time.Second

// fromAgent asks this host's agent for items, with watch from time to time.
func fromAgent[T any](
	ask func(ctx context.Context, c *ucli.Context, agent *api.Client) ([]T, error),
) origin[T] {
	return func(r *runner, c *ucli.Context, watch bool, show func([]T, error) error) error {
		return polling("asking the agent", func(ctx context.Context, c *ucli.Context) ([]T, error) {
			return ask(ctx, c, r.agentClient(c))
		})(r, c, watch, show)
	}
}

// polling asks for items, with watch from time to time. what is said while that takes long.
func polling[T any](what string, ask func(ctx context.Context, c *ucli.Context) ([]T, error)) origin[T] {
	return func(r *runner, c *ucli.Context, watch bool, show func([]T, error) error) error {
		items, err := waiting(r, c, what, func(ctx context.Context) ([]T, error) { return ask(ctx, c) })
		if err == nil {
			err = show(items, nil)
		}
		if err != nil || !watch {
			return err
		}
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-c.Context.Done():
				return c.Context.Err()
			case <-tick.C:
			}
			now, stale := ask(c.Context, c)
			if stale == nil {
				items = now
			}
			if err := show(items, stale); err != nil {
				return err
			}
		}
	}
}

// ofNetwork keeps what belongs to the network of --network, which is all of it
// without that.
func ofNetwork[T any](c *ucli.Context, items []T, network func(T) string) []T {
	want := c.String("network")
	return slices.DeleteFunc(append([]T{}, items...), func(x T) bool { return want != "" && network(x) != want })
}
