package command

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

// shell is a user's shell on a machine: where their files are, and no variable.
type shell struct{ settings, contexts string }

func newShell(t *testing.T) shell {
	t.Helper()
	dir := t.TempDir()
	s := shell{filepath.Join(dir, "default"), filepath.Join(dir, "config.yaml")}
	t.Setenv("BAIZE_SETTINGS", s.settings)
	t.Setenv("BAIZE_CONFIG", s.contexts)
	t.Setenv("BAIZE_ETCD_TIMEOUT", "300ms")
	return s
}

func write(t *testing.T, file, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

// agentWith serves an agent that runs with settings of etcd.
func agentWith(t *testing.T, pairs ...string) *fakeAgent {
	t.Helper()
	f := &fakeAgent{}
	for i := 0; i < len(pairs); i += 2 {
		f.config.Settings = append(f.config.Settings, settings.Setting{
			Name: pairs[i], Value: pairs[i+1], Set: pairs[i+1] != "",
			Origin: settings.Origin{Source: settings.Environment, Where: EnvVar(pairs[i])},
		})
	}
	f.serve(t)
	return f
}

// configOf runs 'baize config' and returns its settings by name.
func configOf(t *testing.T, line ...string) (map[string]settings.Setting, configItem) {
	t.Helper()
	res := baize(t, append(line, "config", "-o", "json")...)
	require.Equal(t, cli.ExitOK, res.code, res.err)
	var item configItem
	require.NoError(t, json.Unmarshal([]byte(res.out), &item))
	byName := map[string]settings.Setting{}
	for _, s := range item.Settings {
		byName[s.Name] = s
	}
	return byName, item
}

// U4: a node with an etcd elsewhere is asked in any shell: its settings file, or its
// agent, says where.
func TestTheNodesEtcdIsFound(t *testing.T) {
	endpoint := etcdtest.Start(t)
	for name, where := range map[string]func(t *testing.T, s shell){
		"in the settings file": func(t *testing.T, s shell) {
			write(t, s.settings, "# node\nBAIZE_ETCD_ENDPOINTS="+endpoint+"\nBAIZE_NETWORK=red\n")
		},
		"from the agent": func(t *testing.T, s shell) {
			write(t, s.settings, "BAIZE_ETCD_ENDPOINTS=http://127.0.0.1:1\n")
			agentWith(t, settings.EtcdEndpoints, endpoint, settings.EtcdPrefix, "/baize/v1")
		},
		"from the agent whose socket the settings file names": func(t *testing.T, s shell) {
			agentWith(t, settings.EtcdEndpoints, endpoint)
			write(t, s.settings, "BAIZE_SOCKET="+os.Getenv("BAIZE_SOCKET"))
			t.Setenv("BAIZE_SOCKET", "")
		},
		"from a context": func(t *testing.T, _ shell) {
			for _, line := range []string{"context set lab --etcd-endpoints " + endpoint, "context use lab"} {
				require.Equal(t, 0, baize(t, strings.Fields(line)...).code)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			where(t, newShell(t))
			res := baize(t, "network", "list", "-o", "json")
			require.Equal(t, cli.ExitOK, res.code, res.err)
			res = baize(t, "status")
			assert.Contains(t, res.out, "etcd at revision", res.err)
		})
	}
}

// Each place counts where no stronger one says anything; the error that names etcd
// names it.
func TestOrderOfPlaces(t *testing.T) {
	s := newShell(t)
	try := func(source settings.Source, where string, line ...string) {
		t.Helper()
		got, _ := configOf(t, line...)
		e := got[settings.EtcdEndpoints]
		assert.Equal(t, source, e.Source)
		assert.Contains(t, e.Where, where)
		res := baize(t, append(line, "network", "list")...)
		require.Equal(t, cli.ExitUnavailable, res.code, res.err)
		assert.Contains(t, res.err, "etcd ("+e.Phrase()+"): "+e.Value)
	}
	t.Setenv("BAIZE_SOCKET", filepath.Join(t.TempDir(), "none.sock"))
	got, _ := configOf(t)
	assert.Equal(t, settings.Origin{Source: settings.Default}, got[settings.EtcdEndpoints].Origin)
	write(t, s.settings, "\nBAIZE_ETCD_ENDPOINTS='http://127.0.0.1:1'\nBAIZE_ETCD_PREFIX=/file\n")
	try(settings.File, s.settings+":2")
	agentWith(t, settings.EtcdEndpoints, "http://127.0.0.1:2", settings.EtcdPrefix, "/agent")
	try(settings.Agent, "agent.sock")
	require.Equal(t, 0, baize(t, "context", "set", "c", "--etcd-endpoints", "http://127.0.0.1:3").code)
	try(settings.Context, "c ("+s.contexts+":", "--context", "c")
	require.Equal(t, 0, baize(t, "context", "use", "c").code)
	try(settings.Context, "c ("+s.contexts+":")
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "http://127.0.0.1:4")
	try(settings.Environment, "BAIZE_ETCD_ENDPOINTS")
	try(settings.Flag, "--etcd-endpoints", "--etcd-endpoints", "http://127.0.0.1:5")
	res := baize(t, "--context", "c", "network", "list")
	assert.Equal(t, cli.ExitUsage, res.code, "one of the two is not what was meant")
	assert.Contains(t, res.err, "BAIZE_ETCD_ENDPOINTS")
}

