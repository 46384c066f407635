// Package atomicfile replaces whole files: a reader never sees half of one.
package atomicfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"time"
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
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // see Left
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

// half is the name of a file that is being written.
var half = regexp.MustCompile(`^\..+-[0-9]+$`)

// Left returns the files in a directory that Write began longer than age ago and did not
// end: who wrote them was killed.
func Left(dir string, age time.Duration) (files []string) {
	entries, _ := os.ReadDir(dir) // none where it is not there
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && half.MatchString(e.Name()) && info.Mode().IsRegular() && time.Since(info.ModTime()) >= age {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files
}
