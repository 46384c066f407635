package command

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs/forward"
)

// kindTypes are the types that -o json prints.
var kindTypes = map[string]reflect.Type{
	"auth":        reflect.TypeFor[authItem](),
	"network":     reflect.TypeFor[networkItem](),
	"node":        reflect.TypeFor[nodeItem](),
	"subnet":      reflect.TypeFor[subnetItem](),
	"pin":         reflect.TypeFor[pinItem](),
	"event":       reflect.TypeFor[event.Event](),
	"endpoint":    reflect.TypeFor[api.Endpoint](),
	"route":       reflect.TypeFor[api.Route](),
	"way":         reflect.TypeFor[api.Way](),
	"pong":        reflect.TypeFor[pongItem](),
	"name":        reflect.TypeFor[nameItem](),
	"status":      reflect.TypeFor[statusItem](),
	"topology":    reflect.TypeFor[draw.Topology](),
	"plan":        reflect.TypeFor[planItem](),
	"trace":       reflect.TypeFor[trace.Result](),
	"plan-diff":   reflect.TypeFor[drift.Drift](),
	"lab-status":  reflect.TypeFor[lab.Status](),
	"version":     reflect.TypeFor[versionItem](),
	"config":      reflect.TypeFor[configItem](),
	"context":     reflect.TypeFor[contextItem](),
	"drop":        reflect.TypeFor[trace.Drop](),
	"explanation": reflect.TypeFor[trace.Explanation](),
	"doctor":      reflect.TypeFor[doctor.Report](),
}

// typeSchema is the schema that a type in Go has, without descriptions. No list is
// null; a pointer is where it may be left out or is said to be null.
func typeSchema(t *testing.T, typ reflect.Type) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.ForType(typ, &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[netip.Addr]():     {Type: "string"},
		reflect.TypeFor[netip.Prefix]():   {Type: "string"},
		reflect.TypeFor[api.Duration]():   {Type: "string"},
		reflect.TypeFor[forward.Packet](): {Type: "string"},
		reflect.TypeFor[time.Time]():      {Type: "string", Format: "date-time"},
		reflect.TypeFor[kernel.State]():   {Type: "object"}, // it follows the kernel's own, and is not promised
	}})
	require.NoError(t, err)
	var mend func(s *jsonschema.Schema)
	mend = func(s *jsonschema.Schema) {
		if slices.Contains(s.Types, "array") {
			s.Type, s.Types = "array", nil
		}
		if s.AdditionalProperties != nil && s.Properties != nil {
			s.AdditionalProperties = nil // other fields may be added
		}
		if s.AdditionalProperties != nil {
			s.Type, s.Types = "object", nil
		}
		if s.Items != nil {
			mend(s.Items)
		}
		for name, p := range s.Properties {
			if !slices.Contains(s.Required, name) && len(p.Types) > 0 {
				p.Type, p.Types = schemaType(p), nil
			}
			mend(p)
		}
	}
	mend(s)
	return s
}

// describe takes what is written by hand from have; it returns the paths of fields
// that nobody has described.
func describe(s, have *jsonschema.Schema, path string) (missing []string) {
	if have == nil {
		have = &jsonschema.Schema{}
	}
	s.Schema, s.Title, s.Description = have.Schema, have.Title, have.Description
	s.Enum, s.Deprecated = have.Enum, have.Deprecated
	for _, name := range s.PropertyOrder {
		p, h := s.Properties[name], have.Properties[name]
		missing = append(missing, describe(p, h, path+"."+name)...)
		if p.Description == "" {
			missing = append(missing, path+"."+name)
		}
	}
	if s.Items != nil {
		missing = append(missing, describe(s.Items, have.Items, path)...)
	}
	return missing
}

// A field that is added, renamed or taken away shows in a schema, and so in a
// review. U14: the JSON of status, route list and lab status was described nowhere.
func TestSchemasAreThoseOfTheTypes(t *testing.T) {
	for kind, typ := range kindTypes {
		t.Run(kind, func(t *testing.T) {
			path := filepath.Join("schema", kind+".json")
			have := new(jsonschema.Schema)
			text, err := os.ReadFile(path)
			if err == nil {
				require.NoError(t, json.Unmarshal(text, have))
			}
			want := typeSchema(t, typ)
			missing := describe(want, have, kind)
			want.Schema = "https://json-schema.org/draft/2020-12/schema"
			b, err := json.MarshalIndent(want, "", "  ")
			require.NoError(t, err)
			if *update {
				require.NoError(t, os.WriteFile(path, append(b, '\n'), 0o644))
			}
			assert.Empty(t, missing, "fields without a description in %s", path)
			assert.NotEmpty(t, want.Title)
			if !*update {
				assert.Equal(t, string(b)+"\n", string(text), "%s differs; if that is meant, run "+
					"'go test ./cmd/internal/command -update' and describe what is new", path)
			}
		})
	}
	assert.Len(t, kindTypes, len(schemaKinds()), "%v", schemaKinds())
}

// conforms checks a value, or every item of a listing, against the schema of a
// kind. Fields that the schema does not know are refused here.
func conforms(t *testing.T, kind, out string) {
	t.Helper()
	s := schemaOf(kind)
	strict(s)
	resolved, err := s.Resolve(nil)
	require.NoError(t, err)
	var v any
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	items, isList := v.([]any)
	if !isList {
		items = []any{v}
	}
	require.NotEmpty(t, items, "nothing is checked")
	for _, item := range items {
		assert.NoError(t, resolved.Validate(item), "%s", kind)
	}
}

func strict(s *jsonschema.Schema) {
	if s.Properties != nil {
		s.AdditionalProperties = &jsonschema.Schema{Not: &jsonschema.Schema{}}
	}
	if s.Items != nil {
		strict(s.Items)
	}
	for _, p := range s.Properties {
		strict(p)
	}
}

func TestSchemaCommand(t *testing.T) {
	res := baize(t, "schema")
	require.Equal(t, 0, res.code, res.err)
	for kind := range kindTypes {
		assert.Regexp(t, `(?m)^`+kind+` +\S`, res.out)
	}
	res = baize(t, "schema", "node")
	require.Equal(t, 0, res.code, res.err)
	assert.True(t, strings.HasPrefix(res.out, "{\n"))
	res = baize(t, "schema", "nod")
	assert.Equal(t, 3, res.code)
	assert.Contains(t, res.err, "did you mean node?")
}
