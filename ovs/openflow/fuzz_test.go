package openflow

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/baize-net/baize/ovs"
)

// FuzzPrinted: whatever Open vSwitch prints, of this version or another one, is read or
// passed over. Lines that are kept are ones that it printed.
func FuzzPrinted(f *testing.F) {
	for _, out := range []string{
		"OFPST_FLOW reply (OF1.4) (xid=0x2):\n cookie=0xba12000000000001, duration=0.466s, table=3, n_packets=7, " +
			"n_bytes=518, idle_timeout=5, priority=10,ip actions=drop\n",
		" cookie=0x0, duration=1s, table=0, n_packets=0, n_bytes=0, reset_counts priority=0 actions=NORMAL\n",
		"-table=1  cookie=0xba12000000000001 actions=drop\n+table=1  cookie=0xba12000000000001 actions=output:1\n",
		"netdev@ovs-netdev:\n  lookups: hit:29147 missed:78 lost:7\n  flows: 2\n",
		"netdev@ovs-netdev:\n  flows         : (current 2) (avg 10) (max 30) (limit 200000)\n  dump duration : 1ms\n",
		"recirc_id(0),tunnel(tun_id=0x64,src=192.0.2.1,dst=192.0.2.2,flags(-df-csum+key)),in_port(4),eth(src=02:42:0a:01:05:02," +
			"dst=ff:ff:ff:ff:ff:ff),eth_type(0x0806),arp(sip=10.1.5.2,tip=10.1.6.2,op=1/0xff), packets:3, bytes:126, " +
			"used:1.2s, actions:drop\n",
	} {
		f.Add(out, out)
	}
	flow := ovs.BoundFlow{Flow: ovs.Flow{Table: 1, Actions: "drop"}, Cookie: 0xba12000000000001}
	f.Fuzz(func(t *testing.T, out, more string) {
		for _, line := range parseDump(out).Foreign {
			if !strings.Contains(out, line) {
				t.Fatalf("nobody printed %q", line)
			}
		}
		for _, id := range parseDiff(out, map[ovs.FlowID]ovs.BoundFlow{flow.ID(): flow}).Del {
			if !ovs.OwnCookie(id.Cookie) {
				t.Fatalf("a flow of somebody else would be deleted: %v", id)
			}
		}
		parseDatapaths(out, more)
		for line := range strings.Lines(out) {
			ParseDropped(line)
			if installed, ok := ParseFlow(line); ok {
				if again, ok := ParseFlow(installed.Line); !ok || again != installed {
					t.Fatalf("%q is read as %+v, and as %+v", line, installed, again)
				}
			}
		}
	})
}

// FuzzMessages: whatever the switch sends is read to its end or refused, and a message that
// was read is the one that was sent.
func FuzzMessages(f *testing.F) {
	f.Add(hello().bytes())
	f.Add(append(hello().bytes(), setConfig().bytes()...))
	f.Add(packetOut(7, 100, []byte("frame")).bytes())
	f.Add(meterControllers(100, 10).bytes())
	f.Add([]byte{5, 10, 0, 34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			m, err := readMessage(r)
			if err != nil {
				return
			}
			if _, err := parsePacketIn(m.body); err != nil && !errors.Is(err, errTruncated) {
				t.Fatal(err)
			}
			parseError(m.body)
			for rest := m.body; ; {
				_, size := parseMeter(rest)
				if size == 0 {
					break
				}
				rest = rest[size:]
			}
			parseMeterStats(m.body)
			if size := new(Fingerprint).add(bytes.Clone(m.body)); size > len(m.body) {
				t.Fatalf("a flow of %d bytes in %d", size, len(m.body))
			}
			again, err := readMessage(io.LimitReader(bytes.NewReader(m.bytes()), int64(headerSize+len(m.body))))
			if err != nil || again.kind != m.kind || again.xid != m.xid || !bytes.Equal(again.body, m.body) {
				t.Fatalf("%+v was sent as %+v: %v", m, again, err)
			}
		}
	})
}
