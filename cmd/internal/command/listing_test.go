package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// U14: no filters, sorting, -q, --no-headers, jsonpath, custom-columns.
func TestWaysToList(t *testing.T) {
	cluster(t)
	for _, tc := range []struct{ line, want string }{
		{"node list -q", "host1\nhost2\nhost3\n"},
		{"node list -o name --sort -name", "host3\nhost2\nhost1\n"},
		{"node list -q --filter status=down", "host3\n"},
		{"node list -q --filter status=down --filter status=ready", "host1\nhost2\nhost3\n"},
		{"node list -q --filter status=ready --filter name=*2", "host2\n"},
		{"node list -q -f subnets.network=red", "host1\nhost2\n"},
		{"node list -q --filter vteps=192.168.77.13", "host3\n"},
		{"network list -q --sort vni", "blue\nred\n"},
		{"network list -q --sort -leasesIPv4.used", "blue\nred\n"},
		{"network list -q --filter vni=200", "red\n"},
		{"network list -q --filter router=false", "blue\nred\n"},
		{"network list -q --filter deleting=", "blue\nred\n"},
		{"subnet list -q --network blue --filter reserved=true", "10.1.248.0/21\n"},
		{"subnet list -q --network blue --filter reserved=false --sort prefix --filter prefix=*.*",
			"10.1.14.0/24\n10.1.65.0/24\n10.1.153.0/24\n"},
		{"pin list --no-headers", "blue   10.1.0.99   host2   02:42:0a:01:00:63\n"},
		{"node list -o jsonpath={[*].name}", "host1 host2 host3\n"},
		{"node list -o jsonpath={[0].subnets[0].prefix} --sort -name", "10.1.65.0/24\n"},
		{"network show blue -o jsonpath={.vni}", "100\n"},
		{"topology -o jsonpath={.nodes[0].name}", "host1\n"},
		{"status -o jsonpath={.cluster.nodes}", "3\n"},
		{"network list -o custom-columns=NAME:.name,NUMBER:vni,GW:{.gateways[0]}",
			"NAME   NUMBER   GW\nblue   100      <none>\nred    200      10.2.0.1\n"},
		{"network list -o custom-columns=N:.name --no-headers --filter vni=200", "red\n"},
		{"network list --color always --filter name=red --no-headers -o custom-columns=N:.name", "red\n"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			res := baize(t, strings.Fields(tc.line)...)
			assert.Contains(t, []int{cli.ExitOK, exitProblems}, res.code, res.err)
			assert.Equal(t, tc.want, res.out)
		})
	}
	res := baize(t, "node", "list", "--filter", "name=nobody")
	assert.Equal(t, result{0, "", "nothing matches --filter\n"}, res)
	assert.Equal(t, result{0, "[]\n", ""}, baize(t, "node", "list", "--filter", "name=nobody", "-o", "json"))
	res = baize(t, "node", "list", "-o", `jsonpath={range [*]}{.name}{"\t"}{.status}{"\n"}{end}`)
	assert.Equal(t, result{0, "host1\tready\nhost2\tready\nhost3\tdown\n", ""}, res)
}

// What cannot be listed is refused before etcd is asked: none listens here.
func TestListingRefusals(t *testing.T) {
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "http://127.0.0.1:1")
	t.Setenv("BAIZE_ETCD_TIMEOUT", "100ms")
	for line, says := range map[string][]string{
		"node list --filter statu=down":                {`"statu"`, "status", "vteps"},
		"node list --filter status":                    {"FIELD=VALUE"},
		"node list --filter subnets=x":                 {`"subnets"`, "subnets.network"},
		"node list --sort -age":                        {`"age"`, "use one of datapath, encapsulations"},
		"endpoint list --filter x=y":                   {`"x"`, "network"},
		"node list --color sometimes":                  {"sometimes", "auto, always, never"},
		"node list -o jsonpath={.items[*].name}":       {".items", "{[*].name}"},
		"node list -o jsonpath={[*":                    {"no JSONPath template"},
		"node list -o jsonpath=":                       {"empty"},
		"node list -o custom-columns=NAME":             {`"NAME"`, "HEADER:PATH"},
		"node list -o custom-columns=N:.name,V:.[":     {"custom-columns=N"},
		"network show blue -o custom-columns=N:.name":  {"none of table, wide"},
		"topology -o custom-columns=N:.name":           {"none of tree, wide"},
		"network show blue -o jsonpath={.items[0].vni": {".items"},
	} {
		t.Run(line, func(t *testing.T) {
			res := baize(t, strings.Fields(line)...)
			assert.Equal(t, cli.ExitUsage, res.code, res.err)
			assert.Empty(t, res.out)
			for _, s := range says {
				assert.Contains(t, res.err, s)
			}
		})
	}
}

