package command

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
)

var update = flag.Bool("update", false, "write the golden files and docs/cli.md anew")

func TestMain(m *testing.M) {
	// The completion scripts call the program: this is it.
	if filepath.Base(os.Args[0]) == "baize" {
		ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt)
		os.Exit(Run(ctx, os.Args[1:], Streams{os.Stdin, os.Stdout, os.Stderr}))
	}
	// What the caller has set must not change what is tested.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "BAIZE_") {
			_ = os.Unsetenv(name)
		}
	}
	// Nor what the machine has, or the user.
	_ = os.Setenv("BAIZE_SETTINGS", "")
	_ = os.Setenv("BAIZE_CONFIG", "/nonexistent/config.yaml")
	completeTimeout = testkit.Patience
	os.Exit(m.Run())
}

type result struct {
	code     int
	out, err string
}

// baize runs a command line.
func baize(t *testing.T, line ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code := Run(ctx, line, Streams{strings.NewReader(""), &out, &errOut})
	return result{code, out.String(), errOut.String()}
}

var revision = regexp.MustCompile(`("(?:create|mod)?[rR]evision": |(?:create|mod)?[rR]evision:? )\d+`)

// golden compares with testdata/<name>.golden, or writes it. Revisions depend
// on what was written before.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = revision.ReplaceAllString(got, "${1}N")
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run 'go test ./cmd/internal/command -update'")
	assert.Equal(t, string(want), got, "%s differs; if that is meant, run 'go test ./cmd/internal/command -update'", path)
}

// etcd runs a server and points the command line at it, which has patience.
func etcd(t *testing.T) *etcdstore.Store {
	t.Helper()
	endpoint := etcdtest.Start(t)
	t.Setenv("BAIZE_ETCD_ENDPOINTS", endpoint)
	t.Setenv("BAIZE_ETCD_TIMEOUT", testkit.Patience.String())
	t.Setenv("BAIZE_SOCKET", filepath.Join(t.TempDir(), "none.sock"))
	s, err := etcdstore.Open(t.Context(), etcdstore.Config{Endpoints: []string{endpoint}, Timeout: testkit.Patience})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

// node registers a node and leases its subnets; alive makes it ready.
func node(t *testing.T, s *etcdstore.Store, n topology.Node, alive bool, networks ...string) {
	t.Helper()
	n.ID = "ID-" + n.Name
	n.Hostname = n.Name
	_, err := s.RegisterNode(t.Context(), n)
	require.NoError(t, err)
	for _, name := range networks {
		snap, err := s.Snapshot(t.Context())
		require.NoError(t, err)
		for _, f := range snap.Networks[name].Families() {
			_, err := s.LeaseSubnet(t.Context(), name, n.Name, f, false)
			require.NoError(t, err)
		}
	}
	if !alive {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.KeepAlive(ctx, topology.Liveness{Node: n.Name, ID: n.ID}, 10*time.Second, func(error) {})
	}()
	t.Cleanup(func() { cancel(); <-done })
	require.Eventually(t, func() bool {
		snap, err := s.Snapshot(t.Context())
		return err == nil && snap.Alive[n.Name].ID == n.ID
	}, 10*time.Second, 10*time.Millisecond)
}

// cluster is what the listings are shown with: two networks, three nodes of
// which one is down, a reservation, a pin.
func cluster(t *testing.T) *etcdstore.Store {
	t.Helper()
	s := etcd(t)
	for _, line := range []string{
		"network create blue --subnet 10.1.0.0/16 --subnet fd00:10:1::/48",
		"network create red --subnet 10.2.0.0/16 --transport gre --vni 200 --gateway 10.2.0.1",
	} {
		res := baize(t, strings.Fields(line)...)
		require.Equal(t, 0, res.code, res.err)
	}
	for i, name := range []string{"host1", "host2", "host3"} {
		networks := []string{"blue", "red"}
		node(t, s, topology.Node{
			Name: name, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, byte(11 + i)})}, UnderlayMTU: 1500,
			Encapsulations: topology.Encapsulations(), Datapath: "netdev", Version: "v0.1.0",
		}, i < 2, networks[:2-i/2]...)
	}
	res := baize(t, "subnet", "reserve", "10.1.248.0/21", "--network", "blue", "--comment", "old VMs")
	require.Equal(t, 0, res.code, res.err)
	_, err := s.PutPin(t.Context(), topology.Pin{
		Network: "blue", Addr: netip.MustParseAddr("10.1.0.99"), Node: "host2", MAC: "02:42:0a:01:00:63",
	})
	require.NoError(t, err)
	return s
}

