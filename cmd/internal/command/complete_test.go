package command

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// complete returns the words proposed for a line, the last one unfinished.
func complete(t *testing.T, line ...string) []string {
	t.Helper()
	res := baize(t, append([]string{completeCommand}, line...)...)
	require.Zero(t, res.code)
	assert.Empty(t, res.err, "it would disturb the line being typed")
	var out []string
	for l := range strings.Lines(res.out) {
		word, _, ok := strings.Cut(l, "\t")
		require.True(t, ok)
		out = append(out, word)
	}
	return out
}

func TestComplete(t *testing.T) {
	cluster(t)
	t.Setenv("BAIZE_ETCD_TIMEOUT", "500ms")
	t.Setenv("BAIZE_CONFIG", filepath.Join(t.TempDir(), "config.yaml"))
	for _, name := range []string{"lab", "prod"} {
		require.Zero(t, baize(t, "context", "set", name, "--etcd-endpoints", "http://127.0.0.1:1").code)
	}
	for _, tc := range []struct {
		line string
		want []string
	}{
		{"net", []string{"network"}},
		{"network ", []string{"create", "list", "show", "update", "rename", "delete"}},
		{"network s", []string{"show"}},
		{"network create --sub", []string{"--subnet", "--subnet-len", "--subnet-len-v6"}},
		{"network create x --transport ", []string{"vxlan", "gre", "geneve", "route", "auto", "auto-gre", "auto-geneve"}},
		{"network list --output=js", []string{"--output=json", "--output=jsonpath="}},
		{"network update blue --transport=gen", []string{"--transport=geneve"}},
		{"subnet list --network=r", []string{"--network=red"}},
		{"network list -o j", []string{"json", "jsonpath="}},
		{"topology --output ", []string{"tree", "wide", "json", "yaml", "jsonpath=", "dot", "svg"}},
		{"network show ", []string{"blue", "red"}},
		{"network show b", []string{"blue"}},
		{"network show blue ", nil},
		{"--log-level debug network show r", []string{"red"}},
		{"node remove --force host", []string{"host1", "host2", "host3"}},
		{"ping ho", []string{"host1", "host2", "host3"}},
		{"ping host1 --encap ", []string{"vxlan", "gre", "geneve", "route"}},
		{"plan --node host3", []string{"host3"}},
		{"subnet release 10.1.248", []string{"10.1.248.0/21"}},
		{"subnet list --network ", []string{"blue", "red"}},
		{"completion ", []string{"bash", "zsh", "fish"}},
		{"node list --color ", []string{"auto", "always", "never"}},
		{"schema plan", []string{"plan-diff", "plan"}},
		{"--log-", []string{"--log-level", "--log-format"}},
		{"nonsense ", nil},
		{"network show --etcd-endpoints http://127.0.0.1:1 ", nil},
		{"agent --datapath ", []string{"auto", "system", "netdev"}},
		{"agent c", []string{"cleanup"}},
		{"--context ", []string{"lab", "prod"}},
		{"network list --context p", []string{"prod"}},
		{"context use ", []string{"lab", "prod"}},
		{"context delete l", []string{"lab"}},
		{"node list --sort s", []string{"status", "subnets.network", "subnets.prefix", "subnets.reserved"}},
		{"network rename blue ", nil},
		{"node hand-over host3", []string{"host3"}},
		{"endpoint move web host1", []string{"host1"}},
		{"agent --docker-network r", []string{"red"}},
		{"agent --docker-plugin o", []string{"on", "off"}},
		{"auth add --role ", []string{"node", "operator", "reader"}},
		{"restore ", []string{""}}, // files
		{"agent --state-dir ", []string{""}},
	} {
		t.Run(tc.line, func(t *testing.T) {
			assert.Equal(t, tc.want, complete(t, strings.Split(tc.line, " ")...))
		})
	}
	assert.NotContains(t, complete(t, ""), "docs", "hidden commands stay hidden")
}

// program returns the path of the command line as a program, which is this test.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "baize")
	require.NoError(t, os.Symlink(self, path))
	return path
}

