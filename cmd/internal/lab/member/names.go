package member

import (
	"strconv"
	"strings"
)

// NetnsDir is where ip-netns(8) has its names, on the machine and inside.
const NetnsDir = "/run/netns"

// Names of members; the others are hosts.
const (
	// Fabric is the member with the underlay's bridges and etcd.
	Fabric = "fabric"
	// Router is the member between two segments of the underlay.
	Router = "router"
	// HostPrefix and a number is the name of a host.
	HostPrefix = "host"
	// MaxHosts is limited by the last byte of the underlay's addresses.
	MaxHosts = 244
)

// HostName is the name of host n, counted from 1.
func HostName(n int) string { return HostPrefix + strconv.Itoa(n) }

// HostNumber is the inverse of HostName; 0 where it is none.
func HostNumber(name string) int {
	digits, ok := strings.CutPrefix(name, HostPrefix)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 1 || n > MaxHosts || HostName(n) != name {
		return 0
	}
	return n
}

// MachineName is what the machine knows a member by: the name of its network
// namespace for ip-netns(8), and the start of its control groups' names, such
// as an engine's --cgroup-parent.
func MachineName(lab, member string) string { return "baize-" + lab + "-" + member }

// FromMachineName is the inverse of MachineName for one lab; "" where it is none.
// Lab "a" has no member "b-host1": that one belongs to lab "a-b".
func FromMachineName(lab, name string) string {
	member, ok := strings.CutPrefix(name, MachineName(lab, ""))
	if !ok || (member != Fabric && member != Router && HostNumber(member) == 0) {
		return ""
	}
	return member
}