func TestListings(t *testing.T) {
	cluster(t)
	for name, line := range map[string]string{
		"network-list":      "network list",
		"network-list-wide": "network list -o wide",
		"network-list-json": "network list -o json",
		"network-show":      "network show blue",
		"network-show-yaml": "network show blue -o yaml",
		"node-list":         "node ls",
		"node-list-wide":    "node list -o wide",
		"node-list-json":    "node list -o json",
		"node-show":         "node show host1",
		"subnet-list":       "subnet list",
		"subnet-list-wide":  "subnet list --network blue -o wide",
		"subnet-list-yaml":  "subnet list --node host3 -o yaml",
		"pin-list":          "pin list",
		"pin-list-json":     "pin list -o json",
		"topology":          "topology",
		"topology-red":      "topology --network red",
		"topology-dot":      "topology -o dot",
		"topology-svg":      "topology -o svg",
		"topology-json":     "topology -o json",
	} {
		t.Run(name, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			require.Equal(t, cli.ExitOK, res.code, res.err)
			assert.Empty(t, res.err)
			golden(t, name, res.out)
			if kind, _, _ := strings.Cut(name, "-"); strings.HasSuffix(name, "-json") {
				conforms(t, kind, res.out)
			}
		})
	}
	t.Run("status", func(t *testing.T) {
		t.Setenv("BAIZE_SOCKET", "")
		require.NoError(t, os.Unsetenv("BAIZE_SOCKET"))
		if _, err := os.Stat(api.DefaultSocket); err == nil {
			t.Fatalf("an agent runs on this machine (%s): stop it for this test", api.DefaultSocket)
		}
		res := baize(t, "status")
		assert.Equal(t, exitProblems, res.code, "host3 is down")
		golden(t, "status", res.out)
		res = baize(t, "status", "-o", "json")
		assert.Equal(t, exitProblems, res.code)
		golden(t, "status-json", res.out)
		conforms(t, "status", res.out)
	})
}

// The plan is the pipeline's own, in words and as data.
func TestPlan(t *testing.T) {
	s := cluster(t)
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	want := pipeline.Build(snap.View("host1"), nil, pipeline.Options{
		Bridge: "br-baize", Datapath: "netdev",
		Ports: map[topology.Transport]int{topology.VXLAN: 4790, topology.Geneve: 6081},
	})
	var text bytes.Buffer
	require.NoError(t, pipeline.Format(&text, want))

	res := baize(t, "plan", "--node", "host1", "--vxlan-port", "4790")
	assert.Equal(t, result{cli.ExitOK, text.String(), ""}, res)
	for _, part := range []string{"Bridge br-baize\n", "dst_port=4790", "Table 0 classify\n", "remote_ip=192.168.77.13"} {
		assert.Contains(t, res.out, part)
	}

	res = baize(t, "plan", "--node", "host1", "-o", "json")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	var item planItem
	require.NoError(t, json.Unmarshal([]byte(res.out), &item))
	assert.Equal(t, "host1", item.Node)
	assert.Len(t, item.Ports, len(want.Ports))
	require.Len(t, item.Flows, len(want.Flows))
	assert.Equal(t, "classify", item.Flows[0].TableName)
}

func TestEmptyListings(t *testing.T) {
	etcd(t)
	for _, line := range []string{"network list", "node list", "subnet list", "pin list"} {
		t.Run(line, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			assert.Equal(t, cli.ExitOK, res.code)
			assert.Empty(t, res.out, "a script sees nothing")
			assert.Contains(t, res.err, "no ")
			res = baize(t, strings.Fields(line+" -o json")...)
			assert.Equal(t, "[]\n", res.out)
			assert.Empty(t, res.err)
			res = baize(t, strings.Fields(line+" -o yaml")...)
			assert.Equal(t, "[]\n", res.out)
		})
	}
	res := baize(t, "topology")
	assert.Equal(t, cli.ExitOK, res.code)
	assert.Contains(t, res.out, "baize network create")
}

