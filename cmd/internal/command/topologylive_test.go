package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/answers"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// pictureOf are n hosts with tunnels between all of them.
func pictureOf(n int) draw.Topology {
	t := draw.Topology{Networks: []draw.Network{{Name: "blue", Transport: topology.VXLAN}}}
	for i := range n {
		t.Nodes = append(t.Nodes, draw.Node{Name: fmt.Sprintf("host%d", i+1), Status: draw.Ready})
		for j := range i {
			t.Tunnels = append(t.Tunnels, draw.Tunnel{A: fmt.Sprintf("host%d", j+1), B: fmt.Sprintf("host%d", i+1), Encap: topology.VXLAN})
		}
	}
	return t
}

func after(seconds int, links ...api.Link) *api.Traffic {
	return &api.Traffic{At: api.Duration(time.Duration(seconds) * time.Second), Ready: true, Endpoints: 2, Links: links}
}

func link(node, state string, sent, received uint64) api.Link {
	none := 0
	return api.Link{
		Node: node, Encap: topology.VXLAN, State: state, LossOut: &none, RTT: api.Duration(400 * time.Microsecond),
		Counted: &api.LinkCounters{SentBytes: sent, SentPackets: sent / 1000, ReceivedBytes: received, ReceivedPackets: received / 1000},
	}
}

