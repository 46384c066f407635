// Package cli is what the commands share: output for people and for programs,
// exit codes, progress, flags and the log.
package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
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
)

// Formats lists every format in the order it is offered to people.
func Formats() []Format { return []Format{FormatTable, FormatWide, FormatJSON, FormatYAML} }

// ParseFormat reads a format's name. The error is of kind ErrInvalid.
func ParseFormat(s string) (Format, error) {
	for _, f := range Formats() {
		if s == string(f) {
			return f, nil
		}
	}
	return "", &topology.Error{
		Kind: topology.ErrInvalid, Item: fmt.Sprintf("output format %q", s), What: "unknown",
		Remedy: "use one of table, wide, json, yaml",
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
}

// Print writes a listing: the table for people, value for programs.
func Print(w io.Writer, f Format, t Table, value any) error {
	var b []byte
	var err error
	switch f {
	case FormatJSON:
		b, err = marshalJSON(value)
	case FormatYAML:
		b, err = yaml.Marshal(listOf(value))
	case FormatTable, FormatWide:
		b = []byte(t.render(f == FormatWide))
	default:
		_, err = ParseFormat(string(f))
	}
	if err != nil {
		return fmt.Errorf("output as %s: %w", f, err)
	}
	_, err = w.Write(b)
	return err
}

func marshalJSON(value any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(listOf(value))
	return []byte(b.String()), err
}

// listOf makes an empty list of a nil slice: programs loop over it.
func listOf(value any) any {
	if v := reflect.ValueOf(value); v.Kind() == reflect.Slice && v.IsNil() {
		return reflect.MakeSlice(v.Type(), 0, 0).Interface()
	}
	return value
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
	tw.AppendHeader(header)
	tw.SetColumnConfigs(configs)
	for _, r := range t.Rows {
		var row table.Row
		for i, cell := range r {
			if i < len(t.Columns) && t.Columns[i].Wide && !wide {
				continue
			}
			row = append(row, Cell(cell))
		}
		tw.AppendRow(row)
	}
	return tw.Render() + "\n"
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