// Every refusal: its exit code, and the words that name the item and the way
// out.
func TestRefusals(t *testing.T) {
	cluster(t)
	for line, want := range map[string]struct {
		code int
		text []string
	}{
		"network creat x": {
			cli.ExitUsage, []string{"did you mean create?", "Run 'baize network --help'"},
		},
		"network create x --subent 10.3.0.0/16": {
			cli.ExitUsage, []string{"unknown flag --subent", "did you mean --subnet?"},
		},
		"network create x":                    {cli.ExitUsage, []string{"needs --subnet"}},
		"network create --subnet 10.3.0.0/16": {cli.ExitUsage, []string{"needs NAME"}},
		"network create x --subnet 10.3.0.0": {
			cli.ExitUsage, []string{`--subnet "10.3.0.0"`, "10.1.0.0/16"},
		},
		"network create x --subnet 10.3.0.0/16,10.4.0.0/16": {cli.ExitUsage, []string{"one prefix of each family"}},
		"network create x --subnet 10.3.0.1/16": {
			cli.ExitUsage, []string{"network x", "write 10.3.0.0/16"},
		},
		"network create x --subnet 10.3.0.0/16 --vni many": {cli.ExitUsage, []string{`"many"`, "--vni"}},
		"network create x --subnet 10.3.0.0/16 --vni 0":    {cli.ExitUsage, []string{"--vni 0"}},
		"network create x --subnet 10.3.0.0/16 --vni 99999999": {
			cli.ExitUsage, []string{"99999999 is no VNI", "16777215"},
		},
		"network create x --subnet 10.3.0.0/16 --vni 200":          {cli.ExitConflict, []string{"VNI 200", "network red"}},
		"network create x --subnet 10.3.0.0/16 --subnet-len-v6 64": {cli.ExitUsage, []string{"--subnet-len-v6"}},
		"network create x --subnet 10.3.0.0/16 --transport vxlna":  {cli.ExitUsage, []string{"vxlna", "did you mean vxlan?"}},
		"network create x --subnet 10.3.0.0/16 --gateway 10.4.0.1": {cli.ExitUsage, []string{"gateway 10.4.0.1"}},
		"network create x --subnet 10.3.0.0/16 --gateway ten":      {cli.ExitUsage, []string{`--gateway "ten"`}},
		"network create x --subnet 10.3.0.0/30":                    {cli.ExitUsage, []string{"too small"}},
		"network create -x- --subnet 10.3.0.0/16":                  {cli.ExitUsage, []string{"unknown flag -x-"}},
		"network create x/y --subnet 10.3.0.0/16":                  {cli.ExitUsage, []string{`"x/y"`, "not a valid name"}},
		"network create blue --subnet 10.3.0.0/16":                 {cli.ExitConflict, []string{"network blue", "already"}},
		"network show bleu": {
			cli.ExitNotFound, []string{"network bleu", "did you mean blue?"},
		},
		"network show zzz": {
			cli.ExitNotFound, []string{"network zzz", "baize network list"},
		},
		"network update bleu --mtu 1400":                     {cli.ExitNotFound, []string{"did you mean blue?"}},
		"network update blue":                                {cli.ExitUsage, []string{"nothing to change"}},
		"network update blue --mtu 100":                      {cli.ExitUsage, []string{"MTU 100", "1280"}},
		"network update red --gateway 10.2.0.0":              {cli.ExitUsage, []string{"network's own address"}},
		"network update red --gateway 10.2.255.255":          {cli.ExitUsage, []string{"broadcast address"}},
		"network update red --gateway 10.2.0.1 --no-gateway": {cli.ExitUsage, []string{"contradict"}},
		"network update blue --subnet 10.0.0.0/8": {
			cli.ExitConflict, []string{"the prefix cannot change", "leased by", "create another network"},
		},
		"network update blue --subnet ten":            {cli.ExitUsage, []string{`--subnet "ten"`}},
		"network update red --subnet-len-v6 80":       {cli.ExitUsage, []string{"--subnet-len-v6", "no IPv6 prefix"}},
		"network rename blue":                         {cli.ExitUsage, []string{"needs NEWNAME"}},
		"network rename bleu azure":                   {cli.ExitNotFound, []string{"did you mean blue?"}},
		"network rename blue red":                     {cli.ExitConflict, []string{"network red", "already"}},
		"network rename blue azure":                   {cli.ExitConflict, []string{"its name cannot change", "leased by"}},
		"network delete blue --cancel --force":        {cli.ExitUsage, []string{"--cancel stands alone"}},
		"network delete blue --wait -1s":              {cli.ExitUsage, []string{"--wait"}},
		"network delete bleu":                         {cli.ExitNotFound, []string{"did you mean blue?"}},
		"network list -o jsn":                         {cli.ExitUsage, []string{`"jsn"`, "did you mean json?"}},
		"topology -o table":                           {cli.ExitUsage, []string{"tree, wide, json"}},
		"node show hsot1":                             {cli.ExitNotFound, []string{"did you mean host1?"}},
		"node remove host1":                           {cli.ExitConflict, []string{"host1", "--force"}},
		"node remove hsot1":                           {cli.ExitNotFound, []string{"did you mean host1?"}},
		"subnet reserve 10.1.5.0/24":                  {cli.ExitUsage, []string{"needs --network"}},
		"subnet reserve ten --network blue":           {cli.ExitUsage, []string{`"ten" is not a prefix`}},
		"subnet reserve 10.1.5.1/24 --network blue":   {cli.ExitUsage, []string{"write 10.1.5.0/24"}},
		"subnet reserve 10.9.5.0/24 --network blue":   {cli.ExitUsage, []string{"10.9.5.0/24", "network blue"}},
		"subnet reserve 10.1.250.0/24 --network blue": {cli.ExitConflict, []string{"10.1.248.0/21"}},
		"subnet reserve 10.1.5.0/24 --network bleu":   {cli.ExitNotFound, []string{"did you mean blue?"}},
		"subnet release 10.1.9.0/24 --network blue":   {cli.ExitNotFound, []string{"10.1.9.0/24"}},
		"subnet list --network bleu":                  {cli.ExitNotFound, []string{"did you mean blue?"}},
		"plan --node host9": {
			cli.ExitNotFound, []string{"node host9", "did you mean host"},
		},
		"completion tcsh": {cli.ExitUsage, []string{"tcsh", "bash, zsh, fish"}},
		"endpoint list": {
			cli.ExitUnavailable, []string{"none.sock", "is the agent running?"},
		},
		"endpoint add c1 --network blue":                   {cli.ExitUsage, []string{"needs --netns"}},
		"endpoint add c1":                                  {cli.ExitUsage, []string{"needs --network and --netns"}},
		"endpoint add c1 --network blue --netns x --ip 10": {cli.ExitUsage, []string{`--ip "10"`}},
		"endpoint add c1 --network blue --netns x --mac y": {cli.ExitUsage, []string{"--mac", `"y"`}},
		"network list --etcd-user a --etcd-username b": {
			cli.ExitUsage, []string{"--etcd-user and --etcd-username"},
		},
		"network list --etcd-timeout soon":        {cli.ExitUsage, []string{`"soon"`, "--etcd-timeout"}},
		"network list --etcd-endpoints ftp://x:1": {cli.ExitUsage, []string{"ftp", "https://HOST:PORT"}},
	} {
		t.Run(line, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			assert.Equal(t, want.code, res.code, res.err)
			assert.Empty(t, res.out, "what is wrong belongs on the error stream")
			for _, s := range want.text {
				assert.Contains(t, res.err, s)
			}
		})
	}
}

