package topology_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/baize-net/baize/topology"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docRecords are the record types docs/keyspace.md has a section for, by the
// directory the section's heading names.
var docRecords = map[string]topology.Record{
	topology.DirNetworks: topology.Network{},
	topology.DirNodes:    topology.Node{},
	topology.DirAlive:    topology.Liveness{},
	topology.DirSubnets:  topology.Subnet{},
	topology.DirPins:     topology.Pin{},
	topology.DirNames:    topology.Names{},
	topology.DirClaims:   topology.Claim{},

	topology.DirQuestions: topology.Question{},
	topology.DirAnswers:   topology.NodeAnswer{},
}

// keyspaceDoc is what a test can check of docs/keyspace.md.
type keyspaceDoc struct {
	text string
	// fields are the rows of the table below each directory's heading: field
	// name to whether it is always there.
	fields map[string]map[string]bool
	// examples are the fenced blocks by their info string: the first line is
	// the key, the rest the value.
	examples map[string][]topology.KV
}

var (
	docHeading = regexp.MustCompile("^## `(~?[a-z]+/)")
	docField   = regexp.MustCompile("^\\| `([A-Za-z0-9]+)` \\| (yes|no) \\|")
)

func readKeyspaceDoc(t *testing.T) keyspaceDoc {
	t.Helper()
	b, err := os.ReadFile("../docs/keyspace.md")
	require.NoError(t, err)
	d := keyspaceDoc{text: string(b), fields: map[string]map[string]bool{}, examples: map[string][]topology.KV{}}
	var section, fence string
	var block []string
	for line := range strings.Lines(d.text) {
		line = strings.TrimSuffix(line, "\n")
		info, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && fence == "":
			require.NotEmpty(t, info, "a fenced block without a name after %q", line)
			fence, block = info, nil
		case isFence:
			require.GreaterOrEqual(t, len(block), 2, "the block before %q has no key and value", line)
			d.examples[fence] = append(d.examples[fence], topology.KV{
				Key: block[0], Value: []byte(strings.Join(block[1:], "\n")),
			})
			fence = ""
		case fence != "":
			block = append(block, line)
		case strings.HasPrefix(line, "## "):
			section = ""
			if m := docHeading.FindStringSubmatch(line); m != nil {
				section = m[1]
				d.fields[section] = map[string]bool{}
			}
		case section != "":
			if m := docField.FindStringSubmatch(line); m != nil {
				d.fields[section][m[1]] = m[2] == "yes"
			}
		}
	}
	require.Empty(t, fence, "a fenced block is not closed")
	return d
}

// jsonFields returns the names a record is stored with, and whether each is
// always written.
func jsonFields(r topology.Record) map[string]bool {
	out := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeOf(r)) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out[name] = !strings.Contains(options, "omit")
		}
	}
	return out
}

func TestKeyspaceDocNamesEveryField(t *testing.T) {
	d := readKeyspaceDoc(t)
	assert.Contains(t, d.text, "`"+topology.DefaultPrefix+"`")
	assert.ElementsMatch(t, slices.Collect(maps.Keys(docRecords)), slices.Collect(maps.Keys(d.fields)), "sections")
	for dir, r := range docRecords {
		assert.Equal(t, jsonFields(r), d.fields[dir], "the fields of %s (true: always there)", dir)
	}
	for _, tr := range topology.Transports() {
		assert.Contains(t, d.text, "`"+string(tr)+"`")
	}
}

func TestKeyspaceDocExamples(t *testing.T) {
	d := readKeyspaceDoc(t)
	require.NotEmpty(t, d.examples["keyspace"])
	shown := map[string]map[string]bool{}
	for _, kv := range d.examples["keyspace"] {
		r, err := topology.Decode(kv)
		require.NoError(t, err, kv.Key)
		require.NotNil(t, r, "%s is in no known directory", kv.Key)
		assert.Equal(t, kv.Key, r.Key())
		assert.JSONEq(t, string(kv.Value), string(topology.Encode(r)), "%s does not come back as it is written", kv.Key)

		dir := kv.Key[:strings.IndexByte(kv.Key, '/')+1]
		assert.IsType(t, docRecords[dir], r)
		var value map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(kv.Value, &value))
		for name := range value {
			assert.Contains(t, d.fields[dir], name, "%s has a field that is not stored", kv.Key)
			if shown[dir] == nil {
				shown[dir] = map[string]bool{}
			}
			shown[dir][name] = true
		}
	}
	for dir, fields := range d.fields {
		for name := range fields {
			assert.True(t, shown[dir][name], "no example of %s shows %s", dir, name)
		}
	}
}

func TestKeyspaceDocExamplesAreOneCluster(t *testing.T) {
	d := readKeyspaceDoc(t)
	// As etcd would number them, had they been put in this order.
	kvs := slices.Concat(d.examples["keyspace"], d.examples["keyspace-extra"])
	for i := range kvs {
		kvs[i].CreateRevision, kvs[i].ModRevision = int64(i+1), int64(i+1)
	}
	s := topology.NewSnapshot(int64(len(kvs)), kvs)
	assert.Empty(t, s.Validate())
	v := s.View("host1")
	assert.Empty(t, v.Problems)
	blue, ok := v.Find("blue")
	require.True(t, ok)
	require.Len(t, blue.Peers, 1)
	assert.Equal(t, "host2", blue.Peers[0].Node)
	assert.Len(t, blue.Pins, 3)
}

func TestKeyspaceDocUnknownFieldsAreKept(t *testing.T) {
	d := readKeyspaceDoc(t)
	require.NotEmpty(t, d.examples["keyspace-extra"])
	for _, kv := range d.examples["keyspace-extra"] {
		r, err := topology.Decode(kv)
		require.NoError(t, err, kv.Key)
		assert.JSONEq(t, string(kv.Value), string(topology.Encode(r)))
	}
}

func TestKeyspaceDocMalformed(t *testing.T) {
	d := readKeyspaceDoc(t)
	require.NotEmpty(t, d.examples["keyspace-malformed"])
	good := d.examples["keyspace"]
	for _, kv := range d.examples["keyspace-malformed"] {
		t.Run(kv.Key, func(t *testing.T) {
			r, err := topology.Decode(kv)
			require.ErrorIs(t, err, topology.ErrInvalid, fmt.Sprintf("%+v", r))
			var e *topology.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, kv.Key, e.Item)
			assert.NotEmpty(t, e.Remedy)

			// Where it stands beside good keys, it is the one problem.
			others := slices.DeleteFunc(slices.Clone(good), func(g topology.KV) bool { return g.Key == kv.Key })
			for i := range others {
				others[i].CreateRevision = int64(i + 1)
			}
			problems := topology.NewSnapshot(int64(len(good)), append(others, kv)).Validate()
			require.Len(t, problems, 1)
			assert.Equal(t, kv.Key, problems[0].Item)
		})
	}
}
