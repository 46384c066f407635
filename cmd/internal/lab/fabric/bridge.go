package fabric

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MakeBridges makes the bridges that stand for the physical network, in the
// calling thread's namespace.
func MakeBridges(p Place) error {
	for i := range max(p.Segments, 1) {
		snooping := false
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
		br.Name, br.MTU = segmentBridge(i), MTU
		if i == 0 {
			br.HardwareAddr = hostMAC(1 - firstHost) // that of 192.168.77.1
		}
		if err := netlink.LinkAdd(br); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("bridge %s: %w", br.Name, err)
		}
	}
	for i := 1; i < p.Segments; i++ {
		// The fabric is no router: it has no address there, not even IPv6's own.
		if err := os.WriteFile(
			"/proc/sys/net/ipv6/conf/"+segmentBridge(i)+"/disable_ipv6", []byte("1"), 0,
		); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := setAddrs(segmentBridge(i), nil); err != nil {
			return err
		}
	}
	// A host's userspace datapath reads frames as they are: checksums that the
	// sender leaves to its device would never be finished.
	if err := checksumsOff(fabricBridge); err != nil {
		return err
	}
	if err := setAddrs(fabricBridge, p.Addrs); err != nil {
		return err
	}
	return setGateways(fabricBridge, p.Gateways)
}
