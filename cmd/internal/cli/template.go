package cli

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"k8s.io/client-go/util/jsonpath"

	"github.com/baize-net/baize/topology"
)

// printer prints a value as Generic returns it.
type printer func(b *bytes.Buffer, value any) error

// template reads the formats that have a template in them; nil for all others.
func (f Format) template(noHeaders bool) (printer, error) {
	kind, text, _ := strings.Cut(string(f), "=")
	switch Format(kind + "=") {
	case FormatJSONPath:
		return parseJSONPath(f, text)
	case FormatCustomColumns:
		return parseCustomColumns(f, text, noHeaders)
	}
	return nil, nil
}

func badTemplate(f Format, what, remedy string) error {
	return &topology.Error{Kind: topology.ErrInvalid, Item: "--output " + string(f), What: what, Remedy: remedy}
}

// itemsOfKubectl is how a template for kubectl begins, whose lists are objects.
var itemsOfKubectl = regexp.MustCompile(`[{\s]\$?\.items\b`)

func parseJSONPath(f Format, text string) (printer, error) {
	if itemsOfKubectl.MatchString(text) {
		return nil, badTemplate(f, "a listing has no .items", "it is a list itself: write {[*].name}")
	}
	path, err := jsonPath(text)
	if err == nil && text == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, badTemplate(f, "no JSONPath template: "+err.Error(), "write it like -o jsonpath='{[*].name}'")
	}
	return func(b *bytes.Buffer, value any) error {
		if err := path.Execute(b, value); err != nil {
			return badTemplate(f, err.Error(), "-o json shows what there is")
		}
		if b.Len() > 0 && !bytes.HasSuffix(b.Bytes(), []byte("\n")) {
			b.WriteByte('\n')
		}
		return nil
	}, nil
}

func jsonPath(text string) (*jsonpath.JSONPath, error) {
	p := jsonpath.New("output").AllowMissingKeys(true) // fields without a value are left out of JSON
	err := p.Parse(text)
	return p, err
}

// parseCustomColumns reads HEADER:PATH,…; PATH may be name, .name or {.name}.
func parseCustomColumns(f Format, text string, noHeaders bool) (printer, error) {
	const remedy = "write it like -o custom-columns=NAME:.name,ADDRESS:.vteps[0]"
	t := Table{NoHeaders: noHeaders}
	var paths []*jsonpath.JSONPath
	for _, spec := range strings.Split(text, ",") {
		header, expr, ok := strings.Cut(spec, ":")
		if !ok || header == "" || expr == "" {
			return nil, badTemplate(f, fmt.Sprintf("%q is not HEADER:PATH", spec), remedy)
		}
		expr = strings.TrimSuffix(strings.TrimPrefix(expr, "{"), "}")
		if !strings.HasPrefix(expr, ".") && !strings.HasPrefix(expr, "[") {
			expr = "." + expr
		}
		path, err := jsonPath("{" + expr + "}")
		if err != nil {
			return nil, badTemplate(f, fmt.Sprintf("%q: %v", spec, err), remedy)
		}
		t.Columns = append(t.Columns, Column{Name: header})
		paths = append(paths, path)
	}
	return func(b *bytes.Buffer, value any) error {
		items, ok := value.([]any)
		if !ok {
			items = []any{value}
		}
		t.Rows = nil
		for _, item := range items {
			row := make([]any, len(paths))
			for i, path := range paths {
				row[i] = column(path, item)
			}
			t.Rows = append(t.Rows, row)
		}
		b.WriteString(t.render(false))
		return nil
	}, nil
}

// column returns what a path finds, with commas between. As kubectl does, it says
// <none> where there is nothing, such as the first of no elements.
func column(path *jsonpath.JSONPath, item any) string {
	found, _ := path.FindResults(item) // how it is written was checked
	var cells []string
	for _, list := range found {
		for _, v := range list {
			if s := cell(v.Interface()); s != "" {
				cells = append(cells, s)
			}
		}
	}
	if len(cells) == 0 {
		return "<none>"
	}
	return strings.Join(cells, ",")
}
