package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// NameServer are the sockets of a name server inside a network namespace.
type NameServer struct {
	UDP net.PacketConn
	TCP net.Listener
}

// nameTable is the nftables table (family ip) that leads to them.
const nameTable = "baize"

const domainPort = 53

// ListenNames opens the sockets of a name server in a namespace (a path or a
// name), which get what is sent there to port 53 of an IPv4 loopback address.
// They listen on other ports, so that port 53 stays free for a name server of
// the container's own, also one that listens on all addresses:
//
//	table ip baize {
//	  chain names {
//	    type nat hook output priority dstnat;
//	    ip daddr 127.0.0.12 udp dport 53 dnat to 127.0.0.12:40001
//	    ip daddr 127.0.0.12 tcp dport 53 dnat to 127.0.0.12:40001
//	  }
//	}
//
// Sockets of an earlier call get nothing any more. Once the sockets are closed,
// with their process or before, whoever asks is refused at once.
func ListenNames(netns string, at netip.Addr) (s NameServer, err error) {
	ns, err := openNetns(netns)
	if err != nil {
		return s, err
	}
	defer ns.Close()
	err = inNetns(ns, func() error {
		free := netip.AddrPortFrom(at, 0)
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(free))
		if err != nil {
			return err
		}
		tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(free))
		if err != nil {
			return errors.Join(err, udp.Close())
		}
		s = NameServer{udp, tcp}
		return nil
	})
	item := "name server in " + netns
	if err != nil {
		return s, failed(item, "listening", err)
	}
	if err := s.redirect(ns, at); err != nil {
		return NameServer{}, failed(item, "leading to it (nftables)", errors.Join(err, s.Close()))
	}
	return s, nil
}

// Close closes the sockets.
func (s NameServer) Close() error { return errors.Join(s.UDP.Close(), s.TCP.Close()) }

func (s NameServer) redirect(ns *os.File, at netip.Addr) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	table := &nftables.Table{Name: nameTable, Family: nftables.TableFamilyIPv4}
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == nameTable }) {
		c.DelTable(table)
	}
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Name:     "names",
		Table:    table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityNATDest,
	})
	for proto, a := range map[byte]net.Addr{unix.IPPROTO_UDP: s.UDP.LocalAddr(), unix.IPPROTO_TCP: s.TCP.Addr()} {
		to, err := netip.ParseAddrPort(a.String())
		if err != nil {
			return fmt.Errorf("the socket's own address: %w", err)
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: redirectTo(proto, at, to.Port())})
	}
	return c.Flush()
}

// redirectTo matches packets of a protocol to port 53 of an IPv4 address and
// gives them another port.
func redirectTo(proto byte, at netip.Addr, port uint16) []expr.Any {
	ip := at.As4()
	number := func(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
	const reg, reg2 = 1, 2
	equals := func(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: b} }
	const destination, destinationPort = 16, 2 // offsets: RFC 791 section 3.1, RFC 768
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		equals([]byte{proto}),
		&expr.Payload{
			DestRegister: reg,
			Base:         expr.PayloadBaseNetworkHeader,
			Offset:       destination,
			Len:          uint32(len(ip)),
		},
		equals(ip[:]),
		&expr.Payload{
			DestRegister: reg,
			Base:         expr.PayloadBaseTransportHeader,
			Offset:       destinationPort,
			Len:          2,
		},
		equals(number(domainPort)),
		&expr.Immediate{Register: reg, Data: ip[:]},
		&expr.Immediate{Register: reg2, Data: number(port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg, RegProtoMin: reg2},
	}
}
