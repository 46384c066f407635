package hostnet

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// peerPrefix starts the name of the other end of a pair while it waits in this
// host's namespace.
const peerPrefix = "bp"

// PairSpec is a veth pair whose container end somebody else moves into a
// namespace, renames and configures, as Docker does with a plugin's.
type PairSpec struct {
	// HostIfname is the host end; PeerIfname gives the other's name.
	HostIfname string
	// MAC, MTU, ChecksumOffload and HostIngressDrop are as in AttachSpec.
	MAC             net.HardwareAddr
	MTU             int
	ChecksumOffload bool
	HostIngressDrop bool
}

// PeerIfname returns the name of the container end that belongs to a host end
// made by MakePair.
func PeerIfname(hostIfname string) string { return peerPrefix + hostIfname[len(HostPrefix):] }

// MakePair makes the pair in this host's namespace: the host end up, the
// container end down, so that nothing runs over it before its owner is ready.
// A pair of that name is replaced: it is one that nobody took over. On an error
// nothing is left.
func MakePair(ctx context.Context, s PairSpec) (err error) {
	spec := AttachSpec{
		Netns: "/proc/thread-self/ns/net", Ifname: PeerIfname(s.HostIfname), HostIfname: s.HostIfname,
		MAC: s.MAC, MTU: s.MTU, ChecksumOffload: s.ChecksumOffload, HostIngressDrop: s.HostIngressDrop,
	}
	if err := spec.check(); err != nil {
		return err
	}
	if err := Detach(ctx, s.HostIfname); err != nil {
		return err
	}
	ns, err := openNetns(spec.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	host, err := hostHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	a := attachment{AttachSpec: spec, ns: ns, host: host, inside: host}
	if err := a.create(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.undo())
		}
	}()
	if err := a.quietHostEnd(); err != nil {
		return err
	}
	if !a.ChecksumOffload {
		// The device keeps it on its way into another namespace.
		if err := checksumOff(a.Ifname); err != nil {
			return failed(a.item(), "switching checksum offload off", err)
		}
	}
	return a.hostUp()
}

// Abandoned reports whether the container end of a pair lies in this host's
// own namespace, where MakePair left it or where its owner put it back.
func Abandoned(hostIfname string) (bool, error) {
	h, err := hostHandle()
	if err != nil {
		return false, err
	}
	defer h.Close()
	l, err := linkOrNil(h, hostIfname)
	if err != nil || l == nil || l.Type() != "veth" {
		return false, err
	}
	return l.Attrs().NetNsID < 0, nil
}

// pollLink is how often AwaitLink looks.
const pollLink = 10 * time.Millisecond

// AwaitLink waits until a namespace is there and has an interface of that MAC
// that is up and has the addresses, and returns its name. Docker makes the
// namespace only after the interface.
func AwaitLink(ctx context.Context, pathOrName string, mac net.HardwareAddr, addrs []netip.Addr) (string, error) {
	for {
		name, err := readyLink(pathOrName, mac, addrs)
		if (err != nil && !errors.Is(err, topology.ErrNotFound)) || name != "" {
			return name, err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pollLink):
		}
	}
}

func readyLink(pathOrName string, mac net.HardwareAddr, addrs []netip.Addr) (string, error) {
	ns, err := openNetns(pathOrName)
	if err != nil {
		return "", err
	}
	defer ns.Close()
	h, err := handleIn(ns)
	if err != nil {
		return "", err
	}
	defer h.Close()
	links, err := listLinks(h, pathOrName)
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if at := l.Attrs(); !bytes.Equal(at.HardwareAddr, mac) || at.Flags&net.FlagUp == 0 ||
			at.OperState == netlink.OperDown {
			continue
		}
		have, err := h.AddrList(l, unix.AF_UNSPEC)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return "", failed("interface "+l.Attrs().Name, "listing its addresses", err)
		}
		missing := slices.ContainsFunc(addrs, func(want netip.Addr) bool {
			return !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(want.AsSlice()) })
		})
		if !missing {
			return l.Attrs().Name, nil
		}
	}
	return "", nil
}
