//go:build system && engines

package domaintest

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// engines are those that 'make test-docker-mixed' fetched, beside the
// machine's own on host1.
func engines(t *testing.T) map[string]string {
	t.Helper()
	dirs := strings.Fields(os.Getenv("BAIZE_TEST_ENGINES"))
	require.Len(t, dirs, 2, "BAIZE_TEST_ENGINES: the directories of two engines: run 'make test-docker-mixed'")
	return map[string]string{"host2": dirs[0], "host3": dirs[1]}
}

// Each host has another version, or every test here would prove less than it
// says.
func TestMixedEngines(t *testing.T) {
	e := engines(t)
	d := up(t, topology.VXLAN, lab.Config{Docker: true, Engines: e})
	var versions []string
	for _, host := range d.Hosts() {
		versions = append(versions, d.docker(host.Name(), "version", "-f", "{{.Server.Version}}"))
	}
	t.Log(versions)
	for i, v := range versions {
		assert.NotContains(t, append(append([]string{}, versions[:i]...), versions[i+1:]...), v)
	}
}

func TestMixedDockerPlugin(t *testing.T) { testDockerPlugin(t, engines(t)) }

func TestMixedDocker0(t *testing.T) { testDocker0(t, engines(t)) }
