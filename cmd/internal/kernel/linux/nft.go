package linux

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
)

var natTable = &nftables.Table{Name: kernel.Table, Family: nftables.TableFamilyINet}

func natChain() *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Name: kernel.NATChain, Table: natTable, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityRef(kernel.NATPriority), Policy: &accept,
	}
}

func setNAT(rules []kernel.NATRule) error { return setTable(natChain(), rules, encode) }

// setTable replaces the table of a chain in one transaction: without rules there is no
// table. Its counters begin anew.
func setTable[R any](chain *nftables.Chain, rules []R, encode func(R) []expr.Any) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	if len(rules) > 0 {
		c.AddTable(chain.Table) // so that there is something to delete
	}
	c.DelTable(chain.Table)
	if len(rules) > 0 {
		c.AddTable(chain.Table)
		c.AddChain(chain)
		for _, r := range rules {
			c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: encode(r)})
		}
	}
	return c.Flush()
}

// readNAT reads the table as kernel.NATTable writes it; "" where there is none.
func readNAT() (string, error) {
	lines, err := readTable(natChain(), decode)
	return kernel.NATTable(lines), err
}

// readTable reads the rules of a table with one chain, a line each, as decode writes
// them; none where there is no table. What Baize does not make is in the text as a line
// that no wanted one equals.
func readTable(want *nftables.Chain, decode func([]expr.Any) string) ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTablesOfFamily(want.Table.Family)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil, nil // a kernel without nftables
	}
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == want.Table.Name })
	if i < 0 {
		return nil, nil
	}
	lines, err := readChains(c, want, decode)
	if tables[i].Flags != 0 {
		lines = append(lines, fmt.Sprintf("# flags %d", tables[i].Flags))
	}
	return lines, err
}

// readChains reads the rules of the one chain, and notes what else there is.
func readChains(c *nftables.Conn, want *nftables.Chain, decode func([]expr.Any) string) ([]string, error) {
	chains, err := c.ListChainsOfTableFamily(want.Table.Family)
	if err != nil {
		return nil, err
	}
	var lines []string
	there := false
	for _, chain := range chains {
		if chain.Table.Name != want.Table.Name {
			continue
		}
		if !sameChain(chain, want) {
			lines = append(lines, "# chain "+chain.Name)
			continue
		}
		there = true
		rules, err := c.GetRules(want.Table, chain)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			lines = append(lines, decode(r.Exprs))
		}
	}
	if !there {
		lines = append(lines, "# no chain "+want.Name)
	}
	return lines, nil
}

func sameChain(a, b *nftables.Chain) bool {
	return a.Name == b.Name && a.Type == b.Type && a.Hooknum != nil && *a.Hooknum == *b.Hooknum &&
		a.Priority != nil && *a.Priority == *b.Priority && (a.Policy == nil || *a.Policy == *b.Policy)
}

// side is one of a packet's addresses: its place in the header (RFC 791, RFC
// 8200).
type side struct{ v4, v6 uint32 }

var src, dst = side{12, 8}, side{16, 24}

func encode(r kernel.NATRule) []expr.Any {
	var out []expr.Any
	match := func(s side, p netip.Prefix, op expr.CmpOp) {
		if !p.IsValid() {
			return
		}
		proto, offset, length := byte(unix.NFPROTO_IPV4), s.v4, uint32(4)
		if p.Addr().Is6() {
			proto, offset, length = unix.NFPROTO_IPV6, s.v6, 16
		}
		if len(out) == 0 { // the table has both families
			out = append(
				out,
				&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			)
		}
		out = append(
			out,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
			&expr.Bitwise{
				SourceRegister: 1,
				DestRegister:   1,
				Len:            length,
				Mask:           net.CIDRMask(p.Bits(), int(length)*8),
				Xor:            make([]byte, length),
			},
			&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
		)
	}
	match(src, r.Src, expr.CmpOpEq)
	op := expr.CmpOpEq
	if r.NotDst {
		op = expr.CmpOpNeq
	}
	match(dst, r.Dst, op)
	if r.Return {
		return append(out, &expr.Verdict{Kind: expr.VerdictReturn})
	}
	return append(out, &expr.Masq{})
}

// foreignRule stands for a rule that encode does not make.
const foreignRule = "# a rule that is not Baize's"