func TestUnreachableEtcd(t *testing.T) {
	start := time.Now()
	t.Setenv("BAIZE_ETCD_TIMEOUT", "300ms")
	res := baize(t, "network", "list", "--etcd-endpoints", "http://127.0.0.1:1")
	assert.Equal(t, cli.ExitUnavailable, res.code)
	assert.Contains(t, res.err, "http://127.0.0.1:1")
	assert.Contains(t, res.err, "check that etcd runs")
	assert.Less(t, time.Since(start), testkit.Patience)
}

func TestNetworkLifecycle(t *testing.T) {
	etcd(t)
	res := baize(t, "network", "create", "blue", "--subnet", "10.1.0.0/16", "-o", "json")
	require.Equal(t, 0, res.code, res.err)
	var n networkItem
	require.NoError(t, json.Unmarshal([]byte(res.out), &n))
	assert.Equal(t, uint32(100), n.VNI)
	assert.Equal(t, 1450, n.MTU)

	res = baize(t, "network", "update", "blue", "--mtu", "1400", "--gateway", "10.1.0.1")
	assert.Equal(t, result{0, "network blue updated: vxlan, MTU 1400\n", ""}, res)
	res = baize(t, "network", "update", "blue", "--no-gateway", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(res.out), &n))
	assert.Equal(t, 1400, n.MTU, "what is not named stays")
	assert.Empty(t, n.Gateways)

	assert.Equal(t, result{0, "network blue deleted\n", ""}, baize(t, "network", "delete", "blue"))
	assert.Equal(t, cli.ExitNotFound, baize(t, "network", "delete", "blue").code)
}

