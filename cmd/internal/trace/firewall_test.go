package trace_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/topology"
)

// filter has a base chain of the hook forward, and what is given.
func filter(more string) trace.Filter {
	return parsed(
		`{"chain":{"family":"inet","table":"t","name":"c","handle":1,"type":"filter","hook":"forward","prio":0,` +
			`"policy":"accept"}},` +
			`{"chain":{"family":"inet","table":"t","name":"sub","handle":2}},` + more,
	)
}

func parsed(text string) trace.Filter {
	f, err := trace.ParseFilter(
		[]byte(`{"nftables":[{"metainfo":{"version":"1.0.6"}},{"table":{"family":"inet","name":"t"}},` + text + `]}`),
	)
	if err != nil {
		panic(err)
	}
	return f
}

func rule(chain, expr string) string {
	return `{"rule":{"family":"inet","table":"t","chain":"` + chain + `","handle":7,"expr":[` + expr + `]}}`
}

func TestFilter(t *testing.T) {
	from, to := netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("10.1.2.2")
	p := forward.IP(topology.MACOf(from), topology.MACOf(to), from, to)
	p.Set(forward.TPDst, 53)
	packet := trace.Passing{In: "bn-blue", Out: "eth0", From: from, To: to, Packet: p}
	payload := func(protocol, field, right string) string {
		return `{"match":{"op":"==","left":{"payload":{"protocol":"` + protocol + `","field":"` + field + `"}},` +
			`"right":` + right + `}}`
	}
	meta := func(op, key, right string) string {
		return `{"match":{"op":"` + op + `","left":{"meta":{"key":"` + key + `"}},"right":` + right + `}}`
	}
	vmap := func(key, entries string) string {
		return `{"vmap":{"key":` + key + `,"data":{"set":[` + entries + `]}}}`
	}
	const drop, accept = `,{"counter":{"packets":0,"bytes":0}},{"drop":null}`, `,{"accept":null}`
	for text, want := range map[string]string{
		rule("c", payload("ip", "daddr", `"10.1.2.2"`)+drop):                                                   "drop",
		rule("c", payload("ip", "daddr", `"10.1.2.3"`)+drop):                                                   "",
		rule("c", payload("ip", "saddr", `{"prefix":{"addr":"10.1.0.0","len":16}}`)+drop):                      "drop",
		rule("c", payload("ip", "saddr", `{"set":["10.9.9.9",{"prefix":{"addr":"10.1.1.0","len":24}}]}`)+drop): "drop",
		rule("c", payload("ip6", "saddr", `"fd00::1"`)+drop):                                                   "",
		rule("c", payload("udp", "dport", `53`)+drop):                                                          "drop",
		rule("c", payload("tcp", "dport", `53`)+drop):                                                          "",
		rule("c", meta("==", "iifname", `"bn-*"`)+drop):                                                        "drop",
		rule("c", meta("!=", "iifname", `"bn-*"`)+drop):                                                        "",
		rule("c", meta("==", "oifname", `"eth0"`)+`,{"reject":{"type":"icmp","expr":"port-unreachable"}}`):     "drop",
		rule("c", meta("==", "l4proto", `"udp"`)+accept) + "," + rule("c", `{"drop":null}`):                    "",
		rule("c", `{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}}`+accept) + "," +
			rule("c", `{"drop":null}`): "drop",
		rule("c", `{"jump":{"target":"sub"}}`) + "," + rule("sub", payload("ip", "daddr", `"10.1.2.2"`)+drop): "drop",
		rule("c", `{"jump":{"target":"sub"}}`) + "," + rule("sub", `{"return":null}`) + "," +
			rule("c", `{"drop":null}`): "drop",
		rule("c", `{"goto":{"target":"sub"}}`) + "," + rule("c", `{"drop":null}`):                              "",
		rule("c", payload("ip", "daddr", `"@blocked"`)+drop):                                                   "unsure",
		rule("c", `{"xt":{"type":"match","name":"recent"}}`+drop):                                              "unsure",
		rule("c", `{"xt":{"type":"match","name":"recent"}}`+accept) + "," + rule("c", `{"drop":null}`):         "unsure",
		rule("c", meta("==", "iifname", `"eth9"`)+`,{"xt":{"type":"match","name":"recent"}}`+drop):             "",
		rule("c", `{"xt":{"type":"target","name":"REJECT"}}`):                                                  "drop",
		rule("c", `{"xt":{"type":"match","name":"recent"}},{"xt":{"type":"target","name":"REJECT"}}`):          "unsure",
		rule("c", `{"xt":{"type":"target","name":"NFQUEUE"}}`):                                                 "unsure",
		rule("c", `{"xt":{"type":"target","name":"LOG"}}`):                                                     "",
		rule("c", `{"queue":{"num":1}}`):                                                                       "unsure",
		rule("c", payload("ip", "daddr", `"10.1.2.3"`)+`,{"queue":{"num":1}}`):                                 "",
		rule("c", vmap(`{"ct":{"key":"state"}}`, `["established",{"accept":null}],["new",{"drop":null}]`)):     "drop",
		rule("c", vmap(`{"ct":{"key":"state"}}`, `["established",{"accept":null}],["invalid",{"drop":null}]`)): "",
		rule("c", vmap(`{"meta":{"key":"iifname"}}`, `["bn-*",{"jump":{"target":"sub"}}]`)) + "," +
			rule("sub", `{"drop":null}`): "drop",
		rule("c", vmap(`{"payload":{"protocol":"tcp","field":"dport"}}`, `[53,{"drop":null}]`)): "",
		rule("c", vmap(`{"meta":{"key":"mark"}}`, `[1,{"drop":null}]`)):                         "unsure",
		rule("c", `{"vmap":{"key":{"ct":{"key":"state"}},"data":"@verdicts"}}`):                 "unsure",
	} {
		j := filter(text).Judge(packet)
		got := map[bool]string{true: "drop"}[j.Drop]
		if j.Unsure != "" {
			got = "unsure"
		}
		require.Equal(t, want, got, "%s: %+v", text, j)
	}
}