// Every kind has a schema, with the field that names it.
func TestKindsHaveTheirSchemas(t *testing.T) {
	for _, k := range []string{
		networks.name, nodes.name, subnets.name, pins.name, endpoints.name, routes.name, names.name, contexts.name, eventKind.name,
	} {
		assert.NotEmpty(t, schemaFields(k))
	}
}

// U14: the JSON of the agent's listings, of plan and of lab status, as it is printed.
func TestOutputsConformToTheirSchemas(t *testing.T) {
	s := cluster(t)
	require.NoError(t, s.PutNames(t.Context(), topology.Names{
		Network: "blue", Node: "host1", Names: map[string][]netip.Addr{"web": {netip.MustParseAddr("10.1.153.2")}},
	}))
	f := &fakeAgent{
		status: healthy(),
		endpoints: []api.Endpoint{{
			Name: "docker-1", Node: "host1", Network: "blue", IPs: []netip.Addr{netip.MustParseAddr("10.1.153.2")},
			MAC: "02:42:0a:01:99:02", Netns: "/run/ns", Ifname: "eth0", Port: "bz-1",
			Container: "web", Service: "shop/web", Image: "nginx",
		}},
		routes: []api.Route{{
			Network: "blue", Prefix: netip.MustParsePrefix("10.1.14.0/24"), Node: "host2", Kind: "route", Via: "192.0.2.1",
			Device: "eth0", Encap: topology.VXLAN, Pin: true, Why: "on-link",
		}},
	}
	f.serve(t)
	for line, kind := range map[string]string{
		"endpoint list": "endpoint",
		"endpoint add c --network blue --netns c": "endpoint",
		"route list":                     "route",
		"name list":                      "name",
		"name resolve web":               "name",
		"network show blue":              "network",
		"network update blue --mtu 1400": "network",
		"node show host1":                "node",
		"subnet list":                    "subnet",
		"topology":                       "topology",
		"plan --node host1":              "plan",
		"status":                         "status",
		"version":                        "version",
	} {
		t.Run(line, func(t *testing.T) { conforms(t, kind, baize(t, append(strings.Fields(line), "-o", "json")...).out) })
	}
	f.status = api.Status{}
	conforms(t, "status", baize(t, "status", "-o", "json").out)
}

// terminalOf runs the program on a terminal of its own. seen returns what is
// written there so far.
func terminalOf(t *testing.T, env []string, line ...string) (tty *os.File, seen func() string, ended <-chan error) {
	t.Helper()
	return terminalSized(t, pty.Winsize{Rows: 6, Cols: 60}, env, line...)
}

func terminalSized(
	t *testing.T, size pty.Winsize, env []string, line ...string,
) (tty *os.File, seen func() string, ended <-chan error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), line...)
	cmd.Env = append(append(os.Environ(), "TERM=xterm"), env...)
	tty, err := pty.StartWithSize(cmd, &size)
	require.NoError(t, err)
	var mu sync.Mutex
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := tty.Read(b)
			mu.Lock()
			out.Write(b[:n])
			mu.Unlock()
			if err != nil {
				return // EIO: nobody has the terminal any more
			}
		}
	}()
	done := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		<-read
		done <- err
	}()
	t.Cleanup(func() { _ = tty.Close() })
	return tty, func() string { mu.Lock(); defer mu.Unlock(); return out.String() }, done
}