// The scripts work in the shells as somebody types there (U10): the same lines in
// each; the program that they call is this test.
func TestCompletionInShells(t *testing.T) {
	cluster(t)
	f := &fakeAgent{endpoints: []api.Endpoint{{Name: "web", Network: "blue"}, {Name: "db", Network: "red"}}}
	f.serve(t)
	t.Setenv("BAIZE_CONFIG", filepath.Join(t.TempDir(), "config.yaml"))
	require.Zero(t, baize(t, "context", "set", "prod", "--etcd-endpoints", "http://127.0.0.1:1").code)
	etcd := "--etcd-endpoints " + os.Getenv("BAIZE_ETCD_ENDPOINTS")
	typed := map[string]string{
		"network upd":                                  "<network><update>",
		"network show b":                               "<network><show><blue>",
		"network rename r":                             "<network><rename><red>",
		"node show h":                                  "<node><show><host>", // what all three have in common
		"endpoint remove d":                            "<endpoint><remove><db>",
		"endpoint move w":                              "<endpoint><move><w>", // it is on another host
		"node ls -o ya":                                "<node><ls><-o><yaml>",
		"network update blue --transport=gen":          "<network><update><blue><--transport=geneve>",
		"network update blue --transport gen":          "<network><update><blue><--transport><geneve>",
		"subnet list --network=r":                      "<subnet><list><--network=red>",
		"network list --color=nev":                     "<network><list><--color=never>",
		"subnet release fd00:10:1:e":                   "<subnet><release><fd00:10:1:e::/64>",
		"subnet release 10.1.6":                        "<subnet><release><10.1.65.0/24>",
		"--etcd-prefix=/baize/v1 network show r":       "<--etcd-prefix=/baize/v1><network><show><red>",
		"network create x --subnet fd00:9::/48 --dry-": "<network><create><x><--subnet><fd00:9::/48><--dry-run>",
		"--context p":                                  "<--context><prod>",
		"context use p":                                "<context><use><prod>",
		"node list --sort hostn":                       "<node><list><--sort><hostname>",
		"node list --filter=stat":                      "<node><list><--filter=status=>",
		"endpoint move web host":                       "<endpoint><move><web><host>",
		"auth add alice --role=op":                     "<auth><add><alice><--role=operator>",
		"restore top":                                  "<restore><topology.json>", // a file
		"network list --etcd-cafile ce":                "<network><list><--etcd-cafile><certificate.pem>",
		"network list --etcd-cafile=ce":                "<network><list><--etcd-cafile=certificate.pem>",
		"network show top":                             "<network><show><top>", // no file
		"network list --context top":                   "<network><list><--context><top>",
		etcd + " network show r":                       "<" + strings.Replace(etcd, " ", "><", 1) + "><network><show><red>",
	}
	for name, shell := range testkit.Shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Dir(program(t))
			for _, file := range []string{"topology.json", "certificate.pem"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), nil, 0o600))
			}
			// Ending, a program with the race detector waits for a second by default.
			env := append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")
			sh := testkit.StartShell(t, shell.Argv, env, dir, shell.Setup)
			for line, want := range typed {
				assert.Equal(t, want, sh.Complete("baize "+line), line)
			}
		})
	}
}

// U10: every argument is completed that is something's name, and a command that is new
// is not forgotten.
func TestEveryArgumentIsCompleted(t *testing.T) {
	s := cluster(t)
	require.NoError(t, s.PutNames(t.Context(), topology.Names{
		Network: "blue", Node: "host1", Names: map[string][]netip.Addr{"web": {netip.MustParseAddr("10.1.153.2")}},
	}))
	f := &fakeAgent{endpoints: []api.Endpoint{{Name: "c1", Network: "blue"}}}
	f.serve(t)
	t.Setenv("BAIZE_CONFIG", filepath.Join(t.TempDir(), "config.yaml"))
	require.Zero(t, baize(t, "context", "set", "prod", "--etcd-endpoints", "http://127.0.0.1:1").code)
	nameless := map[string]string{
		"network create": "a new name", "endpoint add": "a new name", "subnet reserve": "a prefix that nothing has",
		"endpoint move": "what is on another host, and in no record",
	}
	for _, path := range leavesOf([]*ucli.Command{testRoot()}) {
		command := name(path[1:])
		if path[len(path)-1].ArgsUsage == "" || command == "lab exec" { // that needs a lab: see domaintest
			continue
		}
		words := complete(t, append(strings.Fields(command), "")...)
		why, none := nameless[command]
		assert.Equal(t, none, len(words) == 0, "%s: %v %s", command, words, why)
	}
}
