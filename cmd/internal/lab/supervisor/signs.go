package supervisor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// watchMarkers wakes everybody when a marker in Dir comes or goes.
func (s *Supervisor) watchMarkers(ctx context.Context) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		s.log.Warnf("inotify: %v", err)
		return
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.Close() })()
	if _, err := unix.InotifyAddWatch(
		fd, Dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM,
	); err != nil {
		s.log.Warnf("inotify: %v", err)
		return
	}
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		// services.json is written at every change: those wake already.
		if strings.Contains(string(buf[:n]), filepath.Base(StoppedFile(""))) {
			s.wake()
		}
	}
}

// NotifySocket is where services say that they are ready, by sd_notify(3).
const NotifySocket = Dir + "/notify.sock"

// receiveReady takes what services say by sd_notify(3).
func (s *Supervisor) receiveReady(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) != "READY=1" {
				continue
			}
			// A member has one service that notifies.
			for _, svc := range s.services {
				if svc.Notifies {
					s.markReady(svc.Name)
				}
			}
		}
	}
}
