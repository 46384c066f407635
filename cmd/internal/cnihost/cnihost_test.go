package cnihost_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/topology"
)

func write(t *testing.T, root, name, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(root+cnihost.Dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root+cnihost.Dir, name), []byte(text), 0o644))
}

// What is written is what the reference library reads; what is there already is not
// written again, and goes with Undo.
func TestPlanAndUndo(t *testing.T) {
	root := t.TempDir()
	h := cnihost.Host{Root: root, Network: "blue", Ports: true}
	changes, err := h.Undo()
	require.NoError(t, err)
	assert.Empty(t, changes)
	changes, err = h.Plan()
	require.NoError(t, err)
	require.Len(t, changes, 1)
	require.NoError(t, hostfile.Apply(root, changes))
	list, err := libcni.ConfListFromFile(root + cnihost.Dir + "/10-blue.conflist")
	require.NoError(t, err)
	assert.Equal(t, "blue", list.Name)
	require.Len(t, list.Plugins, 2)
	assert.Equal(t, "baize-cni", list.Plugins[0].Network.Type)
	assert.True(t, list.Plugins[1].Network.Capabilities["portMappings"])

	changes, err = h.Plan()
	require.NoError(t, err)
	assert.Empty(t, changes)
	h.Ports = false
	changes, err = h.Plan()
	require.NoError(t, err)
	assert.Len(t, changes, 1)
	changes, err = h.Undo()
	require.NoError(t, err)
	require.NoError(t, hostfile.Apply(root, changes))
	assert.NoFileExists(t, root+cnihost.Dir+"/10-blue.conflist")
	assert.DirExists(t, root+cnihost.Dir, "it is others' as well")
}

func TestOthers(t *testing.T) {
	const other = `{"cniVersion":"1.0.0","name":"blue","plugins":[{"type":"bridge"}]}`
	for name, c := range map[string]struct {
		file, text string
		first      bool
		kind       error
	}{
		"the file":                {"10-blue.conflist", other, false, topology.ErrConflict},
		"the name":                {"87-x.conflist", other, false, topology.ErrConflict},
		"no configuration":        {"10-blue.conflist", "x", false, topology.ErrConflict},
		"another network":         {"05-x.conf", `{"name":"x","type":"bridge"}`, false, nil},
		"another network, before": {"05-x.conf", `{"name":"x","type":"bridge"}`, true, topology.ErrConflict},
		"another network, after":  {"87-x.conf", `{"name":"x","type":"bridge"}`, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root, c.file, c.text)
			h := cnihost.Host{Root: root, Network: "blue", First: c.first}
			_, err := h.Plan()
			if c.kind == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.file)
		})
	}
	root := t.TempDir()
	write(t, root, "10-blue.conflist", other)
	_, err := cnihost.Host{Root: root, Network: "blue"}.Undo()
	require.ErrorIs(t, err, topology.ErrConflict, "what Baize did not write stays")
	_, err = cnihost.Host{Root: root, Network: "../x"}.Plan()
	require.ErrorIs(t, err, topology.ErrInvalid)
	_, err = cnihost.Host{Root: root, Network: "../x"}.Undo()
	require.ErrorIs(t, err, topology.ErrInvalid)
}

// A host that routes to its containers has the plugin before the configuration, which says
// that it is ready for pods.
func TestRouted(t *testing.T) {
	root := t.TempDir()
	plugin := filepath.Join(root, "baize-cni")
	h := cnihost.Host{
		Root: root, Network: "baize", First: true, Ports: true, SubnetFile: "/run/flannel/subnet.env",
		BinDir: "/opt/cni/bin", Plugin: plugin,
	}
	_, err := h.Plan()
	require.ErrorIs(t, err, topology.ErrNotFound)
	require.ErrorContains(t, err, plugin)
	require.NoError(t, os.WriteFile(plugin, []byte{0x7f, 'E', 'L', 'F', 0}, 0o755))
	changes, err := h.Plan()
	require.NoError(t, err)
	require.Len(t, changes, 2)
	assert.Equal(t, "/opt/cni/bin/baize-cni", changes[0].Path)
	require.NoError(t, hostfile.Apply(root, changes))
	i, err := os.Stat(root + "/opt/cni/bin/baize-cni")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), i.Mode().Perm())
	list, err := libcni.ConfListFromFile(root + cnihost.Dir + "/10-baize.conflist")
	require.NoError(t, err)
	assert.Contains(t, string(list.Plugins[0].Bytes), `"subnetFile":"/run/flannel/subnet.env"`)
	assert.NotContains(t, string(list.Plugins[0].Bytes), `"network"`)
	assert.True(t, list.Plugins[0].Network.Capabilities["io.kubernetes.cri.pod-annotations"])
	changes, err = h.Plan()
	require.NoError(t, err)
	assert.Empty(t, changes)
	changes, err = h.Undo()
	require.NoError(t, err)
	require.NoError(t, hostfile.Apply(root, changes))
	assert.NoFileExists(t, root+"/opt/cni/bin/baize-cni")
	assert.NoFileExists(t, root+cnihost.Dir+"/10-baize.conflist")
}
