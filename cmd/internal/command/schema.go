package command

import (
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
)

// The schemas of what -o json prints, one for each kind of item. They are compared
// with the types in Go by a test, which writes them anew with -update; the
// descriptions in them are written by hand.
//
//go:embed schema/*.json
var schemaFiles embed.FS

// schemaKinds lists the kinds that have a schema.
func schemaKinds() (kinds []string) {
	files, err := schemaFiles.ReadDir("schema")
	if err != nil {
		panic(err) // it is a part of this program
	}
	for _, f := range files {
		kinds = append(kinds, strings.TrimSuffix(f.Name(), ".json"))
	}
	return kinds
}

func schemaText(kind string) ([]byte, error) { return schemaFiles.ReadFile("schema/" + kind + ".json") }

// schemaOf returns the schema of a kind that has one.
func schemaOf(kind string) *jsonschema.Schema {
	b, err := schemaText(kind)
	if err != nil {
		panic(err) // a test reads them all
	}
	s := new(jsonschema.Schema)
	if err := json.Unmarshal(b, s); err != nil {
		panic(err)
	}
	return s
}

// schemaFields returns the fields of a kind, those of objects in it by a path.
func schemaFields(kind string) cli.Fields {
	out := cli.Fields{}
	walkSchema(schemaOf(kind), "", func(path, typ string, _ *jsonschema.Schema) { out[path] = typ })
	return out
}

// walkSchema visits the properties of a schema in alphabetical order, those of an
// object after the object. Of a list, typ is the type of its elements.
func walkSchema(s *jsonschema.Schema, prefix string, visit func(path, typ string, p *jsonschema.Schema)) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		inner := p
		if p.Items != nil {
			inner = p.Items
		}
		visit(prefix+name, schemaType(inner), p)
		walkSchema(inner, prefix+name+".", visit)
	}
}

// schemaType returns the one type of a value that is not null.
func schemaType(s *jsonschema.Schema) string {
	types := slices.DeleteFunc(slices.Clone(s.Types), func(t string) bool { return t == "null" })
	return strings.Join(append(types, s.Type), "")
}

func (r *runner) schemaCommand() *ucli.Command {
	return &ucli.Command{
		Name: "schema", Usage: "print the JSON Schema of what -o json prints", ArgsUsage: "[KIND]",
		Description: `Without a KIND it lists the kinds. A listing is a list of such items; 'show' and
other commands print one. Fields that are there stay; others may be added.

  baize schema node`,
		Action: func(c *ucli.Context) error {
			kinds := schemaKinds()
			if c.Args().Len() == 0 {
				var rows [][]string
				for _, k := range kinds {
					rows = append(rows, []string{k, schemaOf(k).Title})
				}
				return writeRows(r.Out, rows)
			}
			kind := c.Args().First()
			if !slices.Contains(kinds, kind) {
				return notFound("schema", kind, kinds, "use one of "+strings.Join(kinds, ", "))
			}
			b, err := schemaText(kind)
			if err == nil {
				_, err = r.Out.Write(b)
			}
			return err
		},
	}
}

// writeSchemaDocs writes the fields of every kind for docs/cli.md.
func writeSchemaDocs(b *strings.Builder) {
	b.WriteString(docsFields)
	for _, kind := range schemaKinds() {
		s := schemaOf(kind)
		fmt.Fprintf(b, "\n### %s\n\n%s.\n\n| field | type | meaning |\n|---|---|---|\n", kind, s.Title)
		walkSchema(s, "", func(path, typ string, p *jsonschema.Schema) {
			if p.Items != nil {
				typ = "list of " + typ
			}
			meaning := p.Description
			if p.Deprecated {
				meaning += " (deprecated)"
			}
			fmt.Fprintf(b, "| `%s` | %s | %s |\n", path, typ, cellText(meaning))
		})
	}
}

const docsFields = `
## Fields

The fields of ` + "`-o json`, `-o yaml`, `-o jsonpath`, `-o custom-columns`, `--filter` and `--sort`" + `.
` + "`a.b`" + ` is the field b of an object a, or of the objects in a list a. A listing is a list of such items,
an empty one is ` + "`[]`" + `, and no list is null. Times are in RFC 3339. ` + "`baize schema KIND`" + ` prints the
same as JSON Schema, which says what is always there.
`
