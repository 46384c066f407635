package neveragain

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

// runVar has the tiers to run: "unit system kernel versions"; without it the package's
// own tests run.
const runVar = "BAIZE_NEVER_AGAIN"

// tiers are those that tests may be of, in the order in which they run.
var tiers = []string{"unit", "system", "kernel", "versions"}

func TestMain(m *testing.M) {
	chosen, run := os.LookupEnv(runVar)
	if !run {
		os.Exit(m.Run())
	}
	if err := runAll(os.Stdout, os.Stderr, strings.Fields(chosen)); err != nil {
		fmt.Fprintln(os.Stderr, "never-again:", err)
		os.Exit(1)
	}
}

// runAll runs the tests of all rows in some tiers, and prints what is proven. The error
// says that a test that should prove something did not.
func runAll(out, progress io.Writer, chosen []string) error {
	s, err := readSuite()
	if err != nil {
		return err
	}
	commands, err := plan(s, chosen)
	if err != nil {
		return err
	}
	passed := map[string]bool{}
	for _, c := range commands {
		fmt.Fprintf(progress, "%s: %s, %s\n", c.tier, c.pkg, c.pattern)
		begin := time.Now()
		said, err := c.run(passed)
		if err != nil {
			fmt.Fprintf(progress, "%s\n", printed(said))
		}
		fmt.Fprintf(progress, "  %v, %v\n", time.Since(begin).Round(time.Second), cmp.Or(err, errors.New("passed")))
	}
	return report(out, s, passed)
}

// command is one run of go test.
type command struct {
	pkg, tier, pattern string
}

// plan says which tests to run together: those of a package and tier, and of a test with
// subtests the part that the first level of them names.
func plan(s suite, chosen []string) ([]command, error) {
	type place struct{ pkg, tier string }
	whole := map[place]map[string]bool{}
	parts := map[place]map[string]bool{}
	for _, name := range s.names() {
		t, err := find(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(chosen, t.tier) {
			continue
		}
		p := place{t.pkg, t.tier}
		if whole[p] == nil {
			whole[p], parts[p] = map[string]bool{}, map[string]bool{}
		}
		if first, _, _ := strings.Cut(t.sub, "/"); first != "" {
			parts[p]["^"+t.top+"$/^"+regexp.QuoteMeta(first)+"$"] = true
		} else {
			whole[p][t.top] = true
		}
	}
	var out []command
	for p, tops := range whole {
		if len(tops) > 0 {
			names := strings.Join(slices.Sorted(maps.Keys(tops)), "|")
			out = append(out, command{p.pkg, p.tier, "^(" + names + ")$"})
		}
		for pattern := range parts[p] {
			// A test that runs as a whole is not run again for a part of it.
			if top, _, _ := strings.Cut(pattern, "/"); !whole[p][strings.Trim(top, "^$")] {
				out = append(out, command{p.pkg, p.tier, pattern})
			}
		}
	}
	order := func(c command) int { return slices.Index(tiers, c.tier) }
	slices.SortFunc(out, func(a, b command) int {
		return cmp.Or(order(a)-order(b), strings.Compare(a.pkg, b.pkg), strings.Compare(a.pattern, b.pattern))
	})
	return out, nil
}

// commandLimit bounds one command: the virtual machine is the slowest.
const commandLimit = 40 * time.Minute

// run runs the tests and notes, by package and name, which passed. It returns what go test said.
func (c command) run(passed map[string]bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	var cmd *exec.Cmd
	switch c.tier {
	case "versions":
		cmd = exec.CommandContext(ctx, "scripts/test-upgrade.sh", "./"+c.pkg)
		cmd.Env = append(os.Environ(), "TESTFLAGS=-v")
	case "kernel":
		cmd = exec.CommandContext(ctx, "scripts/test.sh", "kernel")
		cmd.Env = append(os.Environ(), "TESTFLAGS=-run "+c.pattern)
	case "system":
		cmd = exec.CommandContext(ctx, "go", "test", "-trimpath", "-tags", "system", "-vet=off", "-count=1", "-json",
			"-timeout", "30m", "-run", c.pattern, "./"+c.pkg)
		// Of the catalogue of faults only a quick part is run otherwise.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "BAIZE_TEST_FAULTS=all", "BAIZE_TEST_WHOLE=1")
	default:
		cmd = exec.CommandContext(ctx, "go", "test", "-vet=off", "-count=1", "-json", "-timeout", "30m", "-run", c.pattern, "./"+c.pkg)
		cmd.Env = append(os.Environ(), "BAIZE_TEST_WHOLE=1") // see testkit.Some
	}
	cmd.Dir = root
	cmd.WaitDelay = 10 * time.Second
	b, err := cmd.CombinedOutput()
	for _, name := range passes(bytes.NewReader(b)) {
		passed[c.pkg+" "+name] = true
	}
	return b, err
}

// printed is what go test printed, without the envelope that -json puts around each line.
func printed(said []byte) string {
	var out strings.Builder
	for line := range strings.Lines(string(said)) {
		var event struct{ Output string }
		if json.Unmarshal([]byte(line), &event) != nil {
			event.Output = line
		}
		out.WriteString(event.Output)
	}
	return out.String()
}

var passLine = regexp.MustCompile(`^\s*--- PASS: (\S+) \(`)

// passes reads which tests passed, from what go test prints with -json or with -v. A
// test without a result has not passed.
func passes(r io.Reader) []string {
	var out []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct{ Action, Test string }
		if json.Unmarshal(lines.Bytes(), &event) == nil {
			if event.Action == "pass" && event.Test != "" {
				out = append(out, event.Test)
			}
		} else if m := passLine.FindStringSubmatch(lines.Text()); m != nil {
			out = append(out, m[1])
		}
	}
	return out
}

