package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// private are the directories that a host has for itself, kept under its state
// directory so that they survive a rebuild and show from outside.
var private = []struct{ at, from string }{
	{"/etc/openvswitch", "etc-openvswitch"},
	{"/var/lib/openvswitch", "lib-openvswitch"},
	{"/var/log/openvswitch", "log"},
	{"/var/log/baize-lab", "log"},
	{"/var/lib/baize", "lib-baize"},
	{frrEtc, "etc-frr"},
	{"/etc/docker", "etc-docker"},
	{"/var/lib/docker", "lib-docker"},
	{"/var/lib/containerd", "lib-containerd"},
}

// mounts gives the calling process, in a new mount namespace, the file system
// of a member. The files of c are opened first: what shadows them comes later.
func mounts(c initConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := releaseNamespaces(); err != nil {
		return err
	}
	share := c.Dir
	if c.Share != "" {
		share = c.Share
	}
	sources := map[string]*os.File{}
	for _, p := range []string{share, c.Binary, c.HostsFile} {
		f, err := os.OpenFile(p, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		sources[p] = f
	}
	bind := func(from *os.File, to string) error {
		return mount(fmt.Sprintf("/proc/self/fd/%d", from.Fd()), to, "", unix.MS_BIND, "")
	}

	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for _, d := range []string{insideDir + "/bin", "/run/lock", "/run/netns", "/run/openvswitch", "/run/docker/plugins"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := ensureVarRun(); err != nil {
		return err
	}
	if c.FRR != "" {
		// FRR leaves crash logs there, below its own name.
		if err := mount("tmpfs", "/var/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
			return err
		}
	}
	if err := makeMountpoints(); err != nil {
		return err
	}
	if err := os.MkdirAll(share, 0o755); err != nil {
		return err
	}
	if err := bind(sources[share], share); err != nil {
		return err
	}
	if err := bindPrivate(c); err != nil {
		return err
	}
	exe := filepath.Join(insideDir, "bin", "baize")
	if err := os.WriteFile(exe, nil, 0o755); err != nil {
		return err
	}
	if err := bind(sources[c.Binary], exe); err != nil {
		return err
	}
	if err := bind(sources[c.HostsFile], "/etc/hosts"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return kernelFilesystems()
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return &fs.PathError{Op: "mount " + fstype, Path: target, Err: err}
	}
	return nil
}

// releaseNamespaces lets go of the namespaces that are mounted somewhere, such
// as under /run/netns: our copies of the mounts would keep them alive.
func releaseNamespaces() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	points := mountpoints(string(b), "nsfs")
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			return &fs.PathError{Op: "unmount", Path: p, Err: err}
		}
	}
	return nil
}

// mountpoints lists those of a file system type in mountinfo, proc(5).
func mountpoints(mountinfo, fstype string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, fstype+" ") {
			out = append(out, unescape.Replace(fields[4]))
		}
	}
	return out
}

// ensureVarRun makes /var/run the same as /run: Open vSwitch's sockets are
// looked for there.
func ensureVarRun() error {
	if to, err := filepath.EvalSymlinks("/var/run"); err == nil && to == "/run" {
		return nil
	}
	return mount("/run", "/var/run", "", unix.MS_BIND|unix.MS_REC, "")
}

// makeMountpoints sees to it that every private directory exists, without a
// trace on the machine: where one is missing its parent gets an overlay.
func makeMountpoints() error {
	covered := map[string]bool{}
	for _, p := range private {
		if _, err := os.Stat(p.at); err == nil {
			continue
		}
		parent := filepath.Dir(p.at)
		if covered[parent] {
			if err := os.MkdirAll(p.at, 0o755); err != nil {
				return err
			}
			continue
		}
		covered[parent] = true
		aside := filepath.Join(insideDir, "overlay", strings.ReplaceAll(parent, "/", "-"))
		upper, work := filepath.Join(aside, "upper"), filepath.Join(aside, "work")
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		// Without overlayfs an empty directory remains on the machine.
		_ = mount("overlay", parent, "overlay", 0, "lowerdir="+parent+",upperdir="+upper+",workdir="+work)
		if err := os.MkdirAll(p.at, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func bindPrivate(c initConfig) error {
	for _, p := range private {
		from := filepath.Join(c.Dir, p.from)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		if err := mount(from, p.at, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// kernelFilesystems mounts /sys and /proc of the new namespaces. The control
// groups stay as they are: container engines need them.
func kernelFilesystems() error {
	const cgroups = "/sys/fs/cgroup"
	aside := filepath.Join(insideDir, "cgroup")
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	if err := mount(cgroups, aside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount(aside, cgroups, "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	_ = os.Remove(aside)
	return mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}
