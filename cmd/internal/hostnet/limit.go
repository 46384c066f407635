package hostnet

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/baize-net/baize/topology"
)

// Rate is a limit of traffic: a token bucket (tc-tbf(8)).
type Rate struct {
	// Bits a second; 0 is no limit. Burst is the size of the bucket in bits.
	Bits, Burst uint64
}

const (
	// minBurst holds a few frames of the largest size that offloads make.
	minBurst = 64 * 1024 * 8
	// maxDelay is how long a packet waits for its turn before it is dropped, as a
	// part of a second.
	maxDelay = 25 // 40 ms
)

// Limit limits what an endpoint receives, at the host's end of its pair, and what it
// sends, at the end in its namespace: what Open vSwitch takes from the host's end has
// passed no queue there. A rate without bits leaves that direction as it is.
func Limit(hostIfname, netns, ifname string, receives, sends Rate) error {
	host, err := hostHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	link, err := host.LinkByName(hostIfname)
	if err != nil {
		return failed("interface "+hostIfname+" of this host", "looking for it", err)
	}
	if err := limit(host, link, receives); err != nil {
		return err
	}
	_, h, link, err := inside(netns, ifname)
	if err != nil {
		return err
	}
	defer h.Close()
	return limit(h, link, sends)
}

// Limited reports whether both ends of an endpoint's pair have the limits they are to
// have: a bucket each where there is a rate.
func Limited(hostIfname, netns, ifname string, receives, sends Rate) (bool, error) {
	host, err := hostHandle()
	if err != nil {
		return false, err
	}
	defer host.Close()
	link, err := host.LinkByName(hostIfname)
	if err != nil {
		return false, failed("interface "+hostIfname+" of this host", "looking for it", err)
	}
	there, err := hasBucket(host, link)
	if err != nil || there != (receives.Bits != 0) {
		return false, err
	}
	_, h, link, err := inside(netns, ifname)
	if err != nil {
		return false, err
	}
	defer h.Close()
	there, err = hasBucket(h, link)
	return there == (sends.Bits != 0), err
}

func hasBucket(h *netlink.Handle, link netlink.Link) (bool, error) {
	list, err := h.QdiscList(link)
	if err != nil {
		return false, failed("interface "+link.Attrs().Name, "listing its queues", err)
	}
	for _, q := range list {
		if q.Type() == "tbf" && q.Attrs().Parent == netlink.HANDLE_ROOT {
			return true, nil
		}
	}
	return false, nil
}

func limit(h *netlink.Handle, link netlink.Link, r Rate) error {
	if r.Bits == 0 {
		return nil
	}
	item := "interface " + link.Attrs().Name
	if r.Bits < 8 {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: item, What: fmt.Sprintf("a rate of %d bits a second is none", r.Bits),
			Remedy: "rates are bits a second",
		}
	}
	bytes, burst := r.Bits/8, max(r.Burst, minBurst)/8
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
		},
		Rate: bytes, Buffer: ticks(burst, bytes), Limit: uint32(min(bytes/maxDelay+burst, 1<<31)),
	}
	return failed(item, "limiting its traffic", h.QdiscReplace(q))
}

// ticks is how long a rate takes for a bucket, in the kernel's ticks (psched).
func ticks(burst, rate uint64) uint32 {
	microseconds := float64(burst) * 1e6 / float64(rate)
	return uint32(min(microseconds*netlink.TickInUsec(), 1<<31))
}
