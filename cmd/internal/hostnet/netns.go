package hostnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// netnsDirs is where ip-netns(8) keeps names.
var netnsDirs = []string{"/run/netns", "/var/run/netns"}

// NetnsPath returns the path of a network namespace given as a path (anything
// with a slash, /proc/PID/ns/net for example) or as a name of ip-netns(8). A
// name that is not there gives the path where it would be.
func NetnsPath(pathOrName string) string {
	if strings.Contains(pathOrName, "/") {
		return pathOrName
	}
	for _, dir := range netnsDirs {
		p := filepath.Join(dir, pathOrName)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return filepath.Join(netnsDirs[0], pathOrName)
}

// openNetns opens a network namespace and makes sure that it is one.
func openNetns(pathOrName string) (*os.File, error) {
	item := "network namespace " + pathOrName
	if pathOrName == "" {
		return nil, &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   "network namespace",
			What:   "none is named",
			Remedy: "name one with --netns PATH or --netns NAME",
		}
	}
	f, err := os.Open(NetnsPath(pathOrName))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return nil, &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   item,
			What:   "there is none",
			Remedy: "is its container running? 'ip netns list' shows the named ones, 'ip netns add NAME' makes one",
		}
	case err != nil:
		return nil, failed(item, "opening it", err)
	}
	// Any file can be opened; setns(2) would say no more than "invalid argument".
	if t, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || t != unix.CLONE_NEWNET {
		f.Close()
		return nil, &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   item,
			What:   "it is not a network namespace",
			Remedy: "give a name that 'ip netns list' shows or a path such as /proc/PID/ns/net",
		}
	}
	return f, nil
}

// handleIn opens rtnetlink in a namespace; the socket stays there.
func handleIn(ns *os.File) (h *netlink.Handle, err error) {
	err = inNetns(ns, func() error {
		h, err = hostHandle()
		return err
	})
	return h, err
}

// InNetns runs f in a network namespace (a path or a name) and returns its
// error. f runs on a goroutine and thread of its own: goroutines that f starts
// are not in the namespace, sockets that f opens stay in it.
func InNetns(pathOrName string, f func() error) error {
	ns, err := openNetns(pathOrName)
	if err != nil {
		return err
	}
	defer ns.Close()
	return inNetns(ns, f)
}

func inNetns(ns *os.File, f func() error) error {
	// The answer unless f returns: it ended its goroutine.
	err := errors.New("the function ended its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, e := netns.Get()
		if e != nil {
			err = fmt.Errorf("this thread's network namespace: %w", e)
			return
		}
		defer home.Close()
		if e := netns.Set(netns.NsHandle(ns.Fd())); e != nil {
			err = failed("network namespace "+ns.Name(), "entering it", e)
			runtime.UnlockOSThread()
			return
		}
		err = fault.Protect(f)
		// Left locked, a goroutine takes its thread with it when it ends: a
		// thread that cannot return home is never used again.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return err
}