// What the agent does not tell is read from the file, if that means the same etcd
// and user; otherwise it is asked for before etcd is.
func TestAgentDoesNotTellItsPassword(t *testing.T) {
	s := newShell(t)
	f := agentWith(t, settings.EtcdEndpoints, "http://127.0.0.1:1", settings.EtcdUsername, "node")
	f.config.Settings = append(f.config.Settings, settings.Setting{Name: settings.EtcdPassword, Secret: true, Set: true})
	res := baize(t, "network", "list")
	assert.Equal(t, cli.ExitUnavailable, res.code)
	assert.Contains(t, res.err, "etcd user node")
	assert.Contains(t, res.err, "BAIZE_ETCD_PASSWORD")

	write(t, s.settings, "BAIZE_ETCD_ENDPOINTS=http://127.0.0.1:1\nBAIZE_ETCD_USER=node:secret\n")
	got, _ := configOf(t)
	assert.Equal(t, settings.Agent, got[settings.EtcdUsername].Source)
	assert.Equal(t, settings.File, got[settings.EtcdPassword].Source)
	res = baize(t, "config")
	assert.NotContains(t, res.out, "secret")
	assert.Regexp(t, `etcd-password +\(set\) +`+s.settings+":2", res.out)

	write(t, s.settings, "BAIZE_ETCD_ENDPOINTS=http://127.0.0.1:9\nBAIZE_ETCD_USER=node:secret\n")
	got, _ = configOf(t)
	assert.False(t, got[settings.EtcdPassword].Set, "another etcd's password")
}

// A plan of this node is one for the bridge and the ports that its agent has, or is
// to have.
func TestPlanOfThisNode(t *testing.T) {
	cluster(t)
	s := newShell(t)
	t.Setenv("BAIZE_ETCD_TIMEOUT", "")
	write(t, s.settings, "BAIZE_NODE=host2\nBAIZE_BRIDGE=br1\nBAIZE_VXLAN_PORT=4790\nBAIZE_NETWORK=red\n")
	plan := func(line ...string) (item planItem) {
		t.Helper()
		res := baize(t, append([]string{"plan", "-o", "json"}, line...)...)
		require.Equal(t, cli.ExitOK, res.code, res.err)
		require.NoError(t, json.Unmarshal([]byte(res.out), &item))
		return item
	}
	item := plan()
	assert.Equal(t, "host2", item.Node)
	assert.Equal(t, "br1", item.Bridge.Name)
	assert.Equal(t, "br2", plan("--bridge", "br2").Bridge.Name)
	agentWith(t, "node", "host1", "bridge", "br3")
	item = plan()
	assert.Equal(t, "host1", item.Node)
	assert.Equal(t, "br3", item.Bridge.Name)
	require.Zero(t, baize(t, "context", "set", "c", "--etcd-endpoints", os.Getenv("BAIZE_ETCD_ENDPOINTS")).code)
	assert.Equal(t, "br-baize", plan("--context", "c", "--node", "host1").Bridge.Name)
}

