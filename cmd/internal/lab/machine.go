package lab

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What a lab changes on the machine itself, and undoes with the last lab:
// the names of its namespaces under /run/netns, and one sysctl.

const (
	netnsDir = "/run/netns"
	// machineFile is shared by all labs, whatever their base directory.
	machineFile = "/run/baize-lab.json"

	// rmemSysctl is the receive buffer of new sockets. It cannot be set in a
	// namespace. ovs-vswitchd's packet sockets drop bursts of TCP silently with
	// the kernel's 208 KiB.
	rmemSysctl = "/proc/sys/net/core/rmem_default"
	rmemWanted = 4 << 20
)

// machine is what was changed, written before it is.
type machine struct {
	// Labs are the directories of those that need it.
	Labs []string `json:"labs"`
	// RmemDefault is the value before; 0 where it was left alone.
	RmemDefault int `json:"rmemDefault,omitempty"`
	// NetnsMount says that /run/netns was not yet a mount.
	NetnsMount bool `json:"netnsMount,omitempty"`
	// NetnsDir says that it did not exist.
	NetnsDir bool `json:"netnsDir,omitempty"`
}

func readMachine() (m machine) {
	if b, err := os.ReadFile(machineFile); err == nil {
		_ = json.Unmarshal(b, &m)
	}
	m.Labs = slices.DeleteFunc(m.Labs, func(dir string) bool {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
	return m
}

// prepareMachine raises the buffer and makes /run/netns as ip-netns(8) does,
// for the lab in dir, which exists.
func prepareMachine(ctx context.Context, dir string) error {
	unlock, err := lockFile(ctx, "this machine", machineFile+".lock")
	if err != nil {
		return err
	}
	defer unlock(true)
	m := readMachine()
	if !slices.Contains(m.Labs, dir) {
		m.Labs = append(m.Labs, dir)
	}
	rmem := readInt(rmemSysctl)
	raise := rmem > 0 && rmem < rmemWanted
	if raise {
		m.RmemDefault = rmem
	}
	if _, err := os.Stat(netnsDir); errors.Is(err, fs.ErrNotExist) {
		m.NetnsDir = true
	}
	mounted, err := isMountpoint(netnsDir)
	if err != nil {
		return err
	}
	if !mounted {
		m.NetnsMount = true
	}
	if err := writeJSON(machineFile, m); err != nil {
		return err
	}
	if raise {
		// Not everybody may: a container is as good with more lost bursts.
		_ = os.WriteFile(rmemSysctl, []byte(strconv.Itoa(rmemWanted)), 0)
	}
	if mounted {
		return nil
	}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	if err := mount(netnsDir, netnsDir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return mount("", netnsDir, "", unix.MS_SHARED|unix.MS_REC, "")
}

// restoreMachine undoes prepareMachine where no lab is left. The directory of
// the one that goes is gone.
func restoreMachine(ctx context.Context) error {
	unlock, err := lockFile(ctx, "this machine", machineFile+".lock")
	if err != nil {
		return err
	}
	defer unlock(true)
	if _, err := os.Stat(machineFile); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	m := readMachine()
	if len(m.Labs) > 0 {
		return writeJSON(machineFile, m)
	}
	if m.RmemDefault > 0 && readInt(rmemSysctl) == rmemWanted {
		_ = os.WriteFile(rmemSysctl, []byte(strconv.Itoa(m.RmemDefault)), 0)
	}
	// Others may have made namespaces meanwhile: then it is theirs now.
	if names, err := os.ReadDir(netnsDir); m.NetnsMount && err == nil && len(names) == 0 {
		_ = unix.Unmount(netnsDir, 0)
	}
	if m.NetnsDir {
		_ = os.Remove(netnsDir)
	}
	return os.Remove(machineFile)
}

func readInt(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

func isMountpoint(dir string) (bool, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			return true, nil
		}
	}
	return false, nil
}

// nameNetns makes a member's network namespace known to ip-netns(8).
func nameNetns(m member) error {
	file := filepath.Join(netnsDir, netnsName(m.lab, m.name))
	source := procPath(m.pid, "ns", "net")
	if a, err := os.Stat(file); err == nil {
		if b, err := os.Stat(source); err == nil && os.SameFile(a, b) {
			return nil
		}
		unnameNetns(file)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close()
	return mount(source, file, "", unix.MS_BIND, "")
}

// unnameNetns takes a name away; that of nothing is fine.
func unnameNetns(file string) {
	for unix.Unmount(file, unix.MNT_DETACH) == nil {
	}
	_ = os.Remove(file)
}

// unnameMembers takes the names away of those members of a lab that gone says
// are gone.
func unnameMembers(lab string, gone func(member string) bool) {
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if m := netnsMember(lab, e.Name()); m != "" && gone(m) {
			unnameNetns(filepath.Join(netnsDir, e.Name()))
		}
	}
}

// cgroupName starts the name of control groups made for a member, such as an
// engine's --cgroup-parent.
func cgroupName(lab, member string) string { return "baize-" + lab + "-" + member }

// removeCgroups removes the empty control groups of a lab's members that are
// gone: the kernel keeps them when their processes end.
func removeCgroups(lab string, gone func(member string) bool) {
	const root = "/sys/fs/cgroup"
	tops := []string{root}
	if entries, err := os.ReadDir(root); err == nil {
		for _, e := range entries {
			if e.IsDir() {
				tops = append(tops, filepath.Join(root, e.Name()))
			}
		}
	}
	for _, top := range tops {
		found, _ := filepath.Glob(filepath.Join(top, cgroupName(lab, "*")))
		for _, dir := range found {
			if m := netnsMember(lab, filepath.Base(dir)); m == "" || !gone(m) {
				continue
			}
			var all []string
			_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, p)
				}
				return nil
			})
			for _, d := range slices.Backward(all) {
				_ = os.Remove(d)
			}
		}
	}
}
