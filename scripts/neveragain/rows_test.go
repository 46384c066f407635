package neveragain

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// suite is rows.yaml.
type suite struct {
	Rows     []row `yaml:"rows"`
	Findings []row `yaml:"findings"`
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

var buildTag = regexp.MustCompile(`(?m)^//go:build (\w+)$`)

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
		if !bytes.Contains(b, []byte("\nfunc "+t.top+"(t *testing.T)")) {
			continue
		}
		t.tier = "unit"
		if m := buildTag.FindSubmatch(b); m != nil {
			t.tier = string(m[1])
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
			require.Contains(t, []string{"unit", "system", "kernel"}, found.tier, "%s: %s", r.ID, name)
		}
	}
	_, err = find("topology TestNoSuchThing")
	require.ErrorContains(t, err, "there is no TestNoSuchThing in topology")
}
