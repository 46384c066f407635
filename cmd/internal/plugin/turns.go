package plugin

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
)

// TurnsDir is where Turns are on a host; it is emptied when the host starts.
const TurnsDir = "/run/baize-cni"

// removalFor is how long it is remembered that an attachment was to end: longer than any
// request to make it takes.
const removalFor = 10 * time.Minute

// Turns has requests for one attachment come after each other where no agent sees to it:
// an engine that gives up on a plugin goes on with the opposite request, be the first
// still at work. Each attachment has a file, which is locked, and which says when it was
// to end last.
type Turns struct{ Dir string }

// Add runs add in its turn. It refuses, with ErrConflict, where the attachment was to end
// after this process was started.
func (t Turns) Add(name string, add func() error) error {
	began, err := hostnet.ProcessStart()
	if err != nil {
		return err
	}
	f, err := t.enter(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var removed int64
	if b, err := io.ReadAll(f); err == nil && len(b) == 8 {
		removed = int64(binary.BigEndian.Uint64(b))
	}
	if removed > began {
		return &topology.Error{
			Kind: topology.ErrConflict, Item: "container", What: "the engine has removed it meanwhile",
			Remedy: "nothing has to be done, unless the engine shows it as running",
		}
	}
	return add()
}

// Remove runs remove in its turn, and has every Add refused that began before.
func (t Turns) Remove(name string, remove func() error) error {
	f, err := t.enter(name)
	if err != nil {
		return err
	}
	defer f.Close()
	now := hostnet.SinceBoot()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(now)), 0); err != nil {
		return err
	}
	defer afterTick(now)
	err = remove()
	t.sweep()
	return err
}

// enter waits for an attachment's file. Whoever this process starts has it as well: what
// it started goes on where it is killed.
func (t Turns) enter(name string) (*os.File, error) {
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(t.Dir, name)
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o600) // without O_CLOEXEC
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		f := os.NewFile(uintptr(fd), path)
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(fd, unix.LOCK_EX)
		}
		if err != nil {
			return nil, errors.Join(&os.PathError{Op: "lock", Path: path, Err: err}, f.Close())
		}
		have, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(have, now) {
			return f, nil
		}
		_ = f.Close() // somebody has swept it away meanwhile
	}
}

// sweep removes the files of attachments that ended long ago. One that lives has an empty
// file, or an old one, which nothing depends on any more.
func (t Turns) sweep() {
	files, err := os.ReadDir(t.Dir)
	if err != nil {
		return
	}
	for _, e := range files {
		i, err := e.Info()
		if err != nil || time.Since(i.ModTime()) < removalFor {
			continue
		}
		path := filepath.Join(t.Dir, e.Name())
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(path)
		}
		_ = unix.Close(fd)
	}
}
