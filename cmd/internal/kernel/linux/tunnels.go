package linux

import (
	"encoding/binary"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
)

var tunnelTable = &nftables.Table{Name: kernel.TunnelTable, Family: nftables.TableFamilyINet}

func tunnelChain() *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Name: kernel.TunnelChain, Table: tunnelTable, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityRef(kernel.TunnelPriority), Policy: &accept,
	}
}

func setTunnels(ports []kernel.TunnelPort) error { return setTable(tunnelChain(), ports, encodeTunnel) }

// encodeTunnel is the rule that kernel.TunnelPort.String writes.
func encodeTunnel(p kernel.TunnelPort) []expr.Any {
	protocol := byte(unix.IPPROTO_GRE)
	if p.UDP != 0 {
		protocol = unix.IPPROTO_UDP
	}
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
	if p.UDP != 0 {
		out = append(out,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(p.UDP))})
	}
	return append(out,
		// There is no route to the sender by the device that it came in by.
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
}

// decodeTunnel writes a rule as kernel.TunnelPort does, and says what it has counted.
func decodeTunnel(exprs []expr.Any) (text string, drops uint64) {
	var p kernel.TunnelPort
	bare := slices.Clone(exprs)
	for i, e := range bare {
		switch x := e.(type) {
		case *expr.Counter:
			drops = x.Packets
			bare[i] = &expr.Counter{}
		case *expr.Cmp:
			if len(x.Data) == 2 {
				p.UDP = int(binary.BigEndian.Uint16(x.Data))
			}
		}
	}
	if !reflect.DeepEqual(bare, encodeTunnel(p)) {
		return foreignRule, 0
	}
	return p.String(), drops
}

// readTunnels reads the table as kernel.TunnelTableText writes it, "" where there is
// none, and what its rules have dropped.
func readTunnels() (text string, drops uint64, err error) {
	lines, err := readTable(tunnelChain(), func(exprs []expr.Any) string {
		line, n := decodeTunnel(exprs)
		drops += n
		return line
	})
	return kernel.TunnelTableText(lines), drops, err
}
