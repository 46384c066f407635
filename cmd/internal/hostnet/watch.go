package hostnet

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel/follow"
)

// WatchLinks calls fire whenever a link or an address of this host changes, and
// once at the start, until ctx ends; it then returns ctx's error. fire is a
// trigger to look again, called from the calling goroutine: it must not block.
// Where the kernel cannot be followed it tries again, and fires when it can.
func WatchLinks(ctx context.Context, fire func()) error {
	return follow.Run(ctx, follow.Subscription{
		Open: follow.Netlink(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR),
		Fire: fire,
	})
}
