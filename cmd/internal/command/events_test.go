package command

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/events"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// someEvents are those of an hour before.
func someEvents(before time.Time) []event.Event {
	at := func(minutes int) time.Time { return before.Add(time.Duration(minutes-60) * time.Minute) }
	return []event.Event{
		{
			ID: 1, Time: at(0), Node: "host1", Kind: event.AgentStarted, Subject: "agent", Text: "version v1 starts",
			Version: "v1", Boot: "b",
		},
		{
			ID: 2, Time: at(3), Node: "host1", Kind: event.EndpointAttached, Subject: "endpoint 4f2a", Network: "blue",
			Text: "attached: 10.1.5.2", Cause: "a request of the container engine",
		},
		{
			ID: 3, Time: at(3), Node: "host1", Kind: event.EndpointNamed, Subject: "endpoint 4f2a", Network: "blue",
			Container: "web", Text: "is that of container web",
		},
		{
			ID: 4, Time: at(7), Node: "host1", Kind: event.FaultFound, Subject: "port vx-host2", Code: "BZ0304",
			Text: "it has no number",
		},
		{
			ID: 5, Time: at(8), Node: "host1", Kind: event.SubnetLeased, Subject: "subnet 10.1.5.0/24", Network: "blue",
			Text: "leased by node host2", Cause: "subnets/blue/10.1.5.0-24 at revision 17", Revision: 17,
		},
	}
}

func TestEvents(t *testing.T) {
	t.Setenv("TZ", "UTC")
	f := &fakeAgent{events: someEvents(time.Now())}
	f.serve(t)
	subjects := func(line ...string) []string {
		t.Helper()
		res := baize(t, append([]string{"events", "-q"}, line...)...)
		require.Equal(t, cli.ExitOK, res.code, res.err)
		return strings.Fields(strings.ReplaceAll(res.out, " ", "_"))
	}
	assert.Equal(t, []string{"agent", "endpoint_4f2a", "endpoint_4f2a", "port_vx-host2", "subnet_10.1.5.0/24"}, subjects())
	assert.Equal(t, []string{"endpoint_4f2a", "endpoint_4f2a"}, subjects("--endpoint", "web"))
	assert.Equal(t, []string{"port_vx-host2"}, subjects("--kind", "fault-*"))
	assert.Equal(t, []string{"port_vx-host2"}, subjects("--subject", "HOST2"))
	assert.Equal(t, []string{"subnet_10.1.5.0/24"}, subjects("--network", "blue", "--filter", "revision=17"))
	assert.Equal(t, []string{"port_vx-host2", "subnet_10.1.5.0/24"}, subjects("--since", "55m"))
	assert.Equal(t, []string{"agent"}, subjects("--until", "58m"))
	assert.Empty(t, subjects("--since", "5m"))

	res := baize(t, "events", "-o", "json")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	conforms(t, "event", res.out)
	var list []event.Event
	require.NoError(t, json.Unmarshal([]byte(res.out), &list))
	require.Len(t, list, 5)
	assert.True(t, list[4].Time.Equal(f.events[4].Time), "to the nanosecond")

	res = baize(t, "events", "--kind", "subnet-leased")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	assert.Regexp(t, `(?m)^TIME +KIND +SUBJECT +WHAT +CAUSE$`, res.out)
	assert.Contains(t, res.out, "leased by node host2")
	assert.Contains(t, res.out, "subnets/blue/10.1.5.0-24 at revision 17")
	assert.Contains(t, res.out, f.events[4].Time.Local().Format("2006-01-02 15:04:05.000"))

	res = baize(t, "events", "--since", "5m")
	require.Equal(t, cli.ExitOK, res.code)
	assert.Contains(t, res.err, "--since looks further back")

	for _, tc := range []struct{ line, says string }{
		{"--kind nonsense", "endpoint-attached"},
		{"--since noon", "is no time"},
		{"--since 2h --until 3h", "is before --since"},
		{"--journal /x --follow", "--follow needs an agent"},
	} {
		res := baize(t, append([]string{"events"}, strings.Fields(tc.line)...)...)
		assert.Equal(t, cli.ExitUsage, res.code, tc.line)
		assert.Contains(t, res.err, tc.says, tc.line)
	}
}

// Where no agent runs its journal is read.
func TestEventsOfAStoppedAgent(t *testing.T) {
	dir := t.TempDir()
	j := events.NewJournal(dir, "host1")
	require.NoError(t, j.Add(someEvents(time.Now())...))
	require.NoError(t, j.Close())
	res := baize(t, "events", "--journal", dir, "-o", "json")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	conforms(t, "event", res.out)
	assert.Contains(t, res.out, "leased by node host2")
}

// growing is an output that can be waited for.
type growing struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *growing) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func (g *growing) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.String()
}

