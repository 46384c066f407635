package scripts

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

const module = "github.com/baize-net/baize/"

// goPackage is one package of the tree.
type goPackage struct {
	// imports are the packages of ours that its files import, tests left out.
	imports []string
	// testsOnly is set where every file is a test.
	testsOnly bool
}

// goPackages returns the packages of the module by path, whatever build tags
// they have.
func goPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			nested := file != ".." && fileExists(filepath.Join(file, "go.mod"))
			if nested || d.Name() == "testdata" || (strings.HasPrefix(d.Name(), ".") && file != "..") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(file, ".go") {
			dir := filepath.ToSlash(filepath.Dir(strings.TrimPrefix(file, "../")))
			files[dir] = append(files[dir], file)
		}
		return nil
	})
	require.NoError(t, err)
	out := map[string]goPackage{}
	for dir, list := range files {
		p := goPackage{testsOnly: true}
		imports := map[string]bool{}
		for _, file := range list {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			p.testsOnly = false
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			require.NoError(t, err)
			for _, i := range f.Imports {
				name, err := strconv.Unquote(i.Path.Value)
				require.NoError(t, err)
				if ours, ok := strings.CutPrefix(name, module); ok {
					imports[ours] = true
				}
			}
		}
		p.imports = slices.Sorted(maps.Keys(imports))
		out[dir] = p
	}
	require.Contains(t, out, "topology")
	return out
}

func fileExists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// importRule is one of depguard's rules.
type importRule struct {
	Mode  string   `json:"list-mode"`
	Files []string `json:"files"`
	Allow []string `json:"allow"`
	Deny  []struct {
		Pkg string `json:"pkg"`
	} `json:"deny"`
}

// everybodys is the package that every other may import where it may import
// topology: the table does not repeat it.
const everybodys = "topology/fault"

// ours returns the packages of ours that a rule allows.
func (r importRule) ours() []string {
	var out []string
	for _, a := range r.Allow {
		if p, ok := strings.CutPrefix(a, module); ok {
			out = append(out, strings.TrimSuffix(p, "$"))
		}
	}
	slices.Sort(out)
	return out
}

// importRules are the rules that are named after a package, or after a group of
// packages: "cmd/internal/agent/*".
func importRules(t *testing.T) map[string]importRule {
	t.Helper()
	b, err := os.ReadFile("../.golangci.yml")
	require.NoError(t, err)
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]importRule `json:"rules"`
				} `json:"depguard"`
			} `json:"settings"`
		} `json:"linters"`
	}
	require.NoError(t, yaml.Unmarshal(b, &config))
	out := map[string]importRule{}
	for name, r := range config.Linters.Settings.Depguard.Rules {
		if slices.Contains(r.Files, "${config-path}/"+name+"/*.go") {
			out[name] = r
		}
	}
	require.NotEmpty(t, out)
	return out
}

// ruleFor returns the rule of a package: its own before that of its group.
func ruleFor(rules map[string]importRule, pkg string) (name string, r importRule, found bool) {
	if r, ok := rules[pkg]; ok {
		return pkg, r, true
	}
	name = path.Dir(pkg) + "/*"
	r, found = rules[name]
	return name, r, found
}

// TestImportRules checks that the linter knows which packages of ours each
// package may import, and that no rule is left of a package that is gone.
func TestImportRules(t *testing.T) {
	packages, rules := goPackages(t), importRules(t)
	used := map[string]bool{}
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		p := packages[pkg]
		if p.testsOnly {
			continue
		}
		name, r, found := ruleFor(rules, pkg)
		if !found {
			t.Errorf("no rule in .golangci.yml says what %s may import: add\n%s", pkg, ruleText(pkg, p.imports))
			continue
		}
		used[name] = true
		strict := r.Mode == "strict" || r.Mode == "lax" && len(r.Deny) == 1 && r.Deny[0].Pkg+"/" == module
		assert.True(t, strict, "rule %s in .golangci.yml must refuse the packages of ours that it does not allow", name)
		for _, i := range p.imports {
			if !slices.Contains(r.ours(), i) {
				t.Errorf(
					"rule %s in .golangci.yml does not allow %s to import %s: add\n            - %s",
					name,
					pkg,
					i,
					module+i+"$",
				)
			}
		}
	}
	for name, r := range rules {
		for _, a := range r.Allow {
			ours, ok := strings.CutPrefix(a, module)
			if !ok {
				continue
			}
			if _, known := packages[strings.TrimSuffix(ours, "$")]; !known {
				t.Errorf("rule %s in .golangci.yml allows %s, which is no package", name, a)
			}
			assert.True(t, strings.HasSuffix(a, "$"),
				"rule %s in .golangci.yml: %s must end with $, or it allows all that begin so", name, a)
		}
	}
	for name := range rules {
		assert.True(t, used[name], "rule %s in .golangci.yml is for no package of the tree", name)
	}
}

func ruleText(pkg string, imports []string) string {
	var allow []string
	for _, i := range imports {
		allow = append(allow, "\n            - "+module+i+"$")
	}
	list := strings.Join(allow, "")
	if list == "" {
		list = " []"
	}
	return fmt.Sprintf(`        %s:
          list-mode: lax
          files: ["${config-path}/%s/*.go", "!$test"]
          deny: *ours
          allow:%s`, pkg, pkg, list)
}

// TestPackageTable checks the table of docs/architecture.md: every package has a
// row, every row a package, and what it may import is what the linter lets it.
func TestPackageTable(t *testing.T) {
	b, err := os.ReadFile("../docs/architecture.md")
	require.NoError(t, err)
	packages, rules := goPackages(t), importRules(t)
	rows := map[string][]string{}
	row := regexp.MustCompile("(?m)^\\| `([a-z][a-z0-9/-]*)` \\| (\\S.*) \\| (.*) \\|$")
	code := regexp.MustCompile("`([^`]+)`")
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		pkg := m[1]
		if _, twice := rows[pkg]; twice {
			t.Errorf("docs/architecture.md has two rows for %s", pkg)
		}
		if _, known := packages[pkg]; !known {
			t.Errorf("docs/architecture.md has a row for %s, which is no package", pkg)
		}
		rows[pkg] = []string{}
		for _, i := range code.FindAllStringSubmatch(m[3], -1) {
			rows[pkg] = append(rows[pkg], i[1])
		}
		slices.Sort(rows[pkg])
	}
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		p := packages[pkg]
		may := p.imports
		if _, r, found := ruleFor(rules, pkg); found {
			may = r.ours()
		}
		may = slices.DeleteFunc(may, func(p string) bool { return p == everybodys })
		want := "| `" + pkg + "` | … | " + tableCell(p, may) + " |"
		have, ok := rows[pkg]
		if !ok {
			t.Errorf("docs/architecture.md has no row for %s: add\n%s", pkg, want)
			continue
		}
		if !p.testsOnly {
			assert.ElementsMatch(t, may, have,
				"docs/architecture.md and .golangci.yml differ on what %s may import; the rule means\n%s", pkg, want)
		}
	}
}

func tableCell(p goPackage, may []string) string {
	switch {
	case p.testsOnly:
		return "only tests"
	case len(may) == 0:
		return "nothing"
	}
	return "`" + strings.Join(may, "`, `") + "`"
}
