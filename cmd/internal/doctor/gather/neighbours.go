package gather

import (
	"encoding/binary"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/doctor"
)

// Attributes of a table of neighbours (linux/neighbour.h).
const (
	ndtaName    = 1
	ndtaThresh1 = 2 // 3 and 4 are the others
	ndtaConfig  = 5
	// configEntries is where struct ndt_config has the number of entries.
	configEntries = 4
	ndtmsgLen     = 4
)

// neighbours reads the kernel's tables of neighbours by netlink (RTM_GETNEIGHTBL, since
// Linux 2.6.13), which tells them in every network namespace. A table counts the entries
// of all namespaces: those of containers fill that of their host.
func neighbours() []doctor.NeighbourTable {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGHTBL, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	list, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGHTBL)
	if err != nil {
		return nil
	}
	var out []doctor.NeighbourTable
	for _, b := range list {
		if t, ok := neighbourTable(b); ok {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b doctor.NeighbourTable) int {
		if a.Family < b.Family {
			return -1
		}
		return 1
	})
	return out
}

// neighbourTable reads one message; ok is false for those about a device's parameters, and
// for tables of other protocols.
func neighbourTable(b []byte) (t doctor.NeighbourTable, ok bool) {
	if len(b) < ndtmsgLen {
		return t, false
	}
	family := int(b[0])
	attrs, err := nl.ParseRouteAttr(b[ndtmsgLen:])
	if err != nil {
		return t, false
	}
	for _, a := range attrs {
		switch kind := int(a.Attr.Type); {
		case kind == ndtaName:
			t.Family = map[string]string{"arp_cache\x00": "IPv4", "ndisc_cache\x00": "IPv6"}[string(a.Value)]
		case kind >= ndtaThresh1 && kind < ndtaThresh1+3 && len(a.Value) == 4:
			t.Thresholds[kind-ndtaThresh1] = int(binary.NativeEndian.Uint32(a.Value))
		case kind == ndtaConfig && len(a.Value) >= configEntries+4:
			t.Entries, ok = int(binary.NativeEndian.Uint32(a.Value[configEntries:])), true
		}
	}
	if !ok || t.Family == "" || t.Thresholds[2] == 0 {
		return t, false
	}
	t.Entries -= uncounted(family)
	return t, true
}

// uncounted is how many entries of this network namespace no limit counts
// (neigh_update_gc_list of the kernel).
func uncounted(family int) (n int) {
	list, _ := netlink.NeighList(0, family)
	for _, x := range list {
		if x.State&unix.NUD_PERMANENT != 0 || x.Flags&netlink.NTF_EXT_LEARNED != 0 {
			n++
		}
	}
	return n
}
