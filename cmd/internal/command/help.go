package command

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	ucli "github.com/urfave/cli/v2"
)

// flagDoc is a flag as help and manual show it.
type flagDoc struct {
	names    string // "--output FORMAT, -o FORMAT"
	usage    string
	def      string
	env      string
	required bool
	repeat   bool
}

func documentFlag(f ucli.Flag) flagDoc {
	d := f.(ucli.DocGenerationFlag)
	usage := d.GetUsage()
	value := ""
	if d.TakesValue() {
		value = " VALUE"
		if _, ok := f.(*ucli.DurationFlag); ok {
			value = " DURATION"
		}
		if before, rest, ok := strings.Cut(usage, "`"); ok {
			if word, after, ok := strings.Cut(rest, "`"); ok {
				value = " " + word
				usage = before + word + after
			}
		}
	}
	var names []string
	for _, n := range f.Names() {
		dash := "--"
		if len(n) == 1 {
			dash = "-"
		}
		names = append(names, dash+n)
	}
	doc := flagDoc{names: strings.Join(names, ", ") + value}
	doc.usage, doc.required = strings.CutSuffix(usage, requiredMark)
	if s, ok := f.(ucli.DocGenerationSliceFlag); ok {
		doc.repeat = s.IsSliceFlag()
	}
	if d.TakesValue() {
		doc.def = strings.Trim(d.GetDefaultText(), `"`)
		if doc.def == "0" || doc.def == "0s" {
			doc.def = ""
		}
	}
	if e := d.GetEnvVars(); len(e) > 0 {
		doc.env = e[0]
	}
	return doc
}

// details lists what a flag's usage does not say.
func (d flagDoc) details() string {
	var parts []string
	if d.required {
		parts = append(parts, "required")
	}
	if d.repeat {
		parts = append(parts, "repeatable")
	}
	if d.def != "" {
		parts = append(parts, "default "+d.def)
	}
	parts = append(parts, "$"+d.env)
	return strings.Join(parts, ", ")
}

func visibleFlags(flags []ucli.Flag) []ucli.Flag {
	return slices.DeleteFunc(slices.Clone(flags), func(f ucli.Flag) bool {
		v, ok := f.(ucli.VisibleFlag)
		return ok && !v.IsVisible()
	})
}

// usageLine is how a command is written.
func usageLine(path []*ucli.Command) string {
	c := path[len(path)-1]
	s := name(path)
	if len(c.Subcommands) > 0 && c.Action == nil {
		return s + " COMMAND"
	}
	if flags := visibleFlags(c.Flags); len(flags) > 0 && c.Category == takesCommand {
		s += " [FLAGS]"
	}
	if c.ArgsUsage != "" {
		s += " " + c.ArgsUsage
	}
	for _, f := range visibleFlags(c.Flags) {
		if d := documentFlag(f); d.required {
			s += " " + strings.Split(d.names, ",")[0]
		}
	}
	if len(visibleFlags(c.Flags)) > 0 && c.Category != takesCommand {
		s += " [FLAGS]"
	}
	return s
}

// writeHelp shows the help of the last command of a path.
func writeHelp(w io.Writer, path []*ucli.Command) {
	c := path[len(path)-1]
	fmt.Fprintf(w, "%s - %s\n\nUSAGE\n  %s\n", name(path), c.Usage, usageLine(path))
	if len(c.Aliases) > 0 {
		fmt.Fprintf(w, "  (or %s)\n", strings.Join(c.Aliases, ", "))
	}
	if c.Description != "" {
		fmt.Fprintf(w, "\n%s\n", c.Description)
	}
	if subs := visible(c.Subcommands); len(subs) > 0 {
		fmt.Fprintf(w, "\nCOMMANDS\n")
		tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		for _, s := range subs {
			fmt.Fprintf(tw, "  %s\t%s\n", strings.Join(s.Names(), ", "), s.Usage)
		}
		_ = tw.Flush()
	}
	if flags := visibleFlags(c.Flags); len(flags) > 0 {
		title := "FLAGS"
		if len(path) == 1 {
			title = "GLOBAL FLAGS"
		}
		fmt.Fprintf(w, "\n%s\n", title)
		for _, f := range flags {
			d := documentFlag(f)
			fmt.Fprintf(w, "  %s\n      %s (%s)\n", d.names, d.usage, d.details())
		}
	}
	switch {
	case len(path) == 1:
		fmt.Fprintf(w, "\nRun '%s COMMAND --help' for help on a command.\n", c.Name)
	case len(c.Subcommands) > 0:
		fmt.Fprintf(w, "\nRun '%s COMMAND --help' for help on one of them, '%s --help' for the global flags.\n",
			name(path), path[0].Name)
	default:
		fmt.Fprintf(w, "\nRun '%s --help' for the global flags.\n", path[0].Name)
	}
}
