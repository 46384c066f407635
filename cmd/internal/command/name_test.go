package command

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// U13: no command lists names.
func TestNames(t *testing.T) {
	s := cluster(t)
	res := baize(t, "name", "list")
	assert.Equal(t, 0, res.code)
	assert.Contains(t, res.err, "no names")
	a := netip.MustParseAddr
	for _, n := range []topology.Names{
		{Network: "blue", Node: "host1", Names: map[string][]netip.Addr{
			"web": {a("10.1.153.2"), a("fd00:10:1:99::2")}, "a.b": {a("10.1.153.3")},
		}},
		{Network: "blue", Node: "host3", Names: map[string][]netip.Addr{"web": {a("10.1.65.2")}, "out": {a("192.0.2.1")}}},
		{Network: "red", Node: "host2", Names: map[string][]netip.Addr{"web": {a("10.2.139.2")}}},
	} {
		require.NoError(t, s.PutNames(t.Context(), n))
	}
	for name, line := range map[string]string{
		"name-list":         "name list",
		"name-list-json":    "name ls --network red -o json",
		"name-resolve":      "name resolve WEB.",
		"name-resolve-blue": "name resolve web.blue",
		"name-resolve-addr": "name resolve 10.1.153.2",
	} {
		t.Run(name, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			require.Equal(t, 0, res.code, res.err)
			golden(t, name, res.out)
		})
	}
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"name resolve wbe":                   {cli.ExitNotFound, "did you mean web?"},
		"name resolve web.red -network blue": {cli.ExitNotFound, "name web.red"},
		"name resolve out":                   {cli.ExitNotFound, "baize name list"},
		"name resolve 10.1.153.9":            {cli.ExitNotFound, "10.1.153.9"},
		"name list --network bleu":           {cli.ExitNotFound, "did you mean blue?"},
		"name resolve":                       {cli.ExitUsage, "NAME"},
	} {
		res := baize(t, strings.Fields(line)...)
		assert.Equal(t, want.code, res.code, line)
		assert.Contains(t, res.err, want.says, line)
	}
}
