package neveragain

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// suite is rows.yaml.
type suite struct {
	Rows     []row     `yaml:"rows"`
	Findings []row     `yaml:"findings"`
	Promises []promise `yaml:"promises"`
}

// promise is a line of what Baize promises.
type promise struct {
	ID string `yaml:"id"`
	// What is the promise; of one that has Lost, the event.
	What string `yaml:"what"`
	// Lost is what the event may cost at most.
	Lost  string   `yaml:"lost"`
	Tests []string `yaml:"tests"`
}

// names are the tests of all parts of the suite.
func (s suite) names() (out []string) {
	for _, r := range append(slices.Clone(s.Rows), s.Findings...) {
		out = append(out, r.Tests...)
	}
	for _, p := range s.Promises {
		out = append(out, p.Tests...)
	}
	return out
}

// row is one failure.
type row struct {
	ID      string   `yaml:"id"`
	Threads []string `yaml:"threads"`
	What    string   `yaml:"what"`
	// Here is impossible, healed or named; empty where nothing is proven yet, and Open
	// says what is missing.
	Here  string   `yaml:"here"`
	Open  string   `yaml:"open"`
	Tests []string `yaml:"tests"`
}

// root is the repository.
const root = "../.."

func readSuite() (suite, error) {
	var s suite
	b, err := os.ReadFile("rows.yaml")
	if err != nil {
		return s, err
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err = d.Decode(&s)
	return s, err
}

// test is a named test: where it is, and in which tier.
type test struct {
	pkg, top, sub string
	tier          string
}

// buildTag has the tier: the second of two, such as versions, has more to it.
var buildTag = regexp.MustCompile(`(?m)^//go:build (\w+)(?: && (\w+))?$`)

// find looks a named test up in the tree.
func find(name string) (test, error) {
	pkg, rest, ok := strings.Cut(name, " ")
	t := test{pkg: pkg}
	t.top, t.sub, _ = strings.Cut(rest, "/")
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil || !ok {
		return t, fmt.Errorf("%q is not PACKAGE TestName", name)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return t, err
		}
		// A fuzz target without -fuzz is a test of its corpus.
		if !bytes.Contains(b, []byte("\nfunc "+t.top+"(t *testing.T)")) &&
			!bytes.Contains(b, []byte("\nfunc "+t.top+"(f *testing.F)")) {
			continue
		}
		t.tier = "unit"
		if m := buildTag.FindSubmatch(b); m != nil {
			t.tier = string(m[len(m)-1])
			if len(m[2]) == 0 {
				t.tier = string(m[1])
			}
		}
		return t, nil
	}
	return t, fmt.Errorf("there is no %s in %s", t.top, pkg)
}

// Every row says what becomes of it, and names tests that exist; what is open says what
// is missing.
func TestRows(t *testing.T) {
	s, err := readSuite()
	require.NoError(t, err)
	require.Len(t, s.Rows, 58)
	require.Len(t, s.Findings, 47)
	seen := map[string]bool{}
	for i, r := range s.Rows {
		require.Equal(t, fmt.Sprint(i+1), r.ID)
		require.NotEmpty(t, r.Threads, r.ID)
	}
	for _, r := range append(s.Rows, s.Findings...) {
		require.False(t, seen[r.ID], r.ID)
		seen[r.ID] = true
		require.NotEmpty(t, r.What, r.ID)
		if r.Here == "" {
			require.NotEmpty(t, r.Open, r.ID)
			require.Empty(t, r.Tests, r.ID)
			continue
		}
		require.Contains(t, []string{"impossible", "healed", "named"}, r.Here, r.ID)
		require.Empty(t, r.Open, r.ID)
		require.NotEmpty(t, r.Tests, r.ID)
		for _, name := range r.Tests {
			found, err := find(name)
			require.NoError(t, err, r.ID)
			require.Contains(t, tiers, found.tier, "%s: %s", r.ID, name)
		}
	}
	_, err = find("topology TestNoSuchThing")
	require.ErrorContains(t, err, "there is no TestNoSuchThing in topology")
}

// Every promise has tests that exist, and its group is one that the page has.
func TestPromises(t *testing.T) {
	s, err := readSuite()
	require.NoError(t, err)
	count := map[string]int{}
	for _, p := range s.Promises {
		id := p.ID[:1]
		count[id]++
		require.Equal(t, fmt.Sprint(id, count[id]), p.ID)
		require.True(t, slices.ContainsFunc(groups, func(g group) bool { return g.id == id && g.lost == (p.Lost != "") }), p.ID)
		require.NotEmpty(t, p.What, p.ID)
		require.NotEmpty(t, p.Tests, p.ID)
		for _, name := range p.Tests {
			found, err := find(name)
			require.NoError(t, err, p.ID)
			require.Contains(t, tiers, found.tier, "%s: %s", p.ID, name)
		}
	}
}
