package command

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// Values that make no sense are refused before anything is asked: no etcd
// listens here, and a question would end with ExitUnavailable. No agent can run
// under the name -bad-: what is not refused for its value is refused for that.
func TestValuesAreCheckedFirst(t *testing.T) {
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "http://127.0.0.1:1")
	t.Setenv("BAIZE_ETCD_TIMEOUT", "100ms")
	for line, says := range map[string][]string{
		"network list -o jsn":                                  {`"jsn"`, "did you mean json?"},
		"network create b --subnet 10.1.0.0/16 -o ymal":        {`"ymal"`, "did you mean yaml?"},
		"endpoint add --network b --netns c1 -o jsn":           {`"jsn"`, "did you mean json?"},
		"status --log-level bogus":                             {`"bogus"`, "error, warn, info, debug"},
		"network create b --subnet 10.1.0.0/16 --vni 99999999": {"99999999", "1 to 16777215"},
		"plan --node a --vxlan-port 70000":                     {"--vxlan-port 70000", "1 to 65535"},
		"plan --node a --geneve-port -1":                       {"--geneve-port -1", "1 to 65535"},
		"agent --node -bad- --vxlan-port 70000":                {"--vxlan-port 70000", "1 to 65535"},
		"agent --node -bad- --audit-interval -5s":              {"--audit-interval -5s", "negative"},
		"agent --node -bad- --liveness-ttl -1s":                {"--liveness-ttl -1s", "negative"},
		"network list --etcd-timeout -1s":                      {"--etcd-timeout -1s", "negative"},
	} {
		t.Run(line, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			require.Equal(t, cli.ExitUsage, res.code, res.err)
			for _, s := range says {
				assert.Contains(t, res.err, s)
			}
			assert.Empty(t, res.out)
		})
	}
}

// A value of the environment that no command of the line has is not looked at.
func TestEnvironmentOfOtherCommands(t *testing.T) {
	t.Setenv("BAIZE_AUDIT_INTERVAL", "-5s")
	require.Equal(t, cli.ExitOK, baize(t, "version").code)
	res := baize(t, "agent", "--node", "-bad-")
	assert.Equal(t, cli.ExitUsage, res.code)
	assert.Contains(t, res.err, "--audit-interval -5s")
}

// The nearest name wins, not the longest that begins the same.
func TestTheNearestNameIsProposed(t *testing.T) {
	assert.Equal(t, ": did you mean blue?", didYouMean("blu", []string{"blue", "blue2"}, ""))
	assert.Equal(t, ": did you mean blue?", didYouMean("blu", []string{"blue2", "blue"}, ""))
	assert.Equal(t, ": did you mean production?", didYouMean("prod", []string{"blue", "production"}, ""))
}

// What a record holds does not reach the terminal as control characters.
func TestNodeShowHasNoControlCharacters(t *testing.T) {
	s := etcd(t)
	_, err := s.RegisterNode(t.Context(), topology.Node{
		Name: "host1", ID: "x", Hostname: "a\x1b[31mred\x07", Datapath: "system",
	})
	require.NoError(t, err)
	res := baize(t, "node", "show", "host1")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	assert.Contains(t, res.out, "[31mred")
	assert.NotContains(t, res.out, "\x1b")
	assert.NotContains(t, res.out, "\x07")
}