// An agent that hangs is not waited for as long as etcd would be: the file says the
// same.
func TestAgentThatHangs(t *testing.T) {
	s := newShell(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent.sock"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	t.Setenv("BAIZE_SOCKET", l.Addr().String())
	write(t, s.settings, "BAIZE_ETCD_ENDPOINTS=http://127.0.0.1:1\n")
	t.Setenv("BAIZE_ETCD_TIMEOUT", (2 * testkit.Patience).String())
	start := time.Now()
	got, item := configOf(t)
	assert.Less(t, time.Since(start), testkit.Patience)
	assert.Equal(t, settings.File, got[settings.EtcdEndpoints].Source)
	require.Len(t, item.PassedOver, 1)
	assert.Contains(t, item.PassedOver[0], "no answer in time")
}

func TestConfig(t *testing.T) {
	s := newShell(t)
	f := agentWith(t, settings.EtcdEndpoints, "http://127.0.0.1:1", "node", "host1")
	t.Setenv("BAIZE_LOG_LEVEL", "debug")
	res := baize(t, "config", "--etcd-prefix", "/x")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	text := strings.NewReplacer(s.settings, "SETTINGS", s.contexts, "CONTEXTS", os.Getenv("BAIZE_SOCKET"), "SOCKET").
		Replace(res.out)
	golden(t, "config", strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' }), " "))
	_, item := configOf(t)
	assert.Equal(t, f.config.Settings, item.Agent)
	assert.Empty(t, item.PassedOver)

	// An agent of an earlier version does not know the question.
	t.Setenv("BAIZE_SOCKET", filepath.Join(t.TempDir(), "none.sock"))
	_, item = configOf(t)
	assert.Empty(t, item.Agent)
	write(t, s.settings, "\xff")
	_, item = configOf(t)
	require.Len(t, item.PassedOver, 1)
	assert.Contains(t, item.PassedOver[0], "not UTF-8")
	assert.Equal(t, cli.ExitUsage, baize(t, "network", "list").code, "it would say where etcd is")
}

// The agent's settings are all of its flags, with what it got them from, and no
// secret among them.
func TestAgentSettings(t *testing.T) {
	t.Setenv("BAIZE_ETCD_USER", "node:secret")
	t.Setenv("BAIZE_VXLAN_PORT", "4790")
	var std strings.Builder
	r := &runner{Streams: Streams{strings.NewReader(""), &std, &std}}
	app := r.app()
	r.root = rootCommand(app)
	var all []settings.Setting
	app.Command("agent").Action = func(c *ucli.Context) error {
		cfg, err := r.agentConfig(c)
		all = cfg.Settings
		assert.Equal(t, "secret", cfg.Etcd.Password)
		assert.Empty(t, cfg.Etcd.Origin)
		return err
	}
	l, err := parseLine(r.root, strings.Fields("agent --bridge br0 --etcd-cafile ca.crt --network a --network b"))
	require.NoError(t, err)
	r.given = l.given
	require.NoError(t, app.RunContext(t.Context(), append([]string{"baize"}, l.args...)))
	byName := map[string]settings.Setting{}
	for _, s := range all {
		byName[s.Name] = s
	}
	dir, err := os.Getwd()
	require.NoError(t, err)
	flag := func(name string) settings.Origin { return settings.Origin{Source: settings.Flag, Where: "--" + name} }
	env := func(name string) settings.Origin { return settings.Origin{Source: settings.Environment, Where: name} }
	for _, want := range []settings.Setting{
		{Name: "bridge", Value: "br0", Set: true, Origin: flag("bridge")},
		{Name: "network", Value: "a,b", Set: true, Origin: flag("network")},
		{Name: "etcd-cafile", Value: filepath.Join(dir, "ca.crt"), Set: true, Origin: flag("etcd-cafile")},
		{Name: "vxlan-port", Value: "4790", Set: true, Origin: env("BAIZE_VXLAN_PORT")},
		{Name: "etcd-username", Value: "node", Set: true, Origin: env("BAIZE_ETCD_USER")},
		{Name: "etcd-password", Secret: true, Set: true, Origin: env("BAIZE_ETCD_USER")},
		{Name: "audit-interval", Value: "30s", Set: true, Origin: settings.Origin{Source: settings.Default}},
		{Name: "bgp", Origin: settings.Origin{Source: settings.Default}},
	} {
		assert.Equal(t, want, byName[want.Name])
	}
	for _, f := range append(slices.Clone(r.root.Flags), r.root.Command("agent").Flags...) {
		name := f.Names()[0]
		_, ok := byName[name]
		assert.Equal(t, name != settings.EtcdUser && !slices.Contains(notTheAgents, name), ok, name)
	}
	res := baize(t, "agent", "--context", "prod", "--node", "-bad-")
	assert.Equal(t, cli.ExitUsage, res.code)
	assert.Contains(t, res.err, "--context")
}

// B13: who may open neither the socket nor the settings file is told that, not that
// no agent runs.
func TestStatusOfAnotherUser(t *testing.T) {
	s := newShell(t)
	agentWith(t, settings.EtcdEndpoints, "http://127.0.0.1:1")
	write(t, s.settings, "BAIZE_ETCD_ENDPOINTS=http://127.0.0.1:1\n")
	socket := os.Getenv("BAIZE_SOCKET")
	home := t.TempDir()
	t.Setenv("BAIZE_CONFIG", "")
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	require.NoError(t, os.Chmod(home, 0))
	require.NoError(t, os.Chmod(socket, 0))
	require.NoError(t, os.Chmod(s.settings, 0))
	out, code := asAnotherUser(t, "status")
	assert.Equal(t, cli.ExitUnavailable, code, out)
	assert.Contains(t, out, "Node: unknown, because this user may not open the agent's socket")
	assert.NotContains(t, out, "no agent runs")
	assert.Contains(t, out, "agent at "+socket+": this user may not open its socket")
	assert.Contains(t, out, "run as root")
	assert.Contains(t, out, "settings file "+s.settings+": this user may not read it")
	assert.NotContains(t, out, "etcd does not answer", "nobody asked it")

	out, code = asAnotherUser(t, "network", "list")
	assert.Equal(t, cli.ExitUnavailable, code, out)
	assert.Contains(t, out, "settings file "+s.settings+": this user may not read it")
	out, code = asAnotherUser(t, "config")
	assert.Equal(t, cli.ExitOK, code, out)
	assert.Contains(t, out, "passed over: settings file")
	// Where no file would say it, the default is tried, and the error says what it is.
	out, _ = asAnotherUser(t, "network", "list", "--settings", "")
	assert.Contains(t, out, "etcd (the default; this user may not ask the agent, which may have another)")
	// Who says where etcd is needs neither.
	out, _ = asAnotherUser(t, "network", "list", "--etcd-endpoints", "http://127.0.0.1:1")
	assert.Contains(t, out, "connection refused")
}

// asAnotherUser runs a command line as a user who is not root. The program is this
// test, found where every user may.
func asAnotherUser(t *testing.T, line ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", line...)
	cmd.Args[0] = "baize"
	cmd.Dir = "/"
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}
