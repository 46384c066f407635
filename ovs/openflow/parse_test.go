package openflow

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
)

func TestParseDump(t *testing.T) {
	const out = `OFPST_FLOW reply (OF1.4) (xid=0x2):
 cookie=0xba12000000000001, duration=0.466s, table=3, n_packets=7, n_bytes=518, idle_timeout=5, priority=10,ip actions=drop
 cookie=0xba12000000000002, duration=1s, table=0, n_packets=0, n_bytes=0, actions=NORMAL
 cookie=0x0, duration=1s, table=0, n_packets=0, n_bytes=0, reset_counts priority=0 actions=NORMAL
`
	require.Equal(t, Observed{
		Flows: []FlowStats{
			{ovs.FlowID{Table: 3, Cookie: 0xba12000000000001}, 7, 518},
			{ovs.FlowID{Table: 0, Cookie: 0xba12000000000002}, 0, 0},
		},
		Foreign: []string{"cookie=0x0, duration=1s, table=0, n_packets=0, n_bytes=0, reset_counts priority=0 actions=NORMAL"},
	}, parseDump(out))
	require.Empty(t, parseDump(""))
}

func TestParseDiff(t *testing.T) {
	f := ovs.BoundFlow{Flow: ovs.Flow{Table: 1, Actions: "drop"}, Cookie: 0xba12000000000001}
	id := f.ID()
	wanted := map[ovs.FlowID]ovs.BoundFlow{id: f}
	for name, tc := range map[string]struct {
		out  string
		want Audit
	}{
		"same":    {"", Audit{}},
		"missing": {"-table=1  cookie=0xba12000000000001 actions=drop\n", Audit{Add: []ovs.BoundFlow{f}}},
		"altered": {
			"-table=1  cookie=0xba12000000000001 actions=drop\n+table=1  cookie=0xba12000000000001 actions=output:1\n",
			Audit{Add: []ovs.BoundFlow{f}, Del: []ovs.FlowID{id}},
		},
		"extra": {
			"+priority=5,ip cookie=0xba12000000000009 actions=drop\n",
			Audit{Del: []ovs.FlowID{{Table: 0, Cookie: 0xba12000000000009}}},
		},
		"foreign":                   {"+table=9 tcp cookie=0x77 actions=drop\n+table=9 udp actions=drop\n", Audit{}},
		"its actions name a cookie": {"+table=9 tcp cookie=0x77 actions=learn(table=1,cookie=0xba12000000000001)\n", Audit{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := parseDiff(tc.out, wanted)
			got.Lines = nil
			require.Equal(t, tc.want, got)
		})
	}
}
