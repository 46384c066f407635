package machine

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/mount"
)

// NameNetns makes a member's network namespace known to ip-netns(8).
func NameNetns(m member.Member) error {
	file := filepath.Join(member.NetnsDir, member.MachineName(m.Lab, m.Name))
	source := m.Netns()
	if a, err := os.Stat(file); err == nil {
		if b, err := os.Stat(source); err == nil && os.SameFile(a, b) {
			return nil
		}
		unname(file)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close()
	return mount.Mount(source, file, "", unix.MS_BIND, "")
}

// unname takes a name away; that of nothing is fine.
func unname(file string) {
	for unix.Unmount(file, unix.MNT_DETACH) == nil {
	}
	_ = os.Remove(file)
}

// UnnameNetns takes the names away of those members of a lab that gone says
// are gone.
func UnnameNetns(lab string, gone func(member string) bool) {
	entries, err := os.ReadDir(member.NetnsDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if m := member.FromMachineName(lab, e.Name()); m != "" && gone(m) {
			unname(filepath.Join(member.NetnsDir, e.Name()))
		}
	}
}
