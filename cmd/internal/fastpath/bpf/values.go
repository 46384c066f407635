package bpf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/baize-net/baize/cmd/internal/fastpath"
)

// What the maps hold, byte by byte; the offsets in layout.go are of these types.

type portValue struct {
	MAC           [6]byte
	_             [2]byte
	Gateway       [6]byte
	_             [2]byte
	Network, Host uint32
	_             [4]byte
	Flag          uint32
	IPv4          [4]byte
	_             [4]byte
	IPv6          [16]byte
}

type localValue struct {
	MAC, Src               [6]byte
	Network, Ifindex, Flag uint32
}

type hopValue struct {
	Node             uint64
	Network, Ifindex uint32
	MAC              [6]byte
	_                [2]byte
	Flag             uint32
	_                [4]byte
}

// The keys of the longest-prefix maps (struct bpf_lpm_trie_key).
type (
	hopKey4 struct {
		Bits uint32
		Addr [4]byte
	}
	hopKey6 struct {
		Bits uint32
		Addr [16]byte
	}
)

type countKey struct {
	Node               uint64
	Ifindex, Direction uint32
}

type countValue struct{ Packets, Bytes uint64 }

// recentValue is what was decided of one endpoint's packets to one address.
type recentValue struct {
	Port, Change   uint32
	Until          uint64
	Dst            [16]byte
	Neigh          [20]byte // struct bpf_redir_neigh
	Out            uint32
	MAC            [6]byte
	_              [2]byte
	Node           uint64
	Packets, Bytes uint64
	MTU            uint32
	_              [4]byte
}

// names are this host's devices, both ways.
type names struct {
	index map[string]uint32
	name  map[uint32]string
}

// unknown starts what stands for the name of a device that is gone.
const unknown = "#"

// of returns the name of an index; one that no device has is written as a number.
func (n names) of(index uint32) string {
	switch name, ok := n.name[index]; {
	case index == 0:
		return ""
	case ok:
		return name
	}
	return unknown + strconv.FormatUint(uint64(index), 10)
}

// to is the way back.
func (n names) to(name string) (uint32, error) {
	if s, ok := strings.CutPrefix(name, unknown); ok {
		i, err := strconv.ParseUint(s, 10, 32)
		return uint32(i), err
	}
	if i, ok := n.index[name]; ok || name == "" {
		return i, nil
	}
	return 0, fmt.Errorf("device %s: there is none", name)
}

func (n names) portValue(p fastpath.Port) (v portValue, err error) {
	v = portValue{MAC: p.MAC, Gateway: p.Gateway, Network: p.Network}
	if v.Host, err = n.to(p.Host); err != nil {
		return v, err
	}
	if p.Gateway != (fastpath.MAC{}) {
		v.Flag |= flagGateway
	}
	if p.IPv4.IsValid() {
		v.Flag, v.IPv4 = v.Flag|flagIPv4, p.IPv4.As4()
	}
	if p.IPv6.IsValid() {
		v.Flag, v.IPv6 = v.Flag|flagIPv6, p.IPv6.As16()
	}
	return v, nil
}

func (n names) port(v portValue) fastpath.Port {
	p := fastpath.Port{Network: v.Network, Host: n.of(v.Host), MAC: v.MAC, Gateway: v.Gateway}
	if v.Flag&flagIPv4 != 0 {
		p.IPv4 = netip.AddrFrom4(v.IPv4)
	}
	if v.Flag&flagIPv6 != 0 {
		p.IPv6 = netip.AddrFrom16(v.IPv6)
	}
	return p
}

func (n names) localValue(l fastpath.Local) (v localValue, err error) {
	v = localValue{MAC: l.MAC, Src: l.Src, Network: l.Network}
	if l.Peer {
		v.Flag = flagPeer
	}
	v.Ifindex, err = n.to(l.Dev)
	return v, err
}

func (n names) local(v localValue) fastpath.Local {
	return fastpath.Local{Network: v.Network, Dev: n.of(v.Ifindex), MAC: v.MAC, Src: v.Src, Peer: v.Flag&flagPeer != 0}
}

func (n names) hopValue(h fastpath.Hop) (v hopValue, err error) {
	v = hopValue{Node: h.Node, Network: h.Network, MAC: h.MAC}
	if h.MAC != (fastpath.MAC{}) {
		v.Flag = flagMAC
	}
	v.Ifindex, err = n.to(h.Dev)
	return v, err
}

func (n names) hop(v hopValue) fastpath.Hop {
	return fastpath.Hop{Network: v.Network, Node: v.Node, Dev: n.of(v.Ifindex), MAC: v.MAC}
}

// hopKey returns the name of the map and the key of a prefix in it.
func hopKey(p netip.Prefix) (string, any) {
	if p.Addr().Is4() {
		return mapHops4, hopKey4{uint32(p.Bits()), p.Addr().As4()}
	}
	return mapHops6, hopKey6{uint32(p.Bits()), p.Addr().As16()}
}

// localKey is hopKey for single addresses.
func localKey(a netip.Addr) (string, any) {
	if a.Is4() {
		return mapLocals4, a.As4()
	}
	return mapLocals6, a.As16()
}
