package kubernetes

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/baize-net/baize/topology"
)

// Image is the one that all containers have, those of sandboxes included: busybox.
const Image = "baize.example/busybox:1"

// pauseImage is what Kubernetes' own tests call one that does nothing.
const pauseImage = "registry.k8s.io/pause:3.10.1"

// layer is the file system of an image, made of this machine's files: it needs no
// registry. The first error is the one that write returns.
type layer struct {
	text bytes.Buffer
	w    *tar.Writer
	has  map[string]bool
	err  error
}

func newLayer() *layer {
	l := &layer{has: map[string]bool{}}
	l.w = tar.NewWriter(&l.text)
	return l
}

func (l *layer) note(err error) {
	if l.err == nil {
		l.err = err
	}
}

// dirs adds empty directories.
func (l *layer) dirs(mode int64, names ...string) {
	for _, d := range names {
		l.note(l.w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: mode}))
	}
}

// file adds a file, unless it was added before.
func (l *layer) file(name string, content []byte, mode int64) {
	if !l.has[name] {
		l.has[name] = true
		l.note(add(l.w, name, content, mode))
	}
}

// link adds a symbolic link, unless there is a file of that name.
func (l *layer) link(name, to string) {
	if !l.has[name] {
		l.has[name] = true
		l.note(l.w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}))
	}
}

// find returns the path of a program of this machine.
func (l *layer) find(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		l.note(&topology.Error{
			Kind: topology.ErrNotFound, Item: program, What: "it is not on this machine",
			Remedy: "scripts/install-deps.sh kubernetes",
		})
	}
	return path
}

// busybox adds busybox, and its applets but for those that were added before.
func (l *layer) busybox(ctx context.Context) {
	busybox := l.find("busybox")
	if l.err != nil {
		return
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	l.note(err)
	l.dirs(0o755, "bin", "etc", "proc", "sys", "dev")
	l.dirs(0o1777, "tmp")
	l.copy("bin/busybox", busybox)
	for _, a := range strings.Fields(string(applets)) {
		l.link("bin/"+a, "busybox")
	}
}

// copy adds a program of this machine.
func (l *layer) copy(name, from string) {
	b, err := os.ReadFile(from)
	l.note(err)
	l.file(name, b, 0o755)
}

// linked adds a program of this machine with the libraries that it is linked with.
func (l *layer) linked(ctx context.Context, name, program string) {
	from := l.find(program)
	if l.err != nil {
		return
	}
	l.copy(name, from)
	out, err := exec.CommandContext(ctx, "ldd", from).Output()
	l.note(err)
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			l.copy(strings.TrimPrefix(word, "/"), word)
		}
	}
}

// write writes the image as an engine would save it.
func (l *layer) write(file string, config map[string]any, tags ...string) error {
	l.note(l.w.Close())
	if l.err != nil {
		return l.err
	}
	sum := sha256.Sum256(l.text.Bytes())
	about, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": "config.json", "RepoTags": tags, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	out := tar.NewWriter(f)
	return errors.Join(
		add(out, "manifest.json", manifest, 0o644), add(out, "config.json", about, 0o644),
		add(out, "layer.tar", l.text.Bytes(), 0o644), out.Close(), f.Close())
}

func add(w *tar.Writer, name string, content []byte, mode int64) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// writeImage writes the image of all pods.
func writeImage(ctx context.Context, file string) error {
	l := newLayer()
	l.busybox(ctx)
	return l.write(file, map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sleep", "1000000"}},
		Image, pauseImage)
}
