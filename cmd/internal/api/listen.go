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
func Listen(path string) (net.Listener, error) { return newListener(path) }

// ListenAndKeep is Listen for a socket that is made again when somebody removes it, alone
// or with its directory.
func ListenAndKeep(path string) (net.Listener, error) {
	l, err := newListener(path)
	if err != nil {
		return nil, err
	}
	l.keeper.Go(l.keep)
	return l, nil
}

func newListener(path string) (*listener, error) {
	current, info, err := listen(path)
	if err != nil {
		return nil, err
	}
	return &listener{path: path, closed: make(chan struct{}), current: current, info: info}, nil
}

func listen(path string) (*net.UnixListener, os.FileInfo, error) {
	item := "socket " + path
	if len(path) > maxSocketPath || !filepath.IsAbs(path) {
		return nil, nil, &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   item,
			What:   fmt.Sprintf("not an absolute path of at most %d bytes", maxSocketPath),
			Remedy: "name another with --socket",
		}
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fileError(item, "making its directory", err)
	}
	// Two agents that start together must not both find the socket stale.
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, nil, fileError(item, "locking its directory", err)
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return nil, nil, err
	}
	// A socket takes its mode from the process' umask. Under another name
	// until that is settled, nobody meets it too open or not yet listening.
	making := path + makingMark
	if err := os.Remove(making); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fileError(item, "clearing the way", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return nil, nil, fileError(item, "listening", err)
	}
	l.SetUnlinkOnClose(false)
	info, err := secure(making, path)
	if err != nil {
		return nil, nil, errors.Join(fileError(item, "making it", err), l.Close(), os.Remove(making))
	}
	return l, info, nil
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

// lookAgain is how soon a socket that somebody removed is made again.
const lookAgain = 2 * time.Second

// listener removes its socket when it is closed, unless another one stands under the
// name by then.
type listener struct {
	path   string
	closed chan struct{}
	once   sync.Once
	keeper sync.WaitGroup

	mu      sync.Mutex
	current *net.UnixListener
	info    os.FileInfo
}

func (l *listener) now() (*net.UnixListener, os.FileInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current, l.info
}

// keep makes the socket anew where it is gone. Where something else has its place, that stays.
func (l *listener) keep() {
	t := time.NewTicker(lookAgain)
	defer t.Stop()
	for {
		select {
		case <-l.closed:
			return
		case <-t.C:
		}
		if _, err := os.Lstat(l.path); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		next, info, err := listen(l.path)
		if err != nil {
			continue // until there is room, or a directory, again
		}
		l.mu.Lock()
		before := l.current
		l.current, l.info = next, info
		l.mu.Unlock()
		_ = before.Close()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		u, _ := l.now()
		c, err := u.Accept()
		if err == nil {
			return c, nil
		}
		if next, _ := l.now(); next == u {
			return nil, err
		}
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close implements net.Listener.
func (l *listener) Close() error {
	var removed error
	l.once.Do(func() {
		close(l.closed)
		l.keeper.Wait()
		// First the name, then the listener: nobody is refused by a name that
		// is still there.
		_, info := l.now()
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, info) {
			removed = os.Remove(l.path)
		}
	})
	u, _ := l.now()
	return errors.Join(removed, u.Close())
}
