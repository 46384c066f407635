// Package cnitest tests a CNI interface plugin by the text of the specification
// (SPEC.md of github.com/containernetworking/cni, version 1.1.0) and by its conventions
// (CONVENTIONS.md there): a table of rules, each with the section that it is from. It
// knows nothing of Baize: a Suite says how the plugin is configured and what it claims
// to do, and Run does what a runtime does, with real network namespaces.
package cnitest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"
)

// Suite describes a plugin under test.
type Suite struct {
	// Type is the plugin's name, Path the folders where it and ipam plugins are found.
	Type string
	Path []string
	// Config has the plugin's own keys.
	Config map[string]any
	// Versions of the specification to test with; all that the plugin says it supports
	// where it is empty.
	Versions []string
	// Wrap puts a command into the runtime's network namespace; nil where the tests run
	// there.
	Wrap func(argv []string) (command, env []string, err error)
	// Broken makes ADD impossible until repair is called, for STATUS; nil where the suite
	// cannot do that.
	Broken func(t *testing.T) (repair func())
	// Left names what the plugin has for a network; nothing after every attachment of it
	// has ended. nil where only the container tells.
	Left func(t *testing.T, network string) []string
	// Strict says that the plugin keeps to the letter of what many treat loosely: errors
	// name variables, VERSION repeats the version, unknown keys are refused.
	Strict bool
	// Delegates: the plugin has its addresses from an ipam plugin where one is configured.
	Delegates bool
	// Addr returns an address of the network, with its prefix length, that is free; nil
	// where the plugin does not take addresses from the runtime.
	Addr func(t *testing.T) string
	// MAC: the plugin takes a link address by the capability mac.
	MAC bool
	// Bandwidth: the plugin limits traffic by the capability bandwidth, with a queue in
	// the container for what it sends.
	Bandwidth bool
	// Parallel is how many attachments are made at a time.
	Parallel int
}

// rule is one sentence of the specification, or a few that belong together.
type rule struct {
	section string
	says    string
	// since is the version of the specification that first says so; "" for all.
	since string
	// once: it is enough to test it with one version.
	once bool
	// needs tells whether the plugin claims to do it; nil where all must.
	needs func(Suite) bool
	test  func(c *call)
}

// rules are all of them.
func rules() []rule {
	return slices.Concat(versionRules, environmentRules, addRules, delRules, checkRules, statusRules, gcRules, ipamRules,
		conventionRules, orderRules)
}

// Run tests a plugin by all rules that apply to it, with every version of the
// specification.
func Run(t *testing.T, s Suite) {
	t.Helper()
	if len(s.Versions) == 0 {
		s.Versions = supported(t, s)
	}
	s.Path = append(slices.Clone(s.Path), fakePlugins(t))
	newest := s.Versions[len(s.Versions)-1]
	for _, v := range s.Versions {
		t.Run(v, func(t *testing.T) {
			for i, r := range rules() {
				if !applies(t, r, s, v, newest) {
					continue
				}
				t.Run(r.section+"/"+r.says, func(t *testing.T) {
					// Some runtimes have one network of many plugins, others many: one a rule.
					c := &call{T: t, suite: s, version: v, network: fmt.Sprintf("cnitest%d", i)}
					defer c.expectNothingLeft() // a cleanup would be after the test's context
					r.test(c)
				})
			}
		})
	}
}

func applies(t *testing.T, r rule, s Suite, v, newest string) bool {
	t.Helper()
	if (r.needs != nil && !r.needs(s)) || (r.once && v != newest) {
		return false
	}
	if r.since == "" {
		return true
	}
	ok, err := version.GreaterThanOrEqualTo(v, r.since)
	require.NoError(t, err)
	return ok
}

// supported asks the plugin for the versions from 0.3.1 on.
func supported(t *testing.T, s Suite) (out []string) {
	t.Helper()
	c := &call{T: t, suite: s, version: "1.0.0"}
	var answer struct {
		Supported []string `json:"supportedVersions"`
	}
	c.decode(c.exec("VERSION", []byte(`{"cniVersion":"1.0.0"}`), nil), &answer)
	for _, v := range answer.Supported {
		if ok, err := version.GreaterThanOrEqualTo(v, "0.3.1"); err == nil && ok {
			out = append(out, v)
		}
	}
	require.NotEmpty(t, out, "no version from 0.3.1 on")
	slices.SortFunc(out, func(a, b string) int {
		if ok, _ := version.GreaterThan(a, b); ok {
			return 1
		}
		return -1
	})
	return out
}

// fakeIPAM is an ipam plugin that does as it is told: it notes what it was called with,
// and answers what stands in its folder.
const (
	fakeIPAM       = "cnitest-ipam"
	fakeIPAMScript = `#!/bin/sh
dir=$(dirname "$0")
if [ "$CNI_COMMAND" = VERSION ]; then
	echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'
	exit
fi
cat >"$dir/$CNI_COMMAND.$CNI_CONTAINERID.stdin"
env >"$dir/$CNI_COMMAND.$CNI_CONTAINERID.env"
if [ -e "$dir/fail.$CNI_COMMAND.$CNI_CONTAINERID" ]; then
	echo '{"cniVersion":"1.0.0","code":111,"msg":"told to fail"}'
	exit 1
fi
[ "$CNI_COMMAND" != ADD ] || cat "$dir/result.$CNI_CONTAINERID"
`
)

// fakePlugins makes the folder with the fake ipam plugin.
func fakePlugins(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cnitest-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.WriteFile(filepath.Join(dir, fakeIPAM), []byte(fakeIPAMScript), 0o755))
	return dir
}

// command makes a command of the runtime's.
func (s Suite) command(t *testing.T, argv []string) *exec.Cmd {
	t.Helper()
	env := os.Environ()
	if s.Wrap != nil {
		var err error
		argv, env, err = s.Wrap(argv)
		require.NoError(t, err)
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = env
	return cmd
}
