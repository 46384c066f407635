// Package mount has what a lab needs of mount(2) and of proc(5)'s mountinfo, on
// the machine and inside of its members.
package mount

import (
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount mounts as mount(2) does; the error names the target.
func Mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return &fs.PathError{Op: "mount " + fstype, Path: target, Err: err}
	}
	return nil
}

const mountinfo = "/proc/self/mountinfo"

// IsPoint reports whether something is mounted on a directory.
func IsPoint(dir string) (bool, error) {
	points, err := Points("")
	return slices.Contains(points, dir), err
}

// Points lists those of a file system type, or all for "", in the order
// of their mounts.
func Points(fstype string) ([]string, error) {
	b, err := os.ReadFile(mountinfo)
	return parseMountinfo(string(b), fstype), err
}

func parseMountinfo(mountinfo, fstype string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && (fstype == "" || strings.HasPrefix(after, fstype+" ")) {
			out = append(out, unescape.Replace(fields[4]))
		}
	}
	return out
}
