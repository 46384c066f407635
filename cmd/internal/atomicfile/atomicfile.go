// Package atomicfile replaces whole files: a reader never sees half of one.
package atomicfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
)

// Writer is Write, or what stands for it where a disk is slow on purpose.
type Writer func(file string, b []byte, mode os.FileMode) error

// Write replaces a file, or makes it, in one step (rename(2) in the file's
// directory, which must exist). A file that has these contents already is not
// touched: its modification time stays.
func Write(file string, b []byte, mode os.FileMode) (err error) {
	if info, serr := os.Lstat(file); serr == nil && info.Mode() == mode {
		if old, rerr := os.ReadFile(file); rerr == nil && bytes.Equal(old, b) {
			return nil
		}
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, werr := f.Write(b)
	// Without the sync a crash may leave the new name with nothing in it.
	if err := errors.Join(werr, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