// Followed events go on from one agent to the next, each once.
func TestEventsFollow(t *testing.T) {
	sock := t.TempDir() + "/agent.sock"
	t.Setenv("BAIZE_SOCKET", sock)
	now := time.Now()
	one := event.Event{ID: 10, Time: now, Node: "host1", Kind: event.NodeLost, Subject: "node host2", Text: "lost"}
	two := event.Event{ID: 11, Time: now, Node: "host1", Kind: event.AgentStarted, Subject: "agent", Text: "starts"}
	three := event.Event{ID: 12, Time: now, Node: "host1", Kind: event.NodeBack, Subject: "node host2", Text: "back"}
	first := &fakeAgent{events: someEvents(now), follow: make(chan event.Event)}
	stop := first.serveAt(t, sock)

	ctx, cancel := context.WithCancel(t.Context())
	var out, errs growing
	code := make(chan int)
	go func() {
		line := []string{"events", "--follow", "--since", "53m", "-o", "json"}
		code <- Run(ctx, line, Streams{strings.NewReader(""), &out, &errs})
	}()
	has := func(g *growing, text string) func() (bool, string) {
		return func() (bool, string) { return strings.Contains(g.String(), text), g.String() }
	}
	first.follow <- one
	testkit.Await(t, "the first event", has(&out, `"lost"`))
	close(first.follow)
	testkit.Await(t, "it says that it waits", has(&errs, "waiting for the agent"))
	stop()
	next := &fakeAgent{events: append(someEvents(now), one, two), follow: make(chan event.Event)}
	next.serveAt(t, sock)
	next.follow <- three
	testkit.Await(t, "the event of the next agent", has(&out, `"back"`))
	cancel()
	assert.Equal(t, cli.ExitOK, <-code)

	var ids []int64
	for lines := json.NewDecoder(strings.NewReader(out.String())); ; {
		var e event.Event
		err := lines.Decode(&e)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		ids = append(ids, e.ID)
	}
	assert.Equal(t, []int64{5, 10, 11, 12}, ids)
	assert.Equal(t, 1, strings.Count(errs.String(), "waiting"), errs.String())

	t.Setenv("BAIZE_SOCKET", sock+"-none")
	none := baize(t, "events")
	assert.Equal(t, cli.ExitUnavailable, none.code)
	assert.Contains(t, none.err, "--journal")
	res := baize(t, "events", "--follow")
	assert.Equal(t, cli.ExitUnavailable, res.code, "no agent at all")
}

// Several journals are one listing, by time; one that does not answer costs its own part.
func TestEventsOfSeveralNodes(t *testing.T) {
	now := time.Now()
	node := func(name string, minutes ...int) eventSource {
		return func(_ context.Context, q event.Query) ([]event.Event, error) {
			var list []event.Event
			for _, m := range minutes {
				list = append(list, event.Event{ID: 1, Node: name, Kind: event.NodeLost, Time: now.Add(time.Duration(m) * time.Minute)})
			}
			return q.Choose(list), nil
		}
	}
	dead := func(context.Context, event.Query) ([]event.Event, error) {
		return nil, &topology.Error{Kind: topology.ErrUnavailable, Item: "node host3", What: "no answer"}
	}
	list, err := gatherEvents(t.Context(), event.Query{Since: now}, node("host1", -1, 1, 4), node("host2", 2, 3), dead)
	require.ErrorIs(t, err, topology.ErrUnavailable)
	var names []string
	for _, e := range list {
		names = append(names, e.Node)
	}
	assert.Equal(t, []string{"host1", "host2", "host2", "host1"}, names)
	list, err = gatherEvents(t.Context(), event.Query{})
	require.NoError(t, err)
	assert.NotNil(t, list, "no list is null")
}

func TestEventLinesAreAligned(t *testing.T) {
	a := eventLine(event.Event{Time: time.Now(), Kind: event.NodeLost, Subject: "node host2", Text: "WHAT", Cause: "why"})
	b := eventLine(event.Event{Time: time.Now(), Kind: event.EndpointAttached, Subject: "endpoint web", Text: "WHAT"})
	assert.Equal(t, strings.Index(a, "WHAT"), strings.Index(b, "WHAT"))
	assert.True(t, strings.HasSuffix(a, "why\n"))
}

func TestParseWhen(t *testing.T) {
	zone := time.FixedZone("here", 2*3600)
	now := time.Date(2026, 3, 5, 14, 5, 0, 0, zone)
	day := func(d, h, m, s int) time.Time { return time.Date(2026, 3, d, h, m, s, 0, zone) }
	for s, want := range map[string]time.Time{
		"":                     {},
		"14:00":                day(5, 14, 0, 0),
		"14:00:30":             day(5, 14, 0, 30),
		"14:10":                day(4, 14, 10, 0),
		"yesterday 14:03":      day(4, 14, 3, 0),
		"2026-03-01":           day(1, 0, 0, 0),
		"2026-03-01 09:30":     day(1, 9, 30, 0),
		"2026-03-01 09:30:15":  day(1, 9, 30, 15),
		"2026-03-05T12:00:00Z": day(5, 14, 0, 0),
		"90s":                  day(5, 14, 3, 30),
		"2h ago":               day(5, 12, 5, 0),
	} {
		got, err := parseWhen(s, now)
		require.NoError(t, err, s)
		assert.True(t, want.Equal(got), "%s: %s", s, got)
	}
	for _, s := range []string{"noon", "25:00", "yesterday", "-", "14"} {
		_, err := parseWhen(s, now)
		assert.Error(t, err, s)
	}
	for _, tc := range []struct {
		since, until string
		want         time.Time
	}{
		{"14:00", "14:10", day(5, 14, 10, 0)},
		{"yesterday 23:50", "00:10", day(5, 0, 10, 0)},
		{"", "14:10", day(4, 14, 10, 0)},
		{"2026-03-01 10:00", "11:00", day(1, 11, 0, 0)},
		{"14:00", "1m", day(5, 14, 4, 0)},
	} {
		since, err := parseWhen(tc.since, now)
		require.NoError(t, err)
		got, err := parseUntil(tc.until, since, now)
		require.NoError(t, err)
		assert.True(t, tc.want.Equal(got), "%+v: %s", tc, got)
	}
}
