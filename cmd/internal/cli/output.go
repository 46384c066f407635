// Package cli is what the commands share: output for people and for programs,
// exit codes, progress, flags and the log.
package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"sigs.k8s.io/yaml"

	"github.com/baize-net/baize/topology"
)

// Format is how a command prints what it found.
type Format string

// The formats.
const (
	FormatTable Format = "table"
	FormatWide  Format = "wide" // table with every column
	FormatJSON  Format = "json"
	FormatYAML  Format = "yaml"
	FormatName  Format = "name" // a name on each line
	// A template in kubectl's syntax comes behind these two.
	FormatJSONPath      Format = "jsonpath="
	FormatCustomColumns Format = "custom-columns="
)

// Formats lists every format in the order it is offered to people.
func Formats() []Format {
	return []Format{
		FormatTable, FormatWide, FormatJSON, FormatYAML, FormatName, FormatJSONPath, FormatCustomColumns,
	}
}

// Is reports whether f is the format other, whatever the template behind it.
func (f Format) Is(other Format) bool {
	return f == other || (strings.HasSuffix(string(other), "=") && strings.HasPrefix(string(f), string(other)))
}

// ParseFormat reads a format's name, and its template where it has one. The error
// is of kind ErrInvalid.
func ParseFormat(s string) (Format, error) {
	for _, f := range Formats() {
		if Format(s).Is(f) {
			_, err := Format(s).template(false)
			return Format(s), err
		}
	}
	return "", &topology.Error{
		Kind: topology.ErrInvalid, Item: fmt.Sprintf("output format %q", s), What: "unknown",
		Remedy: "use one of table, wide, json, yaml, name, jsonpath=, custom-columns=",
	}
}

// Column is a column of a Table.
type Column struct {
	// Name is shown in upper case.
	Name string
	// Wide columns are shown in FormatWide only.
	Wide bool
	// Right aligns to the right, for numbers.
	Right bool
	// State is set for words such as ready and down, which have colours.
	State bool
}

// Columns returns left-aligned columns; a name that starts with '+' makes a wide one.
func Columns(names ...string) []Column {
	out := make([]Column, len(names))
	for i, n := range names {
		n, wide := strings.CutPrefix(n, "+")
		out[i] = Column{Name: n, Wide: wide}
	}
	return out
}

// Table is a listing for people. Each row has one cell for each
// column, wide ones included; Cell formats it.
type Table struct {
	Columns []Column
	Rows    [][]any
	// Empty is printed where there are no rows: "no endpoints on this node".
	// Without it the headers stand alone.
	Empty string
	// Names are the rows' names, for FormatName.
	Names     []string
	NoHeaders bool
	// Color is set where states are shown in colours.
	Color bool
}

// Print writes a listing: the table for people, value for programs.
func Print(w io.Writer, f Format, t Table, value any) error {
	var b []byte
	var err error
	switch f {
	case FormatJSON:
		b, err = marshalJSON(value)
	case FormatYAML:
		b, err = yaml.Marshal(withLists(value))
	case FormatTable, FormatWide:
		b = []byte(t.render(f == FormatWide))
	case FormatName:
		for _, name := range t.Names {
			b = append(append(b, Printable(name)...), '\n')
		}
	default:
		if b, err = t.byTemplate(f, value); err != nil {
			return err // it names the template
		}
	}
	if err != nil {
		return fmt.Errorf("output as %s: %w", f, err)
	}
	_, err = w.Write(b)
	return err
}

func (t Table) byTemplate(f Format, value any) ([]byte, error) {
	if _, err := ParseFormat(string(f)); err != nil {
		return nil, err
	}
	write, err := f.template(t.NoHeaders)
	if err != nil {
		return nil, err
	}
	v, err := Generic(value)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = write(&b, v)
	return b.Bytes(), err
}

func marshalJSON(value any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(withLists(value))
	return []byte(b.String()), err
}

func (t Table) render(wide bool) string {
	if len(t.Rows) == 0 && t.Empty != "" {
		return t.Empty + "\n"
	}
	tw := table.NewWriter()
	tw.SetStyle(plain)
	tw.SuppressTrailingSpaces()
	var header table.Row
	var configs []table.ColumnConfig
	for _, c := range t.Columns {
		if c.Wide && !wide {
			continue
		}
		header = append(header, c.Name)
		if c.Right {
			configs = append(configs, table.ColumnConfig{
				Number: len(header), Align: text.AlignRight, AlignHeader: text.AlignRight,
			})
		}
	}
	if !t.NoHeaders {
		tw.AppendHeader(header)
	}
	tw.SetColumnConfigs(configs)
	for _, r := range t.Rows {
		tw.AppendRow(t.row(r, wide))
	}
	return tw.Render() + "\n"
}

func (t Table) row(cells []any, wide bool) (row table.Row) {
	for i, c := range t.Columns {
		if c.Wide && !wide {
			continue
		}
		text := Cell(cells[i])
		if t.Color && c.State {
			text = Paint(text)
		}
		row = append(row, text)
	}
	return row
}

// plain is a table as kubectl draws it: columns, nothing else.
var plain = table.Style{
	Name:    "plain",
	Box:     table.BoxStyle{PaddingRight: "   "},
	Format:  table.FormatOptions{Header: text.FormatUpper, Row: text.FormatDefault},
	Options: table.OptionsNoBordersAndSeparators,
}

// none is written for an empty cell.
const none = "-"

// Cell formats a value for a table: a list with commas, a boolean as yes or no,
// an empty value as "-", control characters as spaces.
func Cell(v any) string {
	if s := Printable(cell(v)); s != "" {
		return s
	}
	return none
}

// Printable replaces control characters by spaces: a record's text must not
// move a terminal's cursor.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case time.Time:
		if v.IsZero() {
			return ""
		}
		return Ago(time.Since(v))
	}
	rv := reflect.ValueOf(v)
	// A zero netip.Addr prints as "invalid IP", a zero time as year one.
	if z, ok := v.(interface{ IsZero() bool }); ok && z.IsZero() {
		return ""
	}
	if z, ok := v.(interface{ IsValid() bool }); ok && !z.IsValid() {
		return ""
	}
	if _, ok := v.(fmt.Stringer); !ok && rv.Kind() == reflect.Slice {
		parts := make([]string, rv.Len())
		for i := range parts {
			parts[i] = cell(rv.Index(i).Interface())
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v)
}
