// Package rtnetlink opens rtnetlink(7) sockets whose requests end, and reads whole
// listings.
package rtnetlink

import (
	"errors"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Timeout bounds a request: the kernel answers in microseconds unless something
// holds its lock.
const Timeout = 5 * time.Second

// dumpTries is how often a listing that a change interrupted is begun anew.
const dumpTries = 5

// Open opens a socket in the network namespace of the calling thread. The caller
// closes it.
func Open() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := h.SetSocketTimeout(Timeout); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Dump repeats a listing that a change interrupted. One that is interrupted every time
// is an error: what it lacks would be taken for gone.
func Dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}
