package pid1

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/mount"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
)

// private are the directories that a host has for itself, kept under its state
// directory so that they survive a rebuild and show from outside.
var private = []struct{ at, from string }{
	{"/etc/openvswitch", "etc-openvswitch"},
	{"/var/lib/openvswitch", "lib-openvswitch"},
	{"/var/log/openvswitch", "log"},
	{"/var/log/baize-lab", "log"},
	{"/var/lib/baize", "lib-baize"},
	{engine.FRRConfDir, "etc-frr"},
	{"/etc/docker", "etc-docker"},
	{"/var/lib/docker", "lib-docker"},
	{"/var/lib/containerd", "lib-containerd"},
}

// makeFilesystem gives the calling process, in a new mount namespace, the file
// system of a member. The files of c are opened first: what shadows them comes
// later.
func makeFilesystem(c engine.Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := releaseNamespaces(); err != nil {
		return err
	}
	share := cmp.Or(c.Share, c.Dir)
	own, err := openSources(share, c.Binary, c.HostsFile)
	defer own.close()
	if err != nil {
		return err
	}
	if err := freshDirectories(c.FRR != ""); err != nil {
		return err
	}
	if err := os.MkdirAll(share, 0o755); err != nil {
		return err
	}
	if err := own.bind(share, share); err != nil {
		return err
	}
	if err := bindPrivate(c.Dir); err != nil {
		return err
	}
	if err := os.WriteFile(supervisor.Executable, nil, 0o755); err != nil {
		return err
	}
	if err := own.bind(c.Binary, supervisor.Executable); err != nil {
		return err
	}
	if err := own.bind(c.HostsFile, "/etc/hosts"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return kernelFilesystems()
}

// sources are files and directories by their paths, open: they can be bound
// after something was mounted over them.
type sources map[string]*os.File

func openSources(paths ...string) (sources, error) {
	all := sources{}
	for _, p := range paths {
		f, err := os.OpenFile(p, unix.O_PATH, 0)
		if err != nil {
			return all, err
		}
		all[p] = f
	}
	return all, nil
}

func (s sources) bind(from, to string) error {
	return mount.Mount(fmt.Sprintf("/proc/self/fd/%d", s[from].Fd()), to, "", unix.MS_BIND, "")
}

func (s sources) close() {
	for _, f := range s {
		_ = f.Close()
	}
}

// freshDirectories makes /run, and /var/tmp where FRR runs, empty ones, and
// mountpoints for what is private.
func freshDirectories(frr bool) error {
	if err := mount.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for _, d := range []string{
		filepath.Dir(supervisor.Executable), "/run/lock", "/run/netns", "/run/openvswitch", "/run/docker/plugins",
	} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := ensureVarRun(); err != nil {
		return err
	}
	if frr {
		// FRR leaves crash logs there, below its own name.
		if err := mount.Mount("tmpfs", "/var/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
			return err
		}
	}
	return makeMountpoints()
}

// releaseNamespaces lets go of the namespaces that are mounted somewhere, such
// as under /run/netns: our copies of the mounts would keep them alive.
func releaseNamespaces() error {
	points, err := mount.Points("nsfs")
	if err != nil {
		return err
	}
	for _, p := range slices.Backward(points) {
		// One that somebody has removed meanwhile is gone here as well: another
		// lab, for example.
		err := unix.Unmount(p, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return &fs.PathError{Op: "unmount", Path: p, Err: err}
		}
	}
	return nil
}

// ensureVarRun makes /var/run the same as /run: Open vSwitch's sockets are
// looked for there.
func ensureVarRun() error {
	if to, err := filepath.EvalSymlinks("/var/run"); err == nil && to == "/run" {
		return nil
	}
	return mount.Mount("/run", "/var/run", "", unix.MS_BIND|unix.MS_REC, "")
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
		aside := filepath.Join(supervisor.Dir, "overlay", strings.ReplaceAll(parent, "/", "-"))
		upper, work := filepath.Join(aside, "upper"), filepath.Join(aside, "work")
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		// Without overlayfs an empty directory remains on the machine.
		_ = mount.Mount("overlay", parent, "overlay", 0, "lowerdir="+parent+",upperdir="+upper+",workdir="+work)
		if err := os.MkdirAll(p.at, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func bindPrivate(dir string) error {
	for _, p := range private {
		from := filepath.Join(dir, p.from)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		if err := mount.Mount(from, p.at, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// kernelFilesystems mounts /sys and /proc of the new namespaces. The control
// groups stay as they are: container engines need them.
func kernelFilesystems() error {
	const cgroups = "/sys/fs/cgroup"
	aside := filepath.Join(supervisor.Dir, "cgroup")
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	if err := mount.Mount(cgroups, aside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := mount.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount.Mount(aside, cgroups, "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	_ = os.Remove(aside)
	return mount.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}
