package hostnet

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// WatchLinks calls fire whenever a link or an address of this host changes, and
// once at the start, until ctx ends; it then returns ctx's error. fire is a
// trigger to look again, called from the calling goroutine: it must not block.
func WatchLinks(ctx context.Context, fire func()) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return failed("interfaces of this host", "watching them", err)
	}
	defer s.Close()
	// Closing the socket wakes the reader; os.File allows a second Close.
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	for {
		// First: what changed before the subscription may have been missed.
		fire()
		_, _, err := s.Receive()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Too many at once: some were lost, and the trigger stands for all.
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watching the interfaces of this host: %w", err)
		}
	}
}
