package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/wait"
)

const (
	// Uplink is a host's device in the underlay.
	Uplink = "eth0"
	// PhysicalBridge carries the host's underlay address where the datapath is
	// the userspace's: its tunnels are routed by Open vSwitch, which knows only
	// addresses on its own bridges.
	PhysicalBridge = "br-phy"
	dropTable      = "baize-lab"
)

// EnsureUnderlay gives a host its underlay address, wherever that has to be.
// It changes only what is not so. ok is false while a device is missing.
func EnsureUnderlay(p Place) (ok bool, err error) {
	eth, err := netlink.LinkByName(Uplink)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if p.Kernel {
		if err := setAddrs(Uplink, p.Addrs); err != nil {
			return false, err
		}
		return true, setGateways(Uplink, p.Gateways)
	}
	if _, err := netlink.LinkByName(PhysicalBridge); err != nil {
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			err = nil
		}
		return false, err
	}
	if err := hideUplink(eth); err != nil {
		return false, err
	}
	if err := setAddrs(PhysicalBridge, p.Addrs); err != nil {
		return false, err
	}
	return true, setGateways(PhysicalBridge, p.Gateways)
}

// hideUplink keeps the kernel's own stack off a device whose frames the
// userspace datapath reads: it would answer and forward them a second time.
func hideUplink(eth netlink.Link) error {
	sysctl := "/proc/sys/net/ipv6/conf/" + Uplink + "/disable_ipv6"
	if err := os.WriteFile(sysctl, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	addrs, err := netlink.AddrList(eth, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(eth, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("flush %s: %w", Uplink, err)
		}
	}
	if err := dropIngress(Uplink); err != nil {
		return err
	}
	if eth.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	return netlink.LinkSetUp(eth)
}

// dropIngress makes the kernel drop all that arrives at a device, after packet
// sockets have had their copy:
//
//	table netdev baize-lab {
//	  chain eth0 { type filter hook ingress device "eth0" priority -500; policy drop; }
//	}
func dropIngress(device string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if slices.ContainsFunc(
		chains, func(ch *nftables.Chain) bool { return ch.Table.Name == dropTable && ch.Name == device },
	) {
		return nil // the kernel removes it together with its device
	}
	policy := nftables.ChainPolicyDrop
	t := c.AddTable(&nftables.Table{Name: dropTable, Family: nftables.TableFamilyNetdev})
	c.AddChain(&nftables.Chain{
		Name: device, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityRef(-500), Policy: &policy, Device: device,
	})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables drop on %s (needs CONFIG_NF_TABLES_NETDEV): %w", device, err)
	}
	return nil
}

// WatchUnderlay repairs a host's underlay whenever a link or an address
// changes: ovs-vswitchd takes the bridge's device along when it dies.
func WatchUnderlay(ctx context.Context, p Place, watch func(context.Context, func()) error, warn func(error)) {
	poke := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			if err := watch(ctx, func() { signalOnce(poke) }); err != nil && ctx.Err() == nil {
				warn(err)
				_ = wait.Pause(ctx, time.Second)
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poke:
		}
		if _, err := EnsureUnderlay(p); err != nil && ctx.Err() == nil {
			// A device may go while it is being set up; its going wakes us.
			warn(err)
			if wait.Pause(ctx, 100*time.Millisecond) == nil {
				signalOnce(poke)
			}
		}
	}
}

func signalOnce(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