func TestNodeRemove(t *testing.T) {
	s := cluster(t)
	res := baize(t, "node", "remove", "host3")
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, "node host3 removed\n")
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	assert.NotContains(t, snap.Nodes, "host3")
	assert.Empty(t, snap.NodeSubnets("blue", "host3"))

	// Row U9: a node whose agent runs comes back, which is said before and after.
	res = baize(t, "node", "remove", "--force", "host1")
	require.Equal(t, 0, res.code, res.err)
	assert.Regexp(t, `The agent of node host1 runs .* comes back at once\. Its endpoints in .*10\.1\..* are cut off`, res.out)
	assert.Contains(t, res.out, "nothing was changed")
	snap, err = s.Snapshot(t.Context())
	require.NoError(t, err)
	assert.Contains(t, snap.Nodes, "host1")
	res = baize(t, "node", "remove", "--force", "--yes", "host1")
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, "node host1 removed\n")
	assert.Contains(t, res.out, "registers it again")
}

func TestSubnetReserveRelease(t *testing.T) {
	etcd(t)
	require.Equal(t, 0, baize(t, "network", "create", "blue", "--subnet", "10.1.0.0/16").code)
	res := baize(t, "subnet", "reserve", "10.1.5.0/24", "--network", "blue", "--node", "host5")
	assert.Equal(t, result{0, "subnet 10.1.5.0/24 of network blue reserved for node host5\n", ""}, res)
	// Row U9: nobody writes over another one's reservation without a word.
	reserve := []string{"subnet", "reserve", "10.1.5.0/24", "--network", "blue", "--comment", "VMs"}
	res = baize(t, reserve...)
	assert.Equal(t, cli.ExitConflict, res.code)
	assert.Contains(t, res.err, "it is reserved already for node host5")
	assert.Contains(t, res.err, "--force")
	assert.Contains(t, baize(t, "subnet", "list").out, "host5")
	res = baize(t, append(reserve, "--force")...)
	assert.Equal(t, result{0, "subnet 10.1.5.0/24 of network blue reserved\n", ""}, res)
	assert.Equal(t, 0, baize(t, reserve...).code, "the same again is no other")
	assert.NotContains(t, baize(t, "subnet", "list").out, "host5")

	res = baize(t, "subnet", "release", "10.1.5.0/24", "--network", "blue")
	assert.Equal(t, result{0, "subnet 10.1.5.0/24 of network blue released\n", ""}, res)
}

// In the environment of a node BAIZE_NODE is set: it must not leak into
// commands about other nodes.
func TestNodeVariableIsThisNode(t *testing.T) {
	s := cluster(t)
	t.Setenv("BAIZE_NODE", "host1")
	assert.Contains(t, baize(t, "subnet", "list").out, "host2")
	assert.Contains(t, baize(t, "pin", "list").out, "host2")
	require.Equal(t, 0, baize(t, "subnet", "reserve", "10.1.6.0/24", "--network", "blue").code)
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	assert.Empty(t, snap.Subnets[topology.SubnetID{Network: "blue", Prefix: netip.MustParsePrefix("10.1.6.0/24")}].Node)
	assert.Contains(t, baize(t, "plan").out, "baize-node=host1")
}

