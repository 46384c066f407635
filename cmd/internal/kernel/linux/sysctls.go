package linux

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/follow"
)

// sysctlsEvery is how often it is looked up which settings to watch: a device may be new,
// and the kernel makes a file that nobody had open anew when memory is short.
const sysctlsEvery = 2 * time.Second

// sysctls tells of settings that somebody writes, by inotify(7): netlink tells of few.
type sysctls struct {
	*fsnotify.Watcher
	interest func() kernel.Interest
}

func openSysctls(interest func() kernel.Interest) func() (follow.Socket, error) {
	return func() (follow.Socket, error) {
		w, err := fsnotify.NewWatcher()
		if err != nil {
			return nil, err // not a Socket that holds nil
		}
		return sysctls{w, interest}, nil
	}
}

// Receive implements follow.Socket, without messages.
func (s sysctls) Receive() ([]syscall.NetlinkMessage, *unix.SockaddrNetlink, error) {
	tick := time.NewTicker(sysctlsEvery)
	defer tick.Stop()
	for {
		for _, key := range s.interest().Sysctls {
			// The device may have gone, and a kernel may lack a setting.
			if err := s.Add(filepath.Join(sysctlDir, key)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, nil, err
			}
		}
		select {
		case <-tick.C:
		case event, ok := <-s.Events:
			if !ok {
				return nil, nil, net.ErrClosed
			}
			if event.Has(fsnotify.Write) {
				return nil, nil, nil
			}
		case err := <-s.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				err = unix.ENOBUFS
			}
			return nil, nil, err
		}
	}
}

// Close implements follow.Socket.
func (s sysctls) Close() { _ = s.Watcher.Close() }
