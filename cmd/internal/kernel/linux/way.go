package linux

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/rtnetlink"
)

// Way asks the kernel for the way to an address.
func (Host) Way(a netip.Addr) kernel.Way {
	h, err := handle()
	if err != nil {
		return kernel.Way{Err: err}
	}
	defer h.Close()
	list, err := h.RouteGet(a.AsSlice())
	switch {
	case err != nil:
		return kernel.Way{Err: fmt.Errorf("no way to %s: %w", a, err)}
	case len(list) == 0:
		return kernel.Way{Err: fmt.Errorf("no way to %s", a)}
	}
	r := list[0]
	if len(r.MultiPath) > 0 { // one stands for all
		r.LinkIndex, r.Gw, r.Via = r.MultiPath[0].LinkIndex, r.MultiPath[0].Gw, r.MultiPath[0].Via
	}
	way := kernel.Way{Via: addrOf(r.Gw), Local: r.Type == unix.RTN_LOCAL}
	if via, ok := r.Via.(*netlink.Via); ok {
		way.Via = addrOf(via.Addr)
	}
	l, err := h.LinkByIndex(r.LinkIndex)
	if err != nil {
		return kernel.Way{Err: fmt.Errorf("the device of the way to %s: %w", a, err)}
	}
	way.Dev = l.Attrs().Name
	return way
}

// Up says of each device whether its link is up: switched on, and with a carrier
// where it can tell (IFF_LOWER_UP).
func (Host) Up() (map[string]bool, error) {
	h, err := handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := rtnetlink.Dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("devices of this host: listing them: %w", err)
	}
	up := make(map[string]bool, len(links))
	for _, l := range links {
		const both = unix.IFF_UP | unix.IFF_LOWER_UP
		up[l.Attrs().Name] = l.Attrs().RawFlags&both == both
	}
	return up, nil
}

// Ruleset returns the rules of nftables, those of iptables-nft among them, as
// 'nft -j list ruleset' prints them. Unlike the rest it needs nft(8): rules of
// others are in expressions that it alone reads.
func (Host) Ruleset(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-j", "list", "ruleset")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("nft -j list ruleset: %w", err)
	}
	return out, nil
}
