// Package hostfile changes configuration files of a host: it says first which would
// change.
package hostfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
)

// Change is one file to write or to remove.
type Change struct {
	Path string
	// Text is its new text; nil removes the file.
	Text []byte
	Mode os.FileMode
	// Shared: the folder is not removed with its last file.
	Shared bool
}

// Missing leaves out the changes that are made already. root is put before every path.
func Missing(root string, all []Change) ([]Change, error) {
	var out []Change
	for _, c := range all {
		have, err := os.ReadFile(root + c.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if c.Text != nil {
				out = append(out, c)
			}
		case err != nil:
			return nil, err
		case c.Text == nil || string(have) != string(c.Text):
			out = append(out, c)
		}
	}
	return out, nil
}

// Apply makes changes in their order. root is put before every path.
func Apply(root string, changes []Change) error {
	for _, c := range changes {
		file := root + c.Path
		if c.Text == nil {
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if !c.Shared {
				// Fails, as it should, where the directory holds anything else.
				_ = os.Remove(filepath.Dir(file))
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := atomicfile.Write(file, c.Text, c.Mode); err != nil {
			return err
		}
	}
	return nil
}
