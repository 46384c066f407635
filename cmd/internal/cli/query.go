package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// Fields are the fields of an item in JSON, by path ("leases.used" is a field of
// an object, or of the objects in a list), with their types in the words of JSON
// Schema: "string", "integer", "boolean", "object".
type Fields map[string]string

// Query chooses items of a listing and their order. The zero Query leaves both.
type Query struct {
	known   Fields
	filters map[string][]*regexp.Regexp // by field
	sort    string                      // a field; empty: as they come
	descend bool
}

// ParseQuery reads filters of the form FIELD=VALUE, in which a * of VALUE stands
// for anything, and the field to sort by, "-FIELD" for descending order. Errors
// are of kind ErrInvalid and name the fields that are known.
func ParseQuery(known Fields, filters []string, sort string) (Query, error) {
	q := Query{known: known, filters: map[string][]*regexp.Regexp{}}
	for _, f := range filters {
		field, value, ok := strings.Cut(f, "=")
		if !ok {
			return q, &topology.Error{
				Kind: topology.ErrInvalid, Item: "--filter " + f, What: "it is not FIELD=VALUE",
				Remedy: "write it like --filter " + slices.Min(slices.Collect(maps.Keys(known))) + "=VALUE",
			}
		}
		if err := known.check("--filter "+f, field); err != nil {
			return q, err
		}
		pattern, err := regexp.Compile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(value), `\*`, `.*`) + `$`)
		if err != nil { // all that is left is what is no UTF-8
			return q, &topology.Error{
				Kind: topology.ErrInvalid, Item: fmt.Sprintf("--filter %q", f), What: "it is no text", Remedy: "write it in UTF-8",
			}
		}
		q.filters[field] = append(q.filters[field], pattern)
	}
	q.sort, q.descend = strings.CutPrefix(sort, "-")
	if sort == "" {
		return q, nil
	}
	return q, known.check("--sort "+sort, q.sort)
}

// check refuses a field that is unknown, or that has no value of its own.
func (known Fields) check(item, field string) error {
	if t, ok := known[field]; ok && t != "object" {
		return nil
	}
	plain := maps.Clone(known)
	maps.DeleteFunc(plain, func(_, t string) bool { return t == "object" })
	return &topology.Error{
		Kind: topology.ErrInvalid, Item: item, What: fmt.Sprintf("there is no field %q", field),
		Remedy: "use one of " + strings.Join(slices.Sorted(maps.Keys(plain)), ", "),
	}
}

// Empty reports whether the query leaves every listing as it is.
func (q Query) Empty() bool { return len(q.filters) == 0 && q.sort == "" }

// Select returns the indexes of the items that the query chooses, in its order.
// Several filters of one field choose what any of them does, those of different
// fields what all of them do; of a list, any element will do. A field that an
// item lacks has the zero value of its type.
func (q Query) Select(items []any) []int {
	var out []int
	for i, item := range items {
		if q.matches(item) {
			out = append(out, i)
		}
	}
	if q.sort == "" {
		return out
	}
	keys := make([][]any, len(items))
	for _, i := range out {
		keys[i] = values(items[i], q.sort)
	}
	slices.SortStableFunc(out, func(a, b int) int {
		c := slices.CompareFunc(keys[a], keys[b], compare)
		if q.descend {
			return -c
		}
		return c
	})
	return out
}

func (q Query) matches(item any) bool {
	for field, patterns := range q.filters {
		have := values(item, field)
		if len(have) == 0 {
			have = []any{map[string]any{"boolean": false, "integer": 0, "number": 0}[q.known[field]]}
		}
		if !slices.ContainsFunc(have, func(v any) bool {
			text := ""
			if v != nil {
				text = fmt.Sprint(v)
			}
			return slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(text) })
		}) {
			return false
		}
	}
	return true
}

// values returns what an item has at a path: several where a list is on the way.
func values(v any, path string) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		var out []any
		for _, x := range v {
			out = append(out, values(x, path)...)
		}
		return out
	case map[string]any:
		first, rest, _ := strings.Cut(path, ".")
		return values(v[first], rest)
	}
	if path != "" {
		return nil
	}
	return []any{v}
}

// compare orders values as people do: numbers and addresses by value, host2
// before host10.
func compare(a, b any) int {
	if x, ok := number(a); ok {
		if y, ok := number(b); ok {
			return cmp.Compare(x, y)
		}
	}
	s, t := fmt.Sprint(a), fmt.Sprint(b)
	p, errP := netip.ParsePrefix(s)
	q, errQ := netip.ParsePrefix(t)
	if errP == nil && errQ == nil {
		return cmp.Or(p.Addr().Compare(q.Addr()), cmp.Compare(p.Bits(), q.Bits()))
	}
	x, errX := netip.ParseAddr(s)
	y, errY := netip.ParseAddr(t)
	if errX == nil && errY == nil {
		return x.Compare(y)
	}
	return topology.CompareNames(s, t)
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// Generic returns what value is in JSON: maps, lists, strings, booleans, int64 or
// else float64. It is an error where a value has no JSON.
func Generic(value any) (any, error) {
	b, err := marshalJSON(value)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // a revision is no float
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return numbers(v), nil
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}