// decode writes a rule as kernel.NATRule does. It reads what encode makes, and
// what nft(8) makes of the same text.
func decode(exprs []expr.Any) string {
	r, ok := decodeVerdict(exprs)
	if !ok {
		return foreignRule
	}
	rest := exprs[:len(exprs)-1]
	proto := byte(0)
	if len(rest) >= 2 {
		if proto, ok = decodeProto(rest[0], rest[1]); !ok {
			return foreignRule
		}
		rest = rest[2:]
	}
	for len(rest) > 0 {
		m, n := decodeMatch(rest)
		switch {
		case n == 0 || m.proto != proto:
			return foreignRule
		case !m.dst && m.op == expr.CmpOpEq && !r.Src.IsValid():
			r.Src = m.prefix
		case m.dst && !r.Dst.IsValid():
			r.Dst, r.NotDst = m.prefix, m.op == expr.CmpOpNeq
		default:
			return foreignRule
		}
		rest = rest[n:]
	}
	return r.String()
}

func decodeVerdict(exprs []expr.Any) (r kernel.NATRule, ok bool) {
	if len(exprs) == 0 {
		return r, false
	}
	switch v := exprs[len(exprs)-1].(type) {
	case *expr.Verdict:
		r.Return = v.Kind == expr.VerdictReturn
		return r, r.Return
	case *expr.Masq:
		return r, *v == expr.Masq{}
	}
	return r, false
}

// decodeProto reads "meta nfproto", which limits a rule of this table to a family.
func decodeProto(a, b expr.Any) (proto byte, ok bool) {
	meta, ok1 := a.(*expr.Meta)
	cmp, ok2 := b.(*expr.Cmp)
	if !ok1 || !ok2 || meta.Key != expr.MetaKeyNFPROTO || cmp.Op != expr.CmpOpEq || len(cmp.Data) != 1 {
		return 0, false
	}
	return cmp.Data[0], true
}

// addrMatch is one comparison of an address: the source, or the destination.
type addrMatch struct {
	dst    bool
	proto  byte
	prefix netip.Prefix
	op     expr.CmpOp
}

// fields are the comparisons by their offset in the header: no two have the same.
var fields = map[uint32]addrMatch{
	src.v4: {proto: unix.NFPROTO_IPV4}, dst.v4: {proto: unix.NFPROTO_IPV4, dst: true},
	src.v6: {proto: unix.NFPROTO_IPV6}, dst.v6: {proto: unix.NFPROTO_IPV6, dst: true},
}

// decodeMatch reads one comparison and returns of how many expressions it is
// made; 0: it is none.
func decodeMatch(e []expr.Any) (m addrMatch, n int) {
	load, ok := e[0].(*expr.Payload)
	if !ok || load.Base != expr.PayloadBaseNetworkHeader || load.OperationType != expr.PayloadLoad {
		return m, 0
	}
	m, ok = fields[load.Offset]
	length := map[byte]int{unix.NFPROTO_IPV4: 4, unix.NFPROTO_IPV6: 16}[m.proto]
	ones, n := decodeMask(e, length)
	if !ok || ones < 0 || len(e) < n {
		return m, 0
	}
	cmp, ok := e[n-1].(*expr.Cmp)
	if !ok || len(cmp.Data) > length || (cmp.Op != expr.CmpOpEq && cmp.Op != expr.CmpOpNeq) {
		return m, 0
	}
	addr, _ := netip.AddrFromSlice(append(slices.Clone(cmp.Data), make([]byte, length-len(cmp.Data))...))
	m.prefix, m.op = netip.PrefixFrom(addr, ones), cmp.Op
	return m, n
}

// decodeMask returns the length of the prefix, -1 for none, and how many
// expressions there are up to the comparison. nft(8) loads no more bytes than the
// prefix has, where it ends with one.
func decodeMask(e []expr.Any, length int) (ones, n int) {
	ones = int(e[0].(*expr.Payload).Len) * 8
	if len(e) < 2 {
		return -1, 0
	}
	mask, ok := e[1].(*expr.Bitwise)
	if !ok {
		return ones, 2
	}
	ones, bits := net.IPMask(mask.Mask).Size()
	if bits != length*8 || len(bytes.Trim(mask.Xor, "\x00")) > 0 {
		return -1, 0
	}
	return ones, 3
}
