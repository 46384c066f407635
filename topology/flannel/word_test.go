package flannel_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// knowing are the places that may know flannel, and why. A name that ends in '/'
// is a folder with all that is below it.
var knowing = map[string]string{
	"topology/flannel/":                          "the package that knows it",
	"topology/kube/":                             "nodes of Kubernetes in place of its keys",
	"cmd/internal/command/kube.go":               "flags, and the wiring of that source",
	"cmd/internal/command/kube_test.go":          "its test",
	"cmd/internal/sim/kube_test.go":              "agents with that source",
	"cmd/internal/kubernetes/":                   "system tests of that source, beside a real flannel",
	"cmd/internal/flannel/":                      "its system tests, and a real flannel for them",
	"cmd/internal/subnetenv/":                    "a file whose format and names are flannel's",
	"cmd/internal/cni/routed.go":                 "who writes that file",
	"cmd/internal/cni/routed_test.go":            "that file",
	"cmd/internal/cnihost/cnihost_test.go":       "where that file is",
	"cmd/internal/cnitest/plugin_test.go":        "that file",
	"cmd/internal/cnitest/podnetworks_test.go":   "that file",
	"cmd/internal/command/cnihost.go":            "where that file is",
	"cmd/internal/dockerhost/":                   "--flannel: what systemd starts Docker with",
	"cmd/internal/command/agent.go":              "flags",
	"cmd/internal/command/flannel.go":            "flags, and the wiring of the source",
	"cmd/internal/command/dockerhost.go":         "the flag",
	"cmd/internal/command/auth_test.go":          "the flag",
	"cmd/internal/command/lab.go":                "flags, and the topology of a lab",
	"cmd/internal/command/labforeign.go":         "flags of a lab",
	"cmd/internal/command/labkubernetes.go":      "flags of a lab that it does not go with",
	"cmd/internal/command/labkubernetes_test.go": "its test",
	"cmd/internal/domaintest/dockerdoc_test.go":  "what a lab with the flag says to try",
	"cmd/internal/command/migrate.go":            "the flag, the wiring of the source, 'migrate flannel'",
	"cmd/internal/lab/flannel.go":                "--flannel: a host that runs it",
	"cmd/internal/lab/engine/flannel.go":         "a host that runs it",
	"cmd/internal/lab/engine/engine_test.go":     "its test",
	"cmd/internal/lab/state_test.go":             "state files that older versions wrote",
	"scripts/neveragain/page_test.go":            "where its users told of a failure",
	"scripts/embed.go":                           "files for systemd",
	"scripts/systemd_test.go":                    "files for systemd",
	"scripts/docker_opts_test.go":                "mk-docker-opts.sh, which has flannel's options",
}

// TestNobodyElseKnowsFlannel looks for the word in all of the module's Go files:
// names, messages and comments.
func TestNobodyElseKnowsFlannel(t *testing.T) {
	found := map[string]bool{}
	files := 0
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		require.NoError(t, err)
		rel = filepath.ToSlash(rel)
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && rel != "." {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(rel, ".go") {
			return nil
		}
		files++
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for n, line := range bytes.Split(bytes.ToLower(b), []byte("\n")) {
			if !bytes.Contains(line, []byte("flannel")) {
				continue
			}
			place := placeOf(rel)
			found[place] = true
			assert.NotEmpty(t, place, "%s:%d says flannel, which only topology/flannel knows: it is a router, or a source",
				rel, n+1)
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, files, 100)
	for place := range knowing {
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(place))); err == nil {
			assert.True(t, found[place], "%s does not say flannel any more: take it out of the list", place)
		}
	}
}

// placeOf returns the entry of knowing that a file is of, or "".
func placeOf(file string) string {
	is := func(place string) bool {
		return place == file || strings.HasSuffix(place, "/") && strings.HasPrefix(file, place)
	}
	for place := range knowing {
		if is(place) {
			return place
		}
	}
	return ""
}
