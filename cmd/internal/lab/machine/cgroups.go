package machine

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// RemoveCgroups removes the empty control groups of a lab's members that are
// gone: the kernel keeps them when their processes end.
func RemoveCgroups(lab string, gone func(member string) bool) {
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
		found, _ := filepath.Glob(filepath.Join(top, member.MachineName(lab, "*")))
		for _, dir := range found {
			if m := member.FromMachineName(lab, filepath.Base(dir)); m == "" || !gone(m) {
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
