package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/rtnetlink"
)

// connectionsFile has the number of connections that the kernel tracks; it is not there
// where the kernel tracks none.
const connectionsFile = "/proc/sys/net/netfilter/nf_conntrack_count"

// hostZone is the zone of the table of connections that this host's own packets are in:
// other zones are those of Open vSwitch and other programs.
const hostZone = 0

// Forget implements kernel.Host. It reads the whole table of connections of each family,
// as the kernel offers no look-up by address.
func (Host) Forget(ctx context.Context, addrs []netip.Addr) (count int, err error) {
	b, err := os.ReadFile(connectionsFile)
	if n, _ := strconv.Atoi(strings.TrimSpace(string(b))); n == 0 || errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("the table of connections: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(rtnetlink.Timeout); err != nil {
		return 0, err
	}
	filter := connectionsOf{}
	families := map[netlink.InetFamily]bool{}
	for _, a := range addrs {
		filter[a.Unmap()] = true
		families[netlink.InetFamily(family(a.Unmap()))] = true
	}
	for f := range families {
		if ctx.Err() != nil {
			return count, ctx.Err()
		}
		n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, f, filter)
		count += int(n)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return count, fmt.Errorf("the table of connections: %w", err)
		}
	}
	return count, nil
}

// connectionsOf matches connections that have one of the addresses at either end, before
// or after a translation.
type connectionsOf map[netip.Addr]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (c connectionsOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Zone == hostZone && (c[addrOf(f.Forward.SrcIP)] || c[addrOf(f.Forward.DstIP)] ||
		c[addrOf(f.Reverse.SrcIP)] || c[addrOf(f.Reverse.DstIP)])
}
