// Package machine is what labs change on the machine itself: the names of their
// namespaces under /run/netns, the receive buffer of new sockets, control groups
// and lock files. What is changed is written down first, and the last lab that
// goes takes it all back.
package machine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/mount"
)

const (
	// machineFile is shared by all labs, whatever their base directory.
	machineFile = "/run/baize-lab.json"

	// rmemSysctl is the receive buffer of new sockets. It cannot be set in a
	// namespace. ovs-vswitchd's packet sockets drop bursts of TCP silently with
	// the kernel's 208 KiB.
	rmemSysctl = "/proc/sys/net/core/rmem_default"
	rmemWanted = 4 << 20
)

// changes is what was changed, written before it is.
type changes struct {
	// Labs are the directories of those that need it.
	Labs []string `json:"labs"`
	// RmemDefault is the value before; 0 where it was left alone.
	RmemDefault int `json:"rmemDefault,omitempty"`
	// NetnsMount says that /run/netns was not yet a mount.
	NetnsMount bool `json:"netnsMount,omitempty"`
	// NetnsDir says that it did not exist.
	NetnsDir bool `json:"netnsDir,omitempty"`
}

// Labs returns the directories of the labs that the machine is prepared
// for.
func Labs() []string { return readChanges().Labs }

func readChanges() (m changes) {
	if b, err := os.ReadFile(machineFile); err == nil {
		_ = json.Unmarshal(b, &m)
	}
	m.Labs = slices.DeleteFunc(m.Labs, func(dir string) bool {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
	return m
}

// Prepare raises the buffer and makes /run/netns as ip-netns(8) does,
// for the lab in dir, which exists.
func Prepare(ctx context.Context, dir string) error {
	unlock, err := Lock(ctx, "this machine", machineFile+".lock")
	if err != nil {
		return err
	}
	defer unlock(true)
	m := readChanges()
	if !slices.Contains(m.Labs, dir) {
		m.Labs = append(m.Labs, dir)
	}
	rmem := readInt(rmemSysctl)
	raise := rmem > 0 && rmem < rmemWanted
	if raise {
		m.RmemDefault = rmem
	}
	if _, err := os.Stat(member.NetnsDir); errors.Is(err, fs.ErrNotExist) {
		m.NetnsDir = true
	}
	mounted, err := mount.IsPoint(member.NetnsDir)
	if err != nil {
		return err
	}
	if !mounted {
		m.NetnsMount = true
	}
	if err := atomicfile.WriteJSON(machineFile, m, 0o600); err != nil {
		return err
	}
	if raise {
		// Not everybody may: a container is as good with more lost bursts.
		_ = os.WriteFile(rmemSysctl, []byte(strconv.Itoa(rmemWanted)), 0)
	}
	if mounted {
		return nil
	}
	if err := os.MkdirAll(member.NetnsDir, 0o755); err != nil {
		return err
	}
	if err := mount.Mount(member.NetnsDir, member.NetnsDir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return mount.Mount("", member.NetnsDir, "", unix.MS_SHARED|unix.MS_REC, "")
}

// Restore undoes Prepare where no lab is left. The directory of
// the one that goes is gone.
func Restore(ctx context.Context) error {
	unlock, err := Lock(ctx, "this machine", machineFile+".lock")
	if err != nil {
		return err
	}
	defer unlock(true)
	if _, err := os.Stat(machineFile); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	m := readChanges()
	if len(m.Labs) > 0 {
		return atomicfile.WriteJSON(machineFile, m, 0o600)
	}
	if m.RmemDefault > 0 && readInt(rmemSysctl) == rmemWanted {
		_ = os.WriteFile(rmemSysctl, []byte(strconv.Itoa(m.RmemDefault)), 0)
	}
	// Others may have made namespaces meanwhile: then it is theirs now.
	if names, err := os.ReadDir(member.NetnsDir); m.NetnsMount && err == nil && len(names) == 0 {
		_ = unix.Unmount(member.NetnsDir, 0)
	}
	if m.NetnsDir {
		_ = os.Remove(member.NetnsDir)
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
