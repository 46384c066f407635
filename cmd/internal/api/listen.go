package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// maxSocketPath is what sun_path holds beside its final zero (unix(7)), less
// the mark of the name a socket is made under.
const maxSocketPath = 107 - len(makingMark)

// makingMark ends the name of a socket that is not yet fit to be used.
const makingMark = "~"

// Listen makes the agent's socket, mode 0600, and its directory. Where another
// agent listens the error is of kind ErrConflict and names its process; what a
// dead one left is replaced; a file that is no socket is left alone. Closing
// the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	item := "socket " + path
	if len(path) > maxSocketPath || !filepath.IsAbs(path) {
		return nil, &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   item,
			What:   fmt.Sprintf("not an absolute path of at most %d bytes", maxSocketPath),
			Remedy: "name another with --socket",
		}
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fileError(item, "making its directory", err)
	}
	// Two agents that start together must not both find the socket stale.
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fileError(item, "locking its directory", err)
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return nil, err
	}
	// A socket takes its mode from the process' umask. Under another name
	// until that is settled, nobody meets it too open or not yet listening.
	making := path + makingMark
	if err := os.Remove(making); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fileError(item, "clearing the way", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return nil, fileError(item, "listening", err)
	}
	l.SetUnlinkOnClose(false)
	info, err := secure(making, path)
	if err != nil {
		return nil, errors.Join(fileError(item, "making it", err), l.Close(), os.Remove(making))
	}
	return &listener{UnixListener: l, path: path, info: info}, nil
}

func secure(making, path string) (os.FileInfo, error) {
	if err := os.Chmod(making, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(making, path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// lockDir takes the directory's lock, which the kernel gives back with the
// process if need be.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	// Held by others for the time of one Listen.
	for range 500 {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return func() { d.Close() }, nil
}

// clearStale removes what a dead agent left at path.
func clearStale(path string) error {
	item := "socket " + path
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fileError(item, "looking at it", err)
	case info.Mode().Type() != os.ModeSocket:
		return &topology.Error{
			Kind:   topology.ErrConflict,
			Item:   item,
			What:   "the file is there and is no socket",
			Remedy: "move it away or name another with --socket",
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fileError(item, "removing what a dead agent left", err)
		}
		return nil
	}
	if errors.Is(err, os.ErrPermission) {
		return fileError(item, "looking who listens", err)
	}
	// Whatever else happened, somebody holds the socket.
	who := "another process"
	if err == nil {
		defer c.Close()
		if pid := listenerPID(c); pid > 0 {
			who = fmt.Sprintf("process %d", pid)
		}
	}
	return &topology.Error{
		Kind:   topology.ErrConflict,
		Item:   item,
		What:   who + " listens on it: an agent is running",
		Remedy: "stop that one first ('systemctl stop baize'), or name another with --socket",
	}
}

// listenerPID returns the process that listens at the other end (SO_PEERCRED);
// 0 where it cannot be seen from this PID namespace.
func listenerPID(c net.Conn) int {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	var cred *unix.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cred == nil {
		return 0
	}
	return int(cred.Pid)
}

// fileError names the file and, where that is it, the missing privilege.
func fileError(item, doing string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return &topology.Error{
			Kind:   topology.ErrUnavailable,
			Item:   item,
			What:   doing + ": permission denied",
			Remedy: "run as root",
		}
	}
	return fmt.Errorf("%s: %s: %w", item, doing, err)
}

// listener removes its socket when it is closed, unless another one stands
// under the name by then.
type listener struct {
	*net.UnixListener
	path string
	info os.FileInfo
	once sync.Once
}

func (l *listener) Close() error {
	var removed error
	l.once.Do(func() {
		// First the name, then the listener: nobody is refused by a name that
		// is still there.
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
			removed = os.Remove(l.path)
		}
	})
	return errors.Join(removed, l.UnixListener.Close())
}