// U14: no colours. They are for terminals, and for those who want them.
func TestColors(t *testing.T) {
	cluster(t)
	const ready, down = "\x1b[32mready\x1b[0m", "\x1b[31mdown\x1b[0m"
	for _, tc := range []struct {
		name string
		env  []string
		line []string
		want bool
	}{
		{"a terminal", nil, []string{"node", "list"}, true},
		{"NO_COLOR", []string{"NO_COLOR=1"}, []string{"node", "list"}, false},
		{"always wins", []string{"NO_COLOR=1"}, []string{"node", "list", "--color", "always"}, true},
		{"never", nil, []string{"node", "list", "--color", "never"}, false},
		{"a dumb terminal", []string{"TERM=dumb"}, []string{"node", "list"}, false},
		{"for programs", nil, []string{"node", "list", "-o", "json"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, seen, ended := terminalOf(t, tc.env, tc.line...)
			require.NoError(t, <-ended)
			out := seen()
			assert.Contains(t, out, "host3")
			assert.Equal(t, tc.want, strings.Contains(out, ready) && strings.Contains(out, down), "%q", out)
			if !tc.want {
				assert.NotContains(t, out, "\x1b[3")
			}
		})
	}
	assert.NotContains(t, baize(t, "node", "list").out, "\x1b", "a pipe")
	res := baize(t, "node", "list", "--color", "always")
	assert.Contains(t, res.out, "host3   "+down+"     192.168.77.13", "colours take no room")
}

// U14: no --watch. A listing of etcd's follows etcd, and ends with Ctrl-C.
func TestWatchOnATerminal(t *testing.T) {
	s := cluster(t)
	tty, seen, ended := terminalOf(t, nil, "network", "list", "--watch", "--filter", "name=*e*")
	wait := func(what string, parts ...string) {
		t.Helper()
		require.Eventually(t, func() bool {
			drawings := strings.Split(seen(), "\x1b[H")
			last := drawings[len(drawings)-1]
			return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(last, p) })
		}, 20*time.Second, 10*time.Millisecond, "%s: %q", what, seen())
	}
	wait("the first", "NAME", "blue", "red")
	_, err := s.UpdateNetwork(t.Context(), "red", func(n *topology.Network) error {
		n.MTU, n.MTUDefault = 1234, false
		return nil
	})
	require.NoError(t, err)
	wait("after a change", "blue", "1234")
	for _, name := range []string{"green", "grey", "beige"} {
		res := baize(t, "network", "create", name, "--subnet", "10."+map[string]string{
			"green": "3", "grey": "4", "beige": "5"}[name]+".0.0/16")
		require.Equal(t, 0, res.code, res.err)
	}
	wait("six rows have room for five lines", "… 2 more lines")
	_, err = tty.Write([]byte{3}) // Ctrl-C
	require.NoError(t, err)
	select {
	case err := <-ended:
		require.NoError(t, err, "the way it is meant to end")
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	assert.Contains(t, seen(), "\x1b[?25h", "the cursor is back")
	assert.Equal(t, 1, strings.Count(seen(), "\x1b[2J"), "later drawings write over the one before")
	assert.NotContains(t, seen(), "interrupted")
}

// changing is what --watch prints into a pipe, and a way to wait for it.
type changing struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (c *changing) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *changing) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

// A listing of the agent's asks it again; into a pipe each list follows the one
// before, and an agent that is away for a while ends nothing.
func TestWatchOfTheAgentIntoAPipe(t *testing.T) {
	f := &fakeAgent{}
	sock := filepath.Join(t.TempDir(), "agent.sock")
	t.Setenv("BAIZE_SOCKET", sock)
	stop := f.serveAt(t, sock)
	ctx, interrupt := context.WithCancel(t.Context())
	var out, errOut changing
	code := make(chan int, 1)
	go func() {
		code <- Run(ctx, []string{"endpoint", "list", "-w", "-q"}, Streams{strings.NewReader(""), &out, &errOut})
	}()
	shows := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool { return out.String() == want }, 30*time.Second, 10*time.Millisecond)
	}
	require.Equal(t, 0, baize(t, "endpoint", "add", "c1", "--network", "blue", "--netns", "c1").code)
	shows("c1\n")
	stop()
	f.serveAt(t, sock)
	require.Equal(t, 0, baize(t, "endpoint", "add", "c2", "--network", "blue", "--netns", "c2").code)
	shows("c1\nc1\nc2\n")
	interrupt()
	assert.Equal(t, 0, <-code)
	assert.NotContains(t, errOut.String(), "interrupted")
}

