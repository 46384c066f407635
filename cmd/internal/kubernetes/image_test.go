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

// pauseImage is what Kubernetes' own tests call one that does nothing.
const pauseImage = "registry.k8s.io/pause:3.10.1"

// layer is the file system of an image. It needs no registry.
type layer struct {
	t    *testing.T
	text bytes.Buffer
	w    *tar.Writer
	has  map[string]bool
}

func newLayer(t *testing.T) *layer {
	l := &layer{t: t, has: map[string]bool{}}
	l.w = tar.NewWriter(&l.text)
	return l
}

// dirs adds empty directories.
func (l *layer) dirs(mode int64, names ...string) {
	l.t.Helper()
	for _, d := range names {
		require.NoError(l.t, l.w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: mode}))
	}
}

// file adds a file, unless it was added before.
func (l *layer) file(name string, content []byte, mode int64) {
	l.t.Helper()
	if !l.has[name] {
		l.has[name] = true
		add(l.t, l.w, name, content, mode)
	}
}

// link adds a symbolic link, unless there is a file of that name.
func (l *layer) link(name, to string) {
	l.t.Helper()
	if !l.has[name] {
		l.has[name] = true
		require.NoError(l.t, l.w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}))
	}
}

// busybox adds busybox, and its applets but for those that were added before.
func (l *layer) busybox() {
	l.t.Helper()
	busybox, err := exec.LookPath("busybox")
	require.NoError(l.t, err, "apt-get install busybox-static")
	applets, err := exec.CommandContext(l.t.Context(), busybox, "--list").Output()
	require.NoError(l.t, err)
	l.dirs(0o755, "bin", "etc", "proc", "sys", "dev")
	l.dirs(0o1777, "tmp")
	l.copy("bin/busybox", busybox)
	for _, a := range strings.Fields(string(applets)) {
		l.link("bin/"+a, "busybox")
	}
}

// copy adds a program of this machine.
func (l *layer) copy(name, from string) {
	l.t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(l.t, err)
	l.file(name, b, 0o755)
}

// linked adds a program of this machine with the libraries that it is linked with.
func (l *layer) linked(name, command string) {
	l.t.Helper()
	from, err := exec.LookPath(command)
	require.NoError(l.t, err, "scripts/install-deps.sh kubernetes")
	l.copy(name, from)
	out, err := exec.CommandContext(l.t.Context(), "ldd", from).Output()
	require.NoError(l.t, err, command)
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			l.copy(strings.TrimPrefix(word, "/"), word)
		}
	}
}

// write writes the image as an engine would save it.
func (l *layer) write(file string, config map[string]any, tags ...string) {
	l.t.Helper()
	require.NoError(l.t, l.w.Close())
	sum := sha256.Sum256(l.text.Bytes())
	about, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	require.NoError(l.t, err)
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": "config.json", "RepoTags": tags, "Layers": []string{"layer.tar"},
	}})
	require.NoError(l.t, err)
	f, err := os.Create(file)
	require.NoError(l.t, err)
	out := tar.NewWriter(f)
	add(l.t, out, "manifest.json", manifest, 0o644)
	add(l.t, out, "config.json", about, 0o644)
	add(l.t, out, "layer.tar", l.text.Bytes(), 0o644)
	require.NoError(l.t, out.Close())
	require.NoError(l.t, f.Close())
}

func add(t *testing.T, w *tar.Writer, name string, content []byte, mode int64) {
	t.Helper()
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}))
	_, err := w.Write(content)
	require.NoError(t, err)
}

// writeImage writes the image of all tests.
func writeImage(t *testing.T, file string) {
	t.Helper()
	l := newLayer(t)
	l.busybox()
	l.write(file, map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sleep", "1000000"}}, image, pauseImage)
}
