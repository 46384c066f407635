package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/wait"
	"github.com/baize-net/baize/topology"
)

const (
	lockTimeout = 3 * time.Minute
	lockPoll    = 50 * time.Millisecond
)

// Lock takes a lock on a file, made where it is not there. item names what
// it is for.
func Lock(ctx context.Context, item, file string) (unlock func(remove bool), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, fmt.Errorf("lock %s: %w", item, err)
		}
		f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the directory went with another lab
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", item, err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && stillThere(f, file) {
			_ = f.Truncate(0)
			fmt.Fprintf(f, "%d\n", os.Getpid())
			return func(remove bool) {
				if remove {
					_ = os.Remove(file)
				}
				_ = f.Close()
			}, nil
		}
		holder, _ := io.ReadAll(f)
		_ = f.Close()
		if err == nil {
			continue // its holder removed it
		}
		if err := wait.Pause(ctx, lockPoll); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				return nil, err
			}
			return nil, &topology.Error{
				Kind: topology.ErrInUse, Item: item,
				What:   "process " + strings.TrimSpace(string(holder)) + " has been changing it for minutes",
				Remedy: "wait for it, or kill it and try again",
			}
		}
	}
}

func stillThere(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
