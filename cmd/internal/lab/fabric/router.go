package fabric

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

// routerDevice is the router's device in a segment.
func routerDevice(segment int) string { return fmt.Sprintf("eth%d", segment) }

// MakeRouter sets up the devices that have come, and makes the member forward.
// ok is false while one is missing.
func MakeRouter(p Place) (ok bool, err error) {
	for i, addrs := range p.Ports {
		dev := routerDevice(i)
		if _, err := netlink.LinkByName(dev); err != nil {
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				err = nil
			}
			return false, err
		}
		// See MakeBridges.
		if err := errors.Join(checksumsOff(dev), setAddrs(dev, addrs)); err != nil {
			return false, err
		}
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return false, err
		}
	}
	return true, nil
}