// U14: whatever lists something has every way to list it, route list, name list and
// events included.
func TestEveryListing(t *testing.T) {
	s := cluster(t)
	t.Setenv("BAIZE_CONFIG", filepath.Join(t.TempDir(), "config.yaml"))
	for _, name := range []string{"lab", "prod"} {
		require.Zero(t, baize(t, "context", "set", name, "--etcd-endpoints", "http://127.0.0.1:1").code)
	}
	web := netip.MustParseAddr("10.1.153.2")
	for _, node := range []string{"host1", "host2"} {
		require.NoError(t, s.PutNames(t.Context(), topology.Names{
			Network: "blue", Node: node, Names: map[string][]netip.Addr{"web": {web}},
		}))
	}
	f := &fakeAgent{status: healthy(), events: someEvents(time.Now())}
	for _, to := range []string{"host2", "host3"} {
		f.ways = append(f.ways, api.Way{From: "host1", To: to, Encap: topology.VXLAN, Probed: api.Probed{State: api.StateOK}})
	}
	for _, name := range []string{"docker-1", "docker-2"} {
		f.endpoints = append(f.endpoints, api.Endpoint{Name: name, Node: "host1", Network: "blue", IPs: []netip.Addr{web}})
	}
	for _, p := range []string{"10.1.14.0/24", "10.1.65.0/24"} {
		f.routes = append(f.routes, api.Route{
			Network: "blue", Prefix: netip.MustParsePrefix(p), Node: "host2", Kind: "tunnel", Encap: topology.VXLAN,
		})
	}
	f.serve(t)
	arguments := map[string][]string{"name resolve": {"web"}, "ping": {"--mesh"}}
	var found []string
	for _, path := range leavesOf([]*ucli.Command{testRoot()}) {
		if _, sorts := findFlag(path, flagSort); sorts == nil {
			continue
		}
		line := name(path[1:])
		found = append(found, line)
		t.Run(line, func(t *testing.T) {
			everyWay(t, append(strings.Fields(line), arguments[line]...))
		})
	}
	assert.Subset(t, found, []string{
		"network list", "node list", "subnet list", "endpoint list", "pin list", "route list", "name list", "name resolve",
		"context list", "events",
	})
}

// everyWay lists in every way what a command line lists.
func everyWay(t *testing.T, line []string) {
	ask := func(more ...string) string {
		t.Helper()
		res := baize(t, append(slices.Clone(line), more...)...)
		require.Equal(t, 0, res.code, "%v: %s", more, res.err)
		return res.out
	}
	lines := func(out string) int { return strings.Count(out, "\n") }
	var items []map[string]any
	require.NoError(t, json.Unmarshal([]byte(ask("-o", "json")), &items))
	require.NotEmpty(t, items)
	field := slices.Sorted(maps.Keys(items[0]))[0]
	for _, known := range []string{"name", "prefix", "addr", "to", "kind"} {
		if _, ok := items[0][known]; ok {
			field = known
		}
	}
	n := len(items)
	assert.Equal(t, ask("-o", "name"), ask("-q"))
	assert.LessOrEqual(t, lines(ask("-q")), n)
	column := "custom-columns=F:." + field
	ascending := ask("--sort", field, "-o", column, "--no-headers")
	assert.Equal(t, n, lines(ascending))
	assert.Equal(t, "F\n"+ascending, ask("--sort", field, "-o", column), "its header")
	descending := strings.Split(strings.TrimSpace(ask("--sort", "-"+field, "-o", column, "--no-headers")), "\n")
	slices.Reverse(descending)
	assert.Equal(t, strings.TrimSpace(ascending), strings.Join(descending, "\n"))
	assert.Equal(t, strings.Fields(ascending), strings.Fields(ask("--sort", field, "-o", "jsonpath={[*]."+field+"}")))
	one := fmt.Sprint(items[0][field])
	for got := range strings.Lines(ask("--filter", field+"="+one, "-o", column, "--no-headers")) {
		assert.Equal(t, one, strings.TrimSpace(got))
	}
	assert.Contains(t, ask("-o", "yaml"), field+": ")
	assert.NotContains(t, ask("--color", "never"), "\x1b")
	assert.NotEmpty(t, ask("-o", "wide"))
}
