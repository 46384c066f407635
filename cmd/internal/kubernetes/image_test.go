//go:build kubernetes

package kubernetes

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// image is the one that all containers have, those of sandboxes included: busybox.
const image = "baize.example/busybox:1"

// writeImage writes the image as an engine would save it. It needs no registry.
func writeImage(t *testing.T, file string) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err, "apt-get install busybox-static")
	program, err := os.ReadFile(busybox)
	require.NoError(t, err)
	applets, err := exec.CommandContext(t.Context(), busybox, "--list").Output()
	require.NoError(t, err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	add(t, w, "bin/busybox", program, 0o755)
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			require.NoError(t, w.WriteHeader(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
		}
	}
	require.NoError(t, w.Close())

	sum := sha256.Sum256(layer.Bytes())
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sleep", "1000000"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	require.NoError(t, err)
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": "config.json", "RepoTags": []string{image}, "Layers": []string{"layer.tar"},
	}})
	require.NoError(t, err)
	f, err := os.Create(file)
	require.NoError(t, err)
	out := tar.NewWriter(f)
	add(t, out, "manifest.json", manifest, 0o644)
	add(t, out, "config.json", config, 0o644)
	add(t, out, "layer.tar", layer.Bytes(), 0o644)
	require.NoError(t, out.Close())
	require.NoError(t, f.Close())
}

func add(t *testing.T, w *tar.Writer, name string, content []byte, mode int64) {
	t.Helper()
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}))
	_, err := w.Write(content)
	require.NoError(t, err)
}