// provenBy says that all of some tests passed.
func provenBy(passed map[string]bool, tests []string) bool {
	return !slices.ContainsFunc(tests, func(name string) bool { return !passed[name] })
}

// line is a promise in one line.
func (p promise) line() string {
	if p.Lost == "" {
		return p.What
	}
	return p.What + ": " + p.Lost
}

// report prints the table, and how much of it is proven.
func report(out io.Writer, s suite, passed map[string]bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "#\tHERE\tPROVEN\tWHAT\tTESTS")
	var failed []string
	count := func(rows []row) (n int) {
		for _, r := range rows {
			text := "open"
			if r.Here != "" {
				text = "yes"
				if !provenBy(passed, r.Tests) {
					text = "NO"
				}
			}
			if text == "yes" {
				n++
			}
			if text == "NO" {
				failed = append(failed, r.ID)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ID, cmp.Or(r.Here, "-"), text, r.What,
				cmp.Or(strings.Join(r.Tests, "; "), r.Open))
		}
		return n
	}
	rows, findings := count(s.Rows), count(s.Findings)
	promises := 0
	for _, p := range s.Promises {
		text := "NO"
		if provenBy(passed, p.Tests) {
			text = "yes"
			promises++
		} else {
			failed = append(failed, p.ID)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.ID, "promised", text, p.line(), strings.Join(p.Tests, "; "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d of %d promises proven\n", promises, len(s.Promises))
	fmt.Fprintf(out, "never-again: %d of %d rows, %d of %d findings proven\n", rows, len(s.Rows), findings, len(s.Findings))
	if len(failed) > 0 {
		return fmt.Errorf("a test failed or did not run for %s", strings.Join(failed, ", "))
	}
	return nil
}

// Which tests passed is read from both forms of output; a row is proven by all of its
// tests, and one whose test did not pass is an error.
func TestReport(t *testing.T) {
	const text = `{"Action":"run","Test":"TestA"}
{"Action":"pass","Package":"x","Test":"TestA/one"}
{"Action":"fail","Test":"TestA"}
{"Action":"pass","Package":"x"}
=== RUN   TestB
--- PASS: TestB (0.01s)
    --- PASS: TestB/sub_test (0.00s)
--- FAIL: TestC (0.00s)
`
	require.Equal(t, []string{"TestA/one", "TestB", "TestB/sub_test"}, passes(strings.NewReader(text)))
	require.Equal(t, "    a_test.go:1: lost\nplain\n", printed([]byte(
		`{"Action":"run","Test":"TestA"}`+"\n"+`{"Action":"output","Output":"    a_test.go:1: lost\n"}`+"\nplain\n")))
	s := suite{
		Rows: []row{
			{ID: "1", What: "one", Here: "healed", Tests: []string{"p TestA", "p TestB"}},
			{ID: "2", What: "two", Open: "nothing yet"},
		},
		Findings: []row{{ID: "S1", What: "three", Here: "named", Tests: []string{"p TestA"}}},
	}
	s.Promises = []promise{
		{ID: "E1", What: "an event", Lost: "nothing", Tests: []string{"p TestB"}},
		{ID: "I1", What: "a promise", Tests: []string{"p TestA"}},
	}
	var out bytes.Buffer
	err := report(&out, s, map[string]bool{"p TestA": true})
	require.ErrorContains(t, err, "for 1, E1")
	require.Regexp(t, `(?m)^E1 +promised +NO +an event: nothing +p TestB$`, out.String())
	require.Contains(t, out.String(), "\n1 of 2 promises proven\nnever-again: 0 of 2 rows, 1 of 1 findings proven\n")
	out.Reset()
	require.NoError(t, report(&out, s, map[string]bool{"p TestA": true, "p TestB": true}))
	require.True(t, strings.HasSuffix(out.String(), "never-again: 1 of 2 rows, 1 of 1 findings proven\n"))
	require.Regexp(t, `(?m)^2 +- +open +two +nothing yet$`, out.String())
}

// A test with subtests is run as far as they are named.
func TestPlan(t *testing.T) {
	s := suite{Rows: []row{{Tests: []string{
		"topology TestMACOf", "topology TestMTU", "cmd/internal/domaintest TestDomain/vxlan/a_storm",
		"cmd/internal/domaintest TestDomain/vxlan", "cmd/internal/domaintest TestNames", "cmd/internal/kerneltest TestKernel",
	}}}, Promises: []promise{{Tests: []string{
		"topology FuzzDecode", "topology TestMTU/ipv4", "cmd/internal/domaintest TestTwoVersions",
	}}}}
	got, err := plan(s, tiers)
	require.NoError(t, err)
	require.Equal(t, []command{
		{"topology", "unit", "^(FuzzDecode|TestMACOf|TestMTU)$"},
		{"cmd/internal/domaintest", "system", "^(TestNames)$"},
		{"cmd/internal/domaintest", "system", "^TestDomain$/^vxlan$"},
		{"cmd/internal/kerneltest", "kernel", "^(TestKernel)$"},
		{"cmd/internal/domaintest", "versions", "^(TestTwoVersions)$"},
	}, got)
	got, err = plan(s, []string{"unit"})
	require.NoError(t, err)
	require.Len(t, got, 1)
}
