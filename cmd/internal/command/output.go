package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology/fault"
)

// The forms of a listing, and of a single item.
var (
	formatsList = formatNames()
	formatsItem = []string{
		string(cli.FormatTable), string(cli.FormatWide), string(cli.FormatJSON), string(cli.FormatYAML),
		string(cli.FormatJSONPath),
	}
)

func formatNames() (names []string) {
	for _, f := range cli.Formats() {
		names = append(names, string(f))
	}
	return names
}

// outputFlag is --output; the first format is the default.
func outputFlag(formats ...string) ucli.Flag {
	last := len(formats) - 1
	list := strings.ReplaceAll(strings.Join(formats[:last], ", ")+" or "+formats[last], "=", "=…")
	return &ucli.StringFlag{
		Name: cli.FlagOutput, Aliases: []string{"o"}, Value: formats[0], Usage: "`FORMAT` of the output: " + list,
	}
}

// formatsOf reads the formats back from the flag's own words.
func formatsOf(f ucli.Flag) ([]string, bool) {
	s, ok := f.(*ucli.StringFlag)
	if !ok || s.Name != cli.FlagOutput {
		return nil, false
	}
	_, list, _ := strings.Cut(s.Usage, ": ")
	return strings.Split(strings.NewReplacer(" or ", ", ", "…", "").Replace(list), ", "), true
}

// outputOf returns the chosen format. BAIZE_OUTPUT is meant for listings in
// general: where it names a format that this command lacks, the command's own
// default holds.
func outputOf(c *ucli.Context) (string, error) {
	format := c.String(cli.FlagOutput)
	for _, f := range c.Command.Flags {
		formats, ok := formatsOf(f)
		if !ok {
			continue
		}
		if slices.ContainsFunc(formats, func(f string) bool { return cli.Format(format).Is(cli.Format(f)) }) {
			if strings.Contains(format, "=") {
				_, err := cli.ParseFormat(format) // its template
				return format, err
			}
			continue
		}
		if format == os.Getenv(EnvVar(cli.FlagOutput)) {
			return formats[0], nil
		}
		return "", checkOneOf(c.Command.HelpName, "output", format, formats)
	}
	return format, nil
}

// field is one line in the description of a single item.
type field struct{ name, value string }

func isTable(format string) bool {
	return format == string(cli.FormatTable) || format == string(cli.FormatWide)
}

// writeRows aligns lines of words.
func writeRows(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// item prints one item: as a sentence, field by field, or as data.
func (r *runner) item(c *ucli.Context, v any, describe func() []field, sentence string) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	if !isTable(format) {
		return r.data(format, v)
	}
	if sentence != "" {
		return r.say("%s", sentence)
	}
	var rows [][]string
	for _, f := range describe() {
		if f.value == "" {
			f.value = "-"
		}
		rows = append(rows, []string{cli.Printable(f.name) + ":", cli.Printable(f.value)})
	}
	return writeRows(r.Out, rows)
}

// data prints a value as JSON or YAML, with the same names in both, or by a
// template.
func (r *runner) data(format string, v any) error {
	return cli.Print(r.Out, cli.Format(format), cli.Table{}, v)
}

func (r *runner) say(format string, args ...any) error {
	_, err := fmt.Fprintln(r.Out, fault.Printable(fmt.Sprintf(format, args...)))
	return err
}

// waiting runs f, and shows what it waits for when that takes longer than a
// second.
func waiting[T any](r *runner, c *ucli.Context, what string, f func(context.Context) (T, error)) (v T, err error) {
	err = cli.NewProgress(r.Err).Step(c.Context, what, func(ctx context.Context) (err error) {
		v, err = f(ctx)
		return err
	})
	return v, err
}
