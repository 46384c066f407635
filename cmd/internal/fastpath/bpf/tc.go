package bpf

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/rtnetlink"
)

// Programs are attached as classifiers at a device's ingress (tc-bpf(8), direct
// action): every kernel that has them knows that, and a classifier holds its
// program, and the program its maps, while no agent runs. One is replaced by
// another in one step.

const (
	// filterPref is after those of others, which see every packet first and may keep
	// it from the fast path.
	filterPref   = 50000
	filterHandle = 1
	clsact       = "clsact"
)

// attached is a program at a device.
type attached struct {
	// name is the program's with its version behind a dash.
	name string
	id   int
}

// role is the program's name without its version.
func (a attached) role() string {
	s, _, _ := strings.Cut(a.name, "-")
	return s
}

func handle() (*netlink.Handle, error) {
	h, err := rtnetlink.Open()
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	return h, nil
}

// hooked are the devices that have a place for classifiers, by index.
func hooked(h *netlink.Handle) (map[int]bool, error) {
	qdiscs, err := rtnetlink.Dump(func() ([]netlink.Qdisc, error) { return h.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("listing queueing disciplines: %w", err)
	}
	out := map[int]bool{}
	for _, q := range qdiscs {
		if t := q.Type(); t == clsact || t == "ingress" {
			out[q.Attrs().LinkIndex] = true
		}
	}
	return out, nil
}

// ours finds Baize's program at a device.
func ours(h *netlink.Handle, index int) (a attached, there bool, err error) {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}
	filters, err := rtnetlink.Dump(func() ([]netlink.Filter, error) {
		return h.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return a, false, nil // gone since
	}
	if err != nil {
		return a, false, fmt.Errorf("listing the classifiers of device %d: %w", index, err)
	}
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if ok && (strings.HasPrefix(b.Name, progFrom+"-") || strings.HasPrefix(b.Name, progTo+"-")) {
			return attached{b.Name, b.Id}, true, nil
		}
	}
	return a, false, nil
}

// attach puts a program at a device, in the place of the one that is there.
func attach(h *netlink.Handle, index uint32, name string, fd int) error {
	err := h.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: int(index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		},
		QdiscType: clsact,
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("making a place for classifiers: %w", err)
	}
	f := filter(index)
	f.Name, f.Fd = name, fd
	return h.FilterReplace(f)
}

func filter(index uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: int(index), Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle,
			Protocol: unix.ETH_P_ALL, Priority: filterPref,
		},
		Fd: -1, DirectAction: true,
	}
}

// detach removes the program of a device, and the place for classifiers where none
// is left. What is gone already is no error.
func detach(h *netlink.Handle, index uint32) error {
	gone := func(err error) bool {
		return err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
	}
	if err := h.FilterDel(filter(index)); !gone(err) {
		return fmt.Errorf("removing a classifier: %w", err)
	}
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: int(index)}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		left, err := rtnetlink.Dump(func() ([]netlink.Filter, error) { return h.FilterList(link, parent) })
		if err != nil || len(left) > 0 {
			return nil // it is somebody else's
		}
	}
	qdiscs, err := rtnetlink.Dump(func() ([]netlink.Qdisc, error) { return h.QdiscList(link) })
	if err != nil {
		return nil // nothing uses it
	}
	for _, q := range qdiscs {
		if q.Type() == clsact && q.Attrs().LinkIndex == int(index) {
			if err := h.QdiscDel(q); !gone(err) {
				return fmt.Errorf("removing the place for classifiers: %w", err)
			}
		}
	}
	return nil
}
