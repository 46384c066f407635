package fault_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology/fault"
)

var update = flag.Bool("update", false, "rewrite the list of docs/faults.md")

// declared is one code of codes.go.
type declared struct{ name, value, about string }

// codes reads codes.go: the codes in their order, and what the first two digits
// mean.
func codes(t *testing.T) (all []declared, areas map[string]string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, parser.ParseComments)
	require.NoError(t, err)
	areas = map[string]string{}
	for _, c := range file.Comments {
		for _, m := range regexp.MustCompile(`(?m)^\t(\d\d)  (.+)$`).FindAllStringSubmatch(c.Text(), -1) {
			areas[m[1]] = m[2]
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		require.Len(t, spec.Values, 1, "each code has a line of its own")
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		name := spec.Names[0].Name
		about, ok := strings.CutPrefix(strings.Join(strings.Fields(spec.Doc.Text()), " "), name+": ")
		require.True(t, ok, "the comment of %s begins with %q", name, name+": ")
		all = append(all, declared{name, value, about})
		return true
	})
	require.NotEmpty(t, all)
	return all, areas
}

func TestCodesAreUniqueAndInARange(t *testing.T) {
	all, areas := codes(t)
	seen := map[string]string{}
	for _, c := range all {
		assert.Regexp(t, `^BZ\d{4}$`, c.value, c.name)
		assert.Empty(t, seen[c.value], "%s has the code of %s", c.name, seen[c.value])
		seen[c.value] = c.name
		assert.Contains(t, areas, c.value[2:4], "%s: the comment in codes.go does not say what these two digits mean", c.name)
	}
}

// TestFaultsPage compares docs/faults.md with codes.go; -update writes it.
func TestFaultsPage(t *testing.T) {
	const page, mark = "../../docs/faults.md", "Do not edit. -->\n"
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	head, _, found := strings.Cut(string(b), mark)
	require.True(t, found)
	all, areas := codes(t)
	var want strings.Builder
	want.WriteString(head + mark)
	for area := range 100 {
		digits := fmt.Sprintf("%02d", area)
		first := true
		for _, c := range all {
			if c.value[2:4] != digits {
				continue
			}
			if first {
				fmt.Fprintf(&want, "\n### %s: %s\n\n| code | what is wrong |\n|---|---|\n", digits, areas[digits])
				first = false
			}
			fmt.Fprintf(&want, "| `%s` | %s |\n", c.value, strings.TrimSuffix(c.about, "."))
		}
	}
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(want.String()), 0o644))
		return
	}
	assert.Equal(t, want.String(), string(b), "run 'make docs'")
}

// withoutCodes are the places whose faults have no codes yet. Nothing is to be
// added; what is done is taken out.
var withoutCodes = []string{
	"cmd/internal/lab/",
}

// errorsToo are the places whose errors for people need codes as well.
const errorsToo = "ovs/"

// TestEveryFaultHasACode looks at each fault.Fault{…} that is not in a test, and
// in errorsToo at each topology.Error{…}.
func TestEveryFaultHasACode(t *testing.T) {
	bare := map[string]bool{} // places of withoutCodes that still need to be there
	err := filepath.WalkDir("../..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		rel := filepath.ToSlash(strings.TrimPrefix(file, "../../"))
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") || rel == "topology/fault/fault.go" {
			return nil
		}
		kinds := []string{"fault.Fault"}
		if strings.HasPrefix(rel, errorsToo) {
			kinds = append(kinds, "topology.Error")
		}
		for _, at := range withoutCode(t, file, kinds...) {
			place := ""
			for _, p := range withoutCodes {
				if strings.HasPrefix(rel, p) {
					place = p
				}
			}
			bare[place] = true
			assert.NotEmpty(t, place,
				"%s:%d: this fault has no Code; take one from topology/fault/codes.go, or add one", rel, at)
		}
		return nil
	})
	require.NoError(t, err)
	for _, p := range withoutCodes {
		assert.True(t, bare[p], "every fault of %s has a code: take it out of withoutCodes", p)
	}
}

// withoutCode returns the lines of a file's literals of some types that set fields,
// but no Code.
func withoutCode(t *testing.T, file string, types ...string) []int {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, 0)
	require.NoError(t, err)
	var out []int
	check := func(lit *ast.CompositeLit) {
		for _, e := range lit.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Code" {
					return
				}
			}
		}
		if len(lit.Elts) > 0 {
			out = append(out, fset.Position(lit.Pos()).Line)
		}
	}
	isOne := func(e ast.Expr) bool { return slices.Contains(types, typeName(e)) }
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		if isOne(lit.Type) {
			check(lit)
			return true
		}
		elided := false // []fault.Fault{{…}}, map[K]fault.Fault{k: {…}}
		switch typ := lit.Type.(type) {
		case *ast.ArrayType:
			elided = isOne(typ.Elt)
		case *ast.MapType:
			elided = isOne(typ.Value)
		}
		for _, e := range lit.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				e = kv.Value
			}
			if inner, ok := e.(*ast.CompositeLit); ok && elided && inner.Type == nil {
				check(inner)
			}
		}
		return true
	})
	return out
}

// typeName returns "fault.Fault" for that type and for a pointer to it.
func typeName(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return pkg.Name + "." + sel.Sel.Name
}

func TestWithoutCode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.go")
	require.NoError(t, os.WriteFile(file, []byte(`package x
var a = fault.Fault{Item: "x"}
var b = []*topology.Error{{Item: "x"}, {Code: "x"}}
var c = &topology.Error{Item: "x"}
var d = map[string]fault.Fault{"x": {Item: "x"}}
var e = fault.Fault{}
`), 0o600))
	assert.Equal(t, []int{2, 5}, withoutCode(t, file, "fault.Fault"))
	assert.Equal(t, []int{2, 3, 4, 5}, withoutCode(t, file, "fault.Fault", "topology.Error"))
}

// What 'baize explain' says of a code is what the page says.
func TestMeanings(t *testing.T) {
	all, areas := codes(t)
	meanings := fault.Meanings()
	assert.Len(t, meanings, len(all))
	for _, c := range all {
		assert.Equal(t, strings.TrimSuffix(c.about, "."), meanings[fault.Code(c.value)], c.name)
		assert.Equal(t, areas[c.value[2:4]], fault.Code(c.value).Area(), c.name)
	}
	assert.Empty(t, fault.Code("BZ9999").Area())
}

// TestTroubleshootingHasEveryCode: whoever has a code finds what to do.
func TestTroubleshootingHasEveryCode(t *testing.T) {
	b, err := os.ReadFile("../../docs/troubleshooting.md")
	require.NoError(t, err)
	known := map[string]bool{}
	all, _ := codes(t)
	for _, c := range all {
		known[c.value] = true
		_, rest, there := strings.Cut(string(b), "\n### "+c.value+"\n")
		if assert.True(t, there, "docs/troubleshooting.md has no paragraph %q for %s: %s", "### "+c.value, c.name, c.about) {
			paragraph, _, _ := strings.Cut(rest, "\n### ")
			assert.Greater(t, len(strings.TrimSpace(paragraph)), 60, "the paragraph on %s says what to do", c.value)
		}
	}
	for _, m := range regexp.MustCompile(`BZ\d{4}`).FindAllString(string(b), -1) {
		assert.True(t, known[m], "docs/troubleshooting.md speaks of %s, which is no code", m)
	}
}
