package scripts

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A struct's lock must not hide that of a struct of its package that it embeds: who locks
// x.mu to read a field of the embedded one then locks nothing that its writers lock.
func TestNoLockIsHidden(t *testing.T) {
	files := token.NewFileSet()
	// By folder: the structs that have a lock, and those that each struct embeds.
	locks, embeds := map[string]map[string]bool{}, map[string]map[string][]string{}
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") {
			return err
		}
		f, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.Dir(file)
		if locks[dir] == nil {
			locks[dir], embeds[dir] = map[string]bool{}, map[string][]string{}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				if len(field.Names) == 0 {
					embeds[dir][spec.Name.Name] = append(embeds[dir][spec.Name.Name], embedded(field.Type))
				}
				for _, name := range field.Names {
					locks[dir][spec.Name.Name] = locks[dir][spec.Name.Name] || name.Name == "mu"
				}
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
	var hidden []string
	for dir, all := range embeds {
		for _, outer := range slices.Sorted(maps.Keys(all)) {
			for _, inner := range all[outer] {
				if locks[dir][outer] && locks[dir][inner] {
					hidden = append(hidden, dir+": mu of "+outer+" hides that of "+inner)
				}
			}
		}
	}
	require.Empty(t, hidden)
}

// embedded is the name of an embedded struct of the same package, or "".
func embedded(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	if name, ok := e.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}