func drawn(l live, rows int) []string {
	var out bytes.Buffer
	l.draw(&out, rows, false)
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestLive(t *testing.T) {
	some := 7
	broken := link("host3", api.StateLossy, 0, 0)
	broken.LossOut = &some
	a := panels.Answered{
		Before: map[string]*api.Traffic{
			"host1": after(100, link("host2", "ok", 1_000_000, 0), link("host3", "ok", 0, 0)),
			"host2": after(500, link("host1", "ok", 0, 1_000_000)),
		},
		Now: map[string]*api.Traffic{
			"host1": after(110, link("host2", "ok", 2_250_000, 0), broken),
			"host2": after(510, link("host1", "ok", 0, 2_250_000)),
		},
		Silent: map[string]error{"host3": errors.New("no answer")},
	}
	require.Equal(t, []string{
		"3 hosts, 1 network, 3 links: 1.00 Mbit/s 125 p/s",
		"",
		"HOST       STATE  ENDPOINTS  LINKS                 SENT             RECEIVED",
		"host1      ready          2      2  1.00 Mbit/s 125 p/s        0 bit/s 0 p/s",
		"host2      ready          2      2        0 bit/s 0 p/s  1.00 Mbit/s 125 p/s",
		"host3  no answer          -      2        0 bit/s 0 p/s        0 bit/s 0 p/s",
		"",
		"LINK            OVER  STATE                    →              ←  LOSS → ←     RTT",
		"host1 ↔ host2  vxlan     ok  1.00 Mbit/s 125 p/s  0 bit/s 0 p/s     0% 0%  0.40ms",
		"host1 ↔ host3  vxlan  lossy        0 bit/s 0 p/s  0 bit/s 0 p/s      7% -  0.40ms",
		"host2 ↔ host3  vxlan      -                    -              -         -       -",
	}, drawn(liveOf(pictureOf(3), a), 0))

	// An agent that began anew, and counters that did, are no rates.
	a.Before["host1"], a.Before["host2"] = after(900), after(900)
	require.Contains(t, drawn(liveOf(pictureOf(3), a), 0)[0], "links: -")
	// A fault, a tunnel without a port.
	down := link("host2", "", 0, 0)
	down.Down = true
	a.Now["host1"] = after(120, down)
	a.Now["host1"].Errors = 1
	out := strings.Join(drawn(liveOf(pictureOf(3), a), 0), "\n")
	require.Regexp(t, `(?m)^host1 +1 error`, out)
	require.Regexp(t, `(?m)^host1 ↔ host2 +vxlan +no port`, out)
}

// Routed packets have no tunnel; the picture has a link all the same.
func TestLiveRoutes(t *testing.T) {
	top := pictureOf(2)
	top.Tunnels = nil
	top.Networks[0].Transport = topology.Route
	top.Networks[0].Members = []draw.Member{{Node: "host1"}, {Node: "host2"}}
	routed := link("host1", "ok", 0, 0)
	routed.Encap = topology.Route
	a := panels.Answered{Now: map[string]*api.Traffic{"host2": after(1, routed)}}
	require.Regexp(t, `host1 ↔ host2 +route +ok`, strings.Join(drawn(liveOf(top, a), 0), "\n"))
	top.Networks[0].Members = top.Networks[0].Members[:1]
	require.Empty(t, liveOf(top, a).links)
}

// Fifty hosts have room on a screen: what is wrong comes first, then what is busy.
func TestLiveOfMany(t *testing.T) {
	a := panels.Answered{Before: map[string]*api.Traffic{}, Now: map[string]*api.Traffic{}}
	for i := range 50 {
		name := fmt.Sprintf("host%d", i+1)
		a.Before[name], a.Now[name] = after(10), after(20)
		for j := range 50 {
			if i != j {
				peer := fmt.Sprintf("host%d", j+1)
				a.Before[name].Links = append(a.Before[name].Links, link(peer, "ok", 0, 0))
				a.Now[name].Links = append(a.Now[name].Links, link(peer, "ok", uint64(i*1_000_000), uint64(j*1_000_000)))
			}
		}
	}
	a.Now["host7"].Ready = false
	a.Now["host5"].Links[20].State = api.StateSilent // to host22
	l := liveOf(pictureOf(50), a)
	for _, rows := range []int{40, 24, 12, 9, 3} {
		out := drawn(l, rows)
		require.LessOrEqual(t, len(out), max(rows-1, 9), "%d rows: %s", rows, strings.Join(out, "\n"))
		require.Contains(t, out[0], "50 hosts, 1 network, 1225 links")
	}
	out := drawn(l, 24)
	require.Regexp(t, `^host7 +not ready`, out[3])
	require.Regexp(t, `^host50 +ready`, out[4])
	text := strings.Join(out, "\n")
	require.Regexp(t, `(?m)^… 45 more, 0 with trouble: [0-9.]+ .bit/s`, text)
	require.Regexp(t, `(?m)OVER.*\nhost5 ↔ host22 +vxlan +no answer.*\nhost49 ↔ host50`, text)
	require.Regexp(t, `(?m)^… 1214 more, 1214 ok, 0 with trouble, 0 not known: `, text)
	require.Len(t, drawn(l, 0), 1+2+50+2+1225, "all of it")
}

func TestRateText(t *testing.T) {
	for want, r := range map[string]*panels.Rate{
		"-": nil, "0 bit/s 0 p/s": {}, "999 bit/s 1 p/s": {Bits: 999, Packets: 1}, "1.00 kbit/s 10.0 kp/s": {Bits: 1000, Packets: 10_000},
		"12.3 Mbit/s 123 kp/s": {Bits: 12_345_678, Packets: 123_456}, "1.50 Gbit/s 0 p/s": {Bits: 1.5e9, Packets: 0.2},
	} {
		assert.Equal(t, want, rateText(r))
	}
}

// The picture lives: it follows what agents answer and what the records say, is drawn
// over the one before, and ends with Ctrl-C.
func TestTopologyWatch(t *testing.T) {
	s := cluster(t)
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	began := time.Now()
	for name, peer := range map[string]string{"host1": "host2", "host2": "host1"} {
		kinds := answers.Kinds{api.TrafficKind: func(context.Context, json.RawMessage) (any, error) {
			at := time.Since(began)
			sent := uint64(at.Seconds() * 250_000) // 2 Mbit/s
			x := api.Traffic{At: api.Duration(at), Ready: true, Endpoints: 3, Links: []api.Link{link(peer, "ok", sent, sent)}}
			return x, nil
		}}
		part := answers.New(name, s, kinds, logrus.NewEntry(quiet))
		running.Go(func() { _ = part.Run(ctx) })
	}
	tty, seen, ended := terminalSized(t, pty.Winsize{Rows: 30, Cols: 120}, nil, "topology", "--watch")
	wait := func(what string, parts ...string) {
		t.Helper()
		testkit.Await(t, what, func() (bool, string) {
			drawings := strings.Split(seen(), "\x1b[H")
			last := drawings[len(drawings)-1]
			for _, p := range parts {
				if !strings.Contains(last, p) {
					return false, last
				}
			}
			return true, ""
		})
	}
	wait("what agents count", "3 hosts, 2 networks", "\x1b[32mready\x1b[0m", "\x1b[31mdown\x1b[0m", "host1 ↔ host2", "2.00 Mbit/s", "4.00 Mbit/s")
	require.Equal(t, 0, baize(t, "network", "create", "green", "--subnet", "10.3.0.0/16").code)
	wait("what the records say", "3 hosts, 3 networks")
	_, err := tty.Write([]byte{3}) // Ctrl-C
	require.NoError(t, err)
	require.NoError(t, <-ended, "the way it is meant to end")
	assert.Contains(t, seen(), "\x1b[?25h", "the cursor is back")
	assert.Equal(t, 1, strings.Count(seen(), "\x1b[2J"), "it does not flicker")
}

func TestTopologyWatchIsForPeople(t *testing.T) {
	cluster(t)
	res := baize(t, "topology", "--watch", "-o", "svg")
	require.Equal(t, 2, res.code)
	require.Contains(t, res.err, "--watch is for people")
}
