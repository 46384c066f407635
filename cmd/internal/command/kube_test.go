package command

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ucli "github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/topology/flannel"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: x
clusters: [{name: x, cluster: {server: "https://192.0.2.10:6443"}}]
users: [{name: x, user: {token: secret}}]
contexts: [{name: x, context: {cluster: x, user: x}}]
`

// agentConfigOf is what an agent of a command line would be started with.
func agentConfigOf(t *testing.T, line ...string) (agent.Config, error) {
	t.Helper()
	var cfg agent.Config
	r := &runner{Streams: Streams{Out: io.Discard, Err: io.Discard}}
	app := r.app()
	r.root = rootCommand(app)
	l, err := parseLine(r.root, line)
	require.NoError(t, err)
	r.given = l.given
	for _, c := range app.Commands {
		if c.Name == "agent" {
			c.Action = func(ctx *ucli.Context) (err error) { cfg, err = r.agentConfig(ctx); return err }
		}
	}
	return cfg, app.RunContext(t.Context(), append([]string{app.Name}, l.args...))
}

// An agent in flannel's place needs no etcd, and knows what it must not cut itself off
// from.
func TestKubeSubnetMgr(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(file, []byte(kubeconfig), 0o600))
	t.Setenv("NODE_NAME", "worker-1")
	cfg, err := agentConfigOf(t, "agent", "--kube-subnet-mgr", "--kubeconfig-file", file, "--ip-masq")
	require.NoError(t, err)
	assert.True(t, cfg.WithoutEtcd)
	assert.Equal(t, "worker-1", cfg.Node)
	require.Len(t, cfg.Reach, 1)
	assert.Equal(t, "192.0.2.10", cfg.Reach[0].Addr.String())
	assert.Len(t, cfg.Sources, 1)

	cfg, err = agentConfigOf(t, "agent", "--kube-subnet-mgr", "--kube-api-url", "https://[2001:db8::1]:6443", "--node", "x")
	require.NoError(t, err)
	assert.Equal(t, "x", cfg.Node)
	assert.Equal(t, "2001:db8::1", cfg.Reach[0].Addr.String())

	cfg, err = agentConfigOf(t, "agent", "--kube-subnet-mgr", "--kube-api-url", "https://192.0.2.10", "--own-networks",
		"--etcd-endpoints", "http://192.0.2.20:2379")
	require.NoError(t, err)
	assert.False(t, cfg.WithoutEtcd)
	assert.Equal(t, "192.0.2.10", cfg.Reach[0].Addr.String())
	assert.Equal(t, []string{"http://192.0.2.20:2379"}, cfg.Etcd.Endpoints)

	cfg, err = agentConfigOf(t, "agent")
	require.NoError(t, err)
	assert.False(t, cfg.WithoutEtcd)
	assert.Empty(t, cfg.Node, "NODE_NAME is Kubernetes'")
}

func TestKubeSubnetMgrRefused(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for line, want := range map[string]string{
		"agent --kube-subnet-mgr": "--kubeconfig-file",
		"agent --own-networks":    "goes with --kube-subnet-mgr",
		"agent --kube-subnet-mgr --kube-api-url https://192.0.2.1 --flannel":               "leave --flannel out",
		"agent --kube-subnet-mgr --kube-api-url https://192.0.2.1 --docker-bridge docker0": "leave --docker-bridge out",
	} {
		_, err := agentConfigOf(t, strings.Fields(line)...)
		require.Error(t, err, line)
		assert.Contains(t, err.Error(), want)
	}
}

// manifest are the objects of one of Baize's manifests, by kind.
func manifest(t *testing.T, name string) map[string]map[string]any {
	t.Helper()
	b, err := os.ReadFile("../../../scripts/kubernetes/" + name)
	require.NoError(t, err)
	out := map[string]map[string]any{}
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		if o != nil {
			kind := o["kind"].(string)
			require.NotContains(t, out, kind)
			out[kind] = o
		}
	}
}

// at is what a path of names and indices leads to.
func at[T any](t *testing.T, o any, names ...any) T {
	t.Helper()
	for _, n := range names {
		switch n := n.(type) {
		case string:
			m, ok := o.(map[string]any)
			require.True(t, ok, "%v of %v", n, o)
			o = m[n]
		case int:
			l, ok := o.([]any)
			require.True(t, ok && n < len(l), "%v of %v", n, o)
			o = l[n]
		}
	}
	out, ok := o.(T)
	require.True(t, ok, "%v is a %T", names, o)
	return out
}

func stringsOf(list []any) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i], _ = x.(string)
	}
	return out
}

// The manifests have what the agent needs, and no more rights than flannel's.
func TestKubeManifests(t *testing.T) {
	t.Run("in flannel's place", func(t *testing.T) {
		all := manifest(t, "baize-flannel.yml")
		testManifest(t, all)
		require.Contains(t, at[string](t, all["ConfigMap"], "data", "cni-conf.json"), `"type": "flannel"`)
	})
	t.Run("provider", func(t *testing.T) {
		all := manifest(t, "baize.yml")
		testManifest(t, all)
		// What writes the configuration is a command of the image.
		before := at[map[string]any](t, all["DaemonSet"], "spec", "template", "spec", "initContainers", 0)
		line := stringsOf(at[[]any](t, before, "args"))
		_, err := parseLine(rootCommand((&runner{}).app()), line)
		require.NoError(t, err)
		require.Contains(t, line, "--"+flagProvider)
		dir := line[slices.Index(line, "--bin-dir")+1]
		for i, want := range []string{dir, cnihost.Dir} {
			require.Equal(t, want, at[string](t, before, "volumeMounts", i, "mountPath"))
			found := false
			for _, v := range at[[]any](t, all["DaemonSet"], "spec", "template", "spec", "volumes") {
				if v.(map[string]any)["name"] == at[string](t, before, "volumeMounts", i, "name") {
					require.Equal(t, want, at[string](t, v, "hostPath", "path"))
					found = true
				}
			}
			require.True(t, found, want)
		}
	})
}

func testManifest(t *testing.T, all map[string]map[string]any) {
	t.Helper()
	set := all["DaemonSet"]
	pod := at[map[string]any](t, set, "spec", "template", "spec")
	container := at[map[string]any](t, pod, "containers", 0)

	// Its command line, with what its ConfigMap and its node give it.
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	args := append(stringsOf(at[[]any](t, container, "args")), "--kube-api-url", "https://192.0.2.1")
	cfg, err := agentConfigOf(t, args...)
	require.NoError(t, err)
	require.True(t, cfg.WithoutEtcd)
	require.Equal(t, nodeNameVar, at[string](t, container, "env", 0, "name"))
	require.Equal(t, "spec.nodeName", at[string](t, container, "env", 0, "valueFrom", "fieldRef", "fieldPath"))

	mounts := map[string]string{} // volume by path
	for _, m := range at[[]any](t, container, "volumeMounts") {
		mounts[path.Clean(at[string](t, m, "mountPath"))] = at[string](t, m, "name")
	}
	volumes := map[string]any{}
	for _, v := range at[[]any](t, pod, "volumes") {
		volumes[at[string](t, v, "name")] = v
	}
	configMap := at[string](t, volumes[mounts["/etc/kube-flannel"]], "configMap", "name")
	require.Equal(t, at[string](t, all["ConfigMap"], "metadata", "name"), configMap)
	for _, dir := range []string{"/run", cfg.StateDir} {
		require.Equal(t, dir, at[string](t, volumes[mounts[dir]], "hostPath", "path"), dir)
	}
	_, err = flannel.DecodeConfig([]byte(at[string](t, all["ConfigMap"], "data", "net-conf.json")))
	require.NoError(t, err)
	require.True(t, at[bool](t, pod, "hostNetwork"))

	rights := map[string][]string{}
	for _, r := range at[[]any](t, all["ClusterRole"], "rules") {
		rights[at[string](t, r, "resources", 0)] = stringsOf(at[[]any](t, r, "verbs"))
	}
	require.Equal(t, map[string][]string{
		"pods": {"get"}, "nodes": {"get", "list", "watch"}, "nodes/status": {"patch"},
	}, rights)
	account := at[string](t, all["ServiceAccount"], "metadata", "name")
	require.Equal(t, account, at[string](t, pod, "serviceAccountName"))
	require.Equal(t, account, at[string](t, all["ClusterRoleBinding"], "subjects", 0, "name"))
	require.Equal(t, at[string](t, all["ClusterRole"], "metadata", "name"),
		at[string](t, all["ClusterRoleBinding"], "roleRef", "name"))

	// The agent's container has one set of capabilities, whoever runs it.
	b, err := os.ReadFile("../../../scripts/container/compose.yaml")
	require.NoError(t, err)
	var compose any
	require.NoError(t, yaml.Unmarshal(b, &compose))
	want := stringsOf(at[[]any](t, compose, "services", "baize", "cap_add"))
	have := stringsOf(at[[]any](t, container, "securityContext", "capabilities", "add"))
	slices.Sort(want)
	slices.Sort(have)
	require.Equal(t, want, have)
}

// The cluster's network is Baize's own plugin or one of Baize's networks, not both.
func TestKubernetesConfigure(t *testing.T) {
	run := func(line string) (string, error) {
		var out bytes.Buffer
		code := Run(t.Context(), strings.Fields(line), Streams{In: strings.NewReader(""), Out: &out, Err: &out})
		if code != 0 {
			return out.String(), errors.New(out.String())
		}
		return out.String(), nil
	}
	out, err := run("kubernetes configure --provider --subnet-file /run/x.env --dry-run")
	require.NoError(t, err)
	assert.Contains(t, out, "/etc/cni/net.d/10-baize.conflist")
	assert.Contains(t, out, `"subnetFile": "/run/x.env"`)
	assert.NotContains(t, out, `"network"`)
	out, err = run("kubernetes configure --network blue --dry-run")
	require.NoError(t, err)
	assert.Contains(t, out, `"network": "blue"`)
	assert.NotContains(t, out, "subnetFile")
	for line, want := range map[string]string{
		"kubernetes configure":                                               "--provider or --network",
		"kubernetes configure --provider --network blue":                     "--provider or --network",
		"kubernetes configure --network blue --bin-dir /opt/cni/bin":         "go with --provider",
		"kubernetes configure --provider --dry-run --bin-dir " + t.TempDir(): "leave --bin-dir out",
	} {
		_, err := run(line)
		require.ErrorContains(t, err, want, line)
	}
}