// Variables do what flags do, and flags win.
func TestEnvironment(t *testing.T) {
	etcd(t)
	t.Setenv("BAIZE_SUBNET", "10.7.0.0/16,fd00:7::/48")
	t.Setenv("BAIZE_VNI", "700")
	res := baize(t, "network", "create", "seven")
	require.Equal(t, 0, res.code, res.err)
	assert.Contains(t, res.out, "10.7.0.0/16, fd00:7::/48, VNI 700")
	t.Setenv("BAIZE_OUTPUT", "json")
	assert.Contains(t, baize(t, "network", "list").out, `"name": "seven"`)
	assert.Contains(t, baize(t, "network", "list", "-o", "table").out, "NAME")
	t.Setenv("BAIZE_OUTPUT", "wide")
	assert.Contains(t, baize(t, "network", "list").out, "SUBNET-LEN")
	assert.Equal(t, 0, baize(t, "topology").code, "a format the command lacks is not meant for it")
	t.Setenv("BAIZE_VNI", "many")
	res = baize(t, "network", "create", "eight")
	assert.Equal(t, cli.ExitUsage, res.code)
	assert.Contains(t, res.err, "BAIZE_VNI")
}

func TestEtcdCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	done := make(chan int, 1)
	var errOut bytes.Buffer
	sock := filepath.Join(t.TempDir(), "e.sock")
	go func() {
		defer write.Close()
		done <- Run(ctx, []string{
			"etcd", "--data-dir", t.TempDir(), "--listen-client-urls", "http://127.0.0.1:0,unix://" + sock,
			"--unsafe-no-fsync",
		},
			Streams{strings.NewReader(""), write, &errOut})
	}()
	buf := make([]byte, 1024)
	require.NoError(t, read.SetReadDeadline(time.Now().Add(time.Minute)))
	n, err := read.Read(buf)
	require.NoError(t, err)
	assert.Contains(t, string(buf[:n]), "etcd is ready at http://127.0.0.1:")
	res := baize(t, "network", "create", "blue", "--subnet", "10.1.0.0/16", "--etcd-endpoints", "unix://"+sock)
	assert.Equal(t, 0, res.code, res.err)
	cancel()
	select {
	case code := <-done:
		assert.Equal(t, 0, code, errOut.String())
	case <-time.After(time.Minute):
		t.Fatal("etcd did not stop")
	}
	assert.Empty(t, errOut.String())
}

func TestNoArgumentsShowsHelp(t *testing.T) {
	res := baize(t)
	assert.Equal(t, cli.ExitUsage, res.code)
	assert.Contains(t, res.err, "COMMANDS")
	res = baize(t, "--help")
	assert.Equal(t, cli.ExitOK, res.code)
	golden(t, "help", res.out)
	res = baize(t, "network", "create", "--help")
	golden(t, "help-network-create", res.out)
}

func TestVersion(t *testing.T) {
	res := baize(t, "version", "-o", "json")
	var v versionItem
	require.NoError(t, json.Unmarshal([]byte(res.out), &v))
	assert.NotEmpty(t, v.Version)
	assert.NotEmpty(t, v.Commit)
	assert.Equal(t, res.out, baize(t, "--version", "-o", "json").out)

	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"},
		{Key: "vcs.time", Value: "2026-01-01T00:00:00Z"}}}
	v = versionOf(info, versionItem{})
	assert.Equal(t, []string{"v1.2.3", "abc-dirty", "2026-01-01T00:00:00Z"}, []string{v.Version, v.Commit, v.Date})
	v = versionOf(info, versionItem{Version: "v2.0.0", Commit: "def"})
	assert.Equal(t, []string{"v2.0.0", "def"}, []string{v.Version, v.Commit}, "what was stamped wins")
	v = versionOf(nil, versionItem{})
	assert.Equal(t, []string{"devel", "unknown"}, []string{v.Version, v.Commit})
}