func TestFilterHooks(t *testing.T) {
	from, to := netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("10.1.2.2")
	packet := trace.Passing{
		In:     "bn-blue",
		Out:    "eth0",
		From:   from,
		To:     to,
		Packet: forward.IP(topology.MACOf(from), topology.MACOf(to), from, to),
	}
	chain := func(family, hook, more string) string {
		return `{"chain":{"family":"` + family + `","table":"t","name":"x","handle":1,` +
			`"hook":"` + hook + `","prio":0` + more + `}}`
	}
	for text, want := range map[string]bool{
		chain("ip", "forward", `,"policy":"drop"`):                       true,
		chain("ip6", "forward", `,"policy":"drop"`):                      false,
		chain("ip", "input", `,"policy":"drop"`):                         false,
		chain("bridge", "forward", `,"policy":"drop"`):                   false,
		chain("inet", "postrouting", `,"policy":"drop"`):                 true,
		chain("netdev", "ingress", `,"dev":"bn-blue","policy":"drop"`):   true,
		chain("netdev", "ingress", `,"dev":["bn-blue"],"policy":"drop"`): true,
		chain("netdev", "ingress", `,"dev":"bzc1","policy":"drop"`):      false,
		chain("ip", "prerouting", `,"policy":"accept","prio":-300`):      false,
	} {
		j := parsed(text).Judge(packet)
		require.Equal(t, want, j.Drop, "%s: %+v", text, j)
	}
	require.Equal(t, "nft: not found", trace.Filter{Unread: "nft: not found"}.Judge(packet).Unsure)
	_, err := trace.ParseFilter([]byte("no JSON"))
	require.Error(t, err)
}
