package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// DockerImage is the one image that the engines of a lab have: busybox with
// all its applets, made on this machine. No registry is asked for anything.
const DockerImage = "busybox:latest"

// ensureImage waits for the engine and gives it the image where it lacks it.
func ensureImage(ctx context.Context, engine *http.Client, run Runner) error {
	status, body, err := ask(ctx, engine, http.MethodGet, "/images/"+DockerImage+"/json", nil)
	if err != nil {
		return err
	}
	if status == http.StatusOK {
		return nil
	}
	if status != http.StatusNotFound {
		return fmt.Errorf("docker: is image %s there? status %d: %s", DockerImage, status, body)
	}
	busybox, err := staticBusybox()
	if err != nil {
		return err
	}
	applets, err := run(ctx, busybox, "--list")
	if err != nil {
		return err
	}
	var image bytes.Buffer
	if err := writeImage(&image, busybox, strings.Fields(applets)); err != nil {
		return fmt.Errorf("image %s: %w", DockerImage, err)
	}
	repo, tag, _ := strings.Cut(DockerImage, ":")
	q := url.Values{"fromSrc": {"-"}, "repo": {repo}, "tag": {tag}, "changes": {`CMD ["/bin/sh"]`}}
	status, body, err = ask(ctx, engine, http.MethodPost, "/images/create?"+q.Encode(), &image)
	if err != nil {
		return err
	}
	// Status 200 says no more than that it began: see the progress it prints.
	for d := json.NewDecoder(bytes.NewReader(body)); status == http.StatusOK; {
		var line struct{ Error string }
		if err := d.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil || line.Error != "" {
			break
		}
	}
	return fmt.Errorf("docker import %s: status %d: %s", DockerImage, status, body)
}

var errNoBusybox = &topology.Error{
	Kind: topology.ErrNotFound, Item: "busybox",
	What:   "no statically linked one is installed, and the lab's image is made of it",
	Remedy: "apt-get install --no-install-recommends busybox-static",
}

// staticBusybox finds the executable that runs without any library.
func staticBusybox() (string, error) {
	for dir := range strings.SplitSeq(member.SystemPath, ":") {
		file := path.Join(dir, "busybox")
		f, err := elf.Open(file)
		if err != nil {
			continue
		}
		static := true
		for _, p := range f.Progs {
			static = static && p.Type != elf.PT_INTERP
		}
		_ = f.Close()
		if static {
			return file, nil
		}
	}
	return "", errNoBusybox
}

// writeImage writes a container's file system: busybox, a link for each of
// its applets, and the few files that programs expect.
func writeImage(w io.Writer, busybox string, applets []string) error {
	b, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err == nil {
			err = t.WriteHeader(&h)
		}
		if err == nil {
			_, err = t.Write(content)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "sys", "usr", "var"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, b)
	for _, a := range applets {
		if a != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	add(
		tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		[]byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
	)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nnogroup:x:65534:\n"))
	return errors.Join(err, t.Close())
}
