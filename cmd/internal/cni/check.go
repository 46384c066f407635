package cni

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
)

// checkInside compares what stands in a container with the result of its chain. What a
// later plugin changed stands in the result as well; a smaller MTU does not.
func checkInside(result *current.Result, in hostnet.Inside, routes []hostnet.InsideRoute, netns string) error {
	index := slices.IndexFunc(result.Interfaces, func(i *current.Interface) bool {
		return i.Name == in.Name && i.Sandbox == netns
	})
	if index < 0 {
		return types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("prevResult has no interface %s in %s", in.Name, netns), "it is not the result of this attachment")
	}
	want := result.Interfaces[index]
	if mac, err := net.ParseMAC(want.Mac); want.Mac != "" && (err != nil || mac.String() != in.MAC.String()) {
		return broken("the link address of %s is %s, not %s", in.Name, in.MAC, want.Mac)
	}
	if want.Mtu != 0 && in.MTU > want.Mtu {
		return broken("the MTU of %s is %d, larger than %d: packets of that size vanish", in.Name, in.MTU, want.Mtu)
	}
	for _, ip := range result.IPs {
		p, ok := prefixOf(ip.Address)
		if ip.Interface == nil || *ip.Interface != index || !ok {
			continue
		}
		if !slices.Contains(in.Addrs, p) {
			return broken("%s has lost its address %s", in.Name, p)
		}
	}
	for _, r := range result.Routes {
		if err := checkRoute(r, routes); err != nil {
			return err
		}
	}
	return nil
}

func checkRoute(want *types.Route, routes []hostnet.InsideRoute) error {
	dst, ok := prefixOf(want.Dst)
	if !ok || (want.Table != nil && *want.Table != 0 && *want.Table != unix.RT_TABLE_MAIN) {
		return nil // a later plugin's: this one uses the main table only
	}
	gw, _ := netip.AddrFromSlice(want.GW)
	gw = gw.Unmap()
	there := slices.ContainsFunc(routes, func(r hostnet.InsideRoute) bool {
		return r.Dst == dst.Masked() && (!gw.IsValid() || r.Gateway == gw)
	})
	switch {
	case there:
		return nil
	case gw.IsValid():
		return broken("the route to %s by %s is gone", dst, gw)
	}
	return broken("the route to %s is gone", dst)
}

// broken is the error of CHECK for a container that is not as it was left.
func broken(format string, args ...any) error {
	return types.NewError(types.ErrInternal, fmt.Sprintf(format, args...), "start the container again")
}
