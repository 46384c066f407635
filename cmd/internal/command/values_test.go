package command

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// Values that make no sense are refused before anything is asked: no etcd
// listens here, and a question would end with ExitUnavailable. No agent can run
// under the name -bad-: what is not refused for its value is refused for that.
func TestValuesAreCheckedFirst(t *testing.T) {
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "http://127.0.0.1:1")
	t.Setenv("BAIZE_ETCD_TIMEOUT", "100ms")
	for line, says := range map[string][]string{
		"network list -o jsn":                                   {`"jsn"`, "did you mean json?"},
		"network create b --subnet 10.1.0.0/16 -o ymal":         {`"ymal"`, "did you mean yaml?"},
		"endpoint add --network b --netns c1 -o jsn":            {`"jsn"`, "did you mean json?"},
		"status --log-level bogus":                              {`"bogus"`, "error, warn, info, debug"},
		"network create b --subnet 10.1.0.0/16 --vni 99999999":  {"99999999", "1 to 16777215"},
		"network create b --subnet 10.1.0.0/16 --bum lots":      {`"lots"`, "or off"},
		"network create b --subnet 10.1.0.0/16 --ipfix nobody":  {`"nobody"`, "192.0.2.9:4739"},
		"network update b --ipfix 192.0.2.9 --ipfix-cache 1ms":  {"whole seconds"},
		"network update b --ipfix 192.0.2.9 --no-ipfix":         {"contradicts"},
		"network create b --subnet 10.1.0.0/16 --allow web":     {`"web"`, "dhcp-server"},
		"network update b --allow 10.1.0.0/16":                  {`"10.1.0.0/16"`, "no kind of traffic"},
		"network update b --allow ra --no-allow":                {"--allow and --no-allow contradict each other"},
		"network update b":                                      {"nothing to change", "--ipfix-cache or --no-ipfix"},
		"endpoint add --network b --netns c1 --allow routers":   {`"routers"`, "neither a prefix nor a kind"},
		"plan --node a --vxlan-port 70000":                      {"--vxlan-port 70000", "1 to 65535"},
		"plan --node a --geneve-port -1":                        {"--geneve-port -1", "1 to 65535"},
		"agent --node -bad- --vxlan-port 70000":                 {"--vxlan-port 70000", "1 to 65535"},
		"agent --node -bad- --audit-interval -5s":               {"--audit-interval -5s", "negative"},
		"agent --node -bad- --liveness-ttl -1s":                 {"--liveness-ttl -1s", "negative"},
		"network list --etcd-timeout -1s":                       {"--etcd-timeout -1s", "negative"},
		"network list --etcd-timeout 0":                         {"etcd-timeout", "no positive duration"},
		"plan --node a --bridge ../x":                           {`--bridge "../x"`, "no name of a device"},
		"plan --node a --bridge name-of-sixteen-":               {"--bridge", "no name of a device"},
		"agent --node -bad- --bridge ../x":                      {`--bridge "../x"`, "no name of a device"},
		"agent --node -bad- --vtep a/b":                         {`--vtep "a/b"`, "neither an address nor"},
		"agent --node -bad- --network blue --network ../x":      {"--network", `"../x"`},
		"agent --node -bad- --docker-network ../x":              {"--docker-network", `"../x"`},
		"docker configure --dry-run --network ../x":             {"--network", `"../x"`},
		"subnet list --network ../x":                            {"--network", `"../x"`},
		"subnet reserve 10.1.5.0/24 --network b --node ../x":    {"--node", `"../x"`},
		"endpoint add --network b --netns c1 --ifname a/b":      {`--ifname "a/b"`, "no name of a device"},
		"agent --node -bad- --liveness-ttl 10ms":                {"--liveness-ttl 10ms", "1s or more"},
		"agent --node -bad- --audit-interval 0":                 {"--audit-interval 0s", "1s or more"},
		"network create b --subnet 10.1.0.0/16 --mtu -5":        {"--mtu -5", "1 to 65535"},
		"network create b --subnet 10.1.0.0/16 --mtu 100":       {"MTU 100", "576 to 65535"},
		"network create b --subnet 10.1.0.0/16 --mtu 70000":     {"--mtu 70000", "1 to 65535"},
		"network update b --mtu 70000":                          {"--mtu 70000", "1 to 65535"},
		"network create b --subnet 10.1.0.0/16 --subnet-len -1": {"--subnet-len -1", "1 to 30"},
		"network create b --subnet fd00::/48 --subnet-len-v6 300": {
			"--subnet-len-v6 300", "1 to 126",
		},
		"network create b --subnet 10.1.0.0/16 --subnet-len 12":        {"subnets of /12 do not fit"},
		"network create b --subnet 10.1.0.0/16 --gateway 10.9.0.1":     {"gateway 10.9.0.1 is outside"},
		"network create b --subnet 10.1.0.0/16 --gateway 10.1.0.0":     {"gateway 10.1.0.0", "network's own address"},
		"network create b --subnet 10.1.0.0/16 --gateway 10.1.255.255": {"gateway 10.1.255.255", "broadcast"},
		"network create ../b --subnet 10.1.0.0/16":                     {`"../b"`},
		"lab up --endpoints -4":                                        {"--endpoints -4", "negative"},
		"probe send --to 127.0.0.1 --datagrams -1":                     {"--datagrams -1", "negative"},
		"probe send --to 127.0.0.1 --datagrams 1 --size 99999999":      {"--size 99999999", "1 to 65507"},
		"probe send --to 127.0.0.1 --timeout 0":                        {"--timeout 0s", "1ms or more"},
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

// U15: the nearest name wins, not the longest that begins the same.
func TestTheNearestNameIsProposed(t *testing.T) {
	assert.Equal(t, ": did you mean blue?", didYouMean("blu", []string{"blue", "blue2"}, ""))
	assert.Equal(t, ": did you mean blue?", didYouMean("blu", []string{"blue2", "blue"}, ""))
	assert.Equal(t, ": did you mean production?", didYouMean("prod", []string{"blue", "production"}, ""))
}

// What a record holds does not reach the terminal as control characters, whatever
// shows it.
func TestNoControlCharacters(t *testing.T) {
	s := cluster(t)
	const evil = "a\x1b[31mred\x07\u009b1m"
	_, err := s.RegisterNode(t.Context(), topology.Node{
		Name: "evil", ID: evil, Hostname: evil, Datapath: evil, Version: evil, Epoch: evil,
	})
	require.NoError(t, err)
	etcdtest.Put(t, os.Getenv("BAIZE_ETCD_ENDPOINTS"), map[string]string{
		topology.DefaultPrefix + "/networks/" + evil: "{}",
		topology.DefaultPrefix + "/nodes/bad":        `{"vteps":["\u001b[31m"]}`,
	})
	f := &fakeAgent{status: healthy()}
	f.status.DatapathReason, f.status.Foreign = evil, []string{"port " + evil}
	f.status.Problems = []fault.Fault{{Item: "port " + evil, What: evil, Remedy: evil}}
	f.serve(t)
	for _, line := range [][]string{
		{"node", "show", "evil"}, {"node", "list", "-o", "wide"}, {"status"}, {"topology"}, {"plan", "--node", "host1"},
		{"network", "show", evil}, {"network", "list"}, {"network", "delete", evil}, {"node", "show", evil},
		{"subnet", "reserve", evil, "--network", "blue"}, {evil}, {"lab", "status", "--name", evil},
		{"restore", "--dry-run", backupWith(t, "networks/"+evil+"2", "{}")},
	} {
		res := baize(t, line...)
		for _, c := range []string{"\x1b", "\x07", "\u009b"} {
			assert.NotContains(t, res.out, c, "%q", line)
			assert.NotContains(t, res.err, c, "%q", line)
		}
		assert.NotEmpty(t, res.out+res.err, "%q", line)
	}
	assert.Contains(t, baize(t, "status").out, "[31mred", "the rest is shown")
}

// backupWith is the file of a backup of what there is, and of one key more.
func backupWith(t *testing.T, key, value string) string {
	t.Helper()
	s, err := etcdstore.Open(t.Context(), etcdstore.Config{
		Endpoints: []string{os.Getenv("BAIZE_ETCD_ENDPOINTS")}, Raw: true, Timeout: testkit.Patience,
	})
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	raw, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	keys := maps.Clone(raw.Raw)
	keys[key] = topology.KV{Key: key, Value: []byte(value)}
	var text strings.Builder
	require.NoError(t, topology.NewBackup(&topology.Snapshot{Revision: raw.Revision, Raw: keys}, s.Prefix()).Write(&text))
	file := filepath.Join(t.TempDir(), "backup.json")
	require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o600))
	return file
}
