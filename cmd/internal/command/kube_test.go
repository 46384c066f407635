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

	cfg, err = agentConfigOf(t, "agent")
	require.NoError(t, err)
	assert.False(t, cfg.WithoutEtcd)
	assert.Empty(t, cfg.Node, "NODE_NAME is Kubernetes'")
}

func TestKubeSubnetMgrRefused(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for line, want := range map[string]string{
		"agent --kube-subnet-mgr": "--kubeconfig-file",
		"agent --kube-subnet-mgr --kube-api-url https://192.0.2.1 --flannel":               "leave --flannel out",
		"agent --kube-subnet-mgr --kube-api-url https://192.0.2.1 --docker-bridge docker0": "leave --docker-bridge out",
	} {
		_, err := agentConfigOf(t, strings.Fields(line)...)
		require.Error(t, err, line)
		assert.Contains(t, err.Error(), want)
	}
}

// manifest are the objects of Baize's manifest, by kind.
func manifest(t *testing.T) map[string]map[string]any {
	t.Helper()
	b, err := os.ReadFile("../../../scripts/kubernetes/baize-flannel.yml")
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

// The manifest has what the agent needs, and no more rights than flannel's.
func TestKubeManifest(t *testing.T) {
	all := manifest(t)
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
	require.Contains(t, at[string](t, all["ConfigMap"], "data", "cni-conf.json"), `"type": "flannel"`)
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
