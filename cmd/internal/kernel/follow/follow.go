// Package follow keeps a subscription to netlink events alive. A socket that
// fails is opened again: what the kernel could not deliver costs nobody more
// than another look.
package follow

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Times between two tries to subscribe.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
)

// Socket is a subscription. *nl.NetlinkSocket is one.
type Socket interface {
	Receive() ([]syscall.NetlinkMessage, *unix.SockaddrNetlink, error)
	Close()
}

// Subscription is what to follow.
type Subscription struct {
	Open func() (Socket, error)
	// Matters says whether one of the messages is worth a call of Fire; nil: any.
	Matters func([]syscall.NetlinkMessage) bool
	// Fire is called after each opening, since something may have been missed, and
	// after messages that matter. It must not block.
	Fire func()
	// Failed hears why the kernel cannot be followed, and with nil that it can
	// again; may be nil.
	Failed func(error)
}

// Netlink returns an Open for multicast groups of a netlink family, of which the
// number may be 31 at most.
func Netlink(family int, groups ...uint) func() (Socket, error) {
	return func() (Socket, error) {
		s, err := nl.Subscribe(family, groups...)
		if err != nil {
			return nil, err // not a Socket that holds nil
		}
		return s, nil
	}
}

// Run follows until ctx ends, and returns ctx's error. It subscribes before it
// returns from the first Open; a failure makes it wait and try again.
func Run(ctx context.Context, s Subscription) error {
	pause, failing := firstPause, false
	report := func(err error) {
		if s.Failed != nil && (err != nil || failing) {
			s.Failed(err)
		}
		failing = err != nil
	}
	for {
		began := time.Now()
		err := once(ctx, s, func() { report(nil) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		report(err)
		if time.Since(began) > lastPause { // it was well for a while
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// once follows until the socket fails.
func once(ctx context.Context, s Subscription, opened func()) error {
	sock, err := s.Open()
	if err != nil {
		return err
	}
	defer sock.Close()
	// Closing the socket wakes the reader; os.File allows a second Close.
	stop := context.AfterFunc(ctx, sock.Close)
	defer stop()
	opened()
	s.Fire()
	for {
		messages, _, err := sock.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			s.Fire() // too many at once: some were lost
		case err != nil:
			return err
		case s.Matters == nil || s.Matters(messages):
			s.Fire()
		}
	}
}
