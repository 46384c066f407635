package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	urfave "github.com/urfave/cli/v2"
	"go.uber.org/goleak"

	"github.com/baize-net/baize/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type item struct {
	Name string       `json:"name"`
	IPs  []netip.Addr `json:"ips"`
	Text string       `json:"text,omitempty"`
}

func listing() (Table, []item) {
	items := []item{
		{Name: "host1", IPs: []netip.Addr{netip.MustParseAddr("10.1.5.2"), netip.MustParseAddr("fd00::2")}, Text: "a <b>"},
		{Name: "longer-host10"},
	}
	t := Table{Columns: append(Columns("name", "+text", "ips", "ready"), Column{Name: "flows", Right: true})}
	for i, it := range items {
		t.Rows = append(t.Rows, []any{it.Name, it.Text, it.IPs, i == 0, 7 * (1 + 20*i)})
	}
	return t, items
}

func printed(t *testing.T, f Format, table Table, value any) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Print(&b, f, table, value))
	return b.String()
}

func TestPrint(t *testing.T) {
	table, items := listing()
	assert.Equal(t, ""+
		"NAME            IPS                READY   FLOWS\n"+
		"host1           10.1.5.2,fd00::2   yes         7\n"+
		"longer-host10   -                  no        147\n", printed(t, FormatTable, table, items))
	assert.Equal(t, ""+
		"NAME            TEXT    IPS                READY   FLOWS\n"+
		"host1           a <b>   10.1.5.2,fd00::2   yes         7\n"+
		"longer-host10   -       -                  no        147\n", printed(t, FormatWide, table, items))
	out := printed(t, FormatJSON, table, items)
	assert.Contains(t, out, "  {\n    \"name\": \"host1\"")
	assert.Contains(t, out, "a <b>")
	var back []item
	require.NoError(t, json.Unmarshal([]byte(out), &back))
	items[1].IPs = []netip.Addr{}
	assert.Equal(t, items, back)
	assert.Equal(t,
		"- ips:\n  - 10.1.5.2\n  - fd00::2\n  name: host1\n  text: a <b>\n- ips: []\n  name: longer-host10\n",
		printed(t, FormatYAML, table, items))
	require.ErrorIs(t, Print(&bytes.Buffer{}, "xml", table, items), topology.ErrInvalid)
}

// U14: what is a list in JSON is one at any depth, and what writes itself is left alone.
func TestListsAreNeverNull(t *testing.T) {
	type inner struct {
		L    []int          `json:"l"`
		M    map[string]int `json:"m"`
		O    []int          `json:"o,omitempty"`
		hide []int
	}
	type outer struct {
		In   inner            `json:"in"`
		P    *inner           `json:"p"`
		Q    *inner           `json:"q"`
		List []inner          `json:"list"`
		Map  map[string]inner `json:"map"`
		Any  any              `json:"any"`
		At   time.Time        `json:"at"`
		Addr netip.Addr       `json:"addr"`
	}
	v := outer{P: &inner{hide: []int{1}}, List: make([]inner, 1), Map: map[string]inner{"x": {}}, Any: inner{}}
	b, err := json.Marshal(withLists(v))
	require.NoError(t, err)
	const empty = `{"l":[],"m":{}}`
	assert.JSONEq(t, `{"in":`+empty+`,"p":`+empty+`,"q":null,"list":[`+empty+`],"map":{"x":`+empty+`},"any":`+empty+
		`,"at":"0001-01-01T00:00:00Z","addr":""}`, string(b))
	assert.Nil(t, v.List[0].L, "what it was given stays as it is")
	assert.Nil(t, withLists(nil))
}

func TestPrintNothing(t *testing.T) {
	table := Table{Columns: Columns("name", "+text")}
	assert.Equal(t, "NAME\n", printed(t, FormatTable, table, nil))
	table.Empty = "no nodes yet"
	assert.Equal(t, "no nodes yet\n", printed(t, FormatTable, table, nil))
	assert.Equal(t, "[]\n", printed(t, FormatJSON, table, []item(nil)))
	assert.Equal(t, "[]\n", printed(t, FormatYAML, table, []item(nil)))
}

func TestPrintNamesAndTemplates(t *testing.T) {
	table, items := listing()
	table.Names = []string{"host1", "longer\n-host10"}
	assert.Equal(t, "host1\nlonger -host10\n", printed(t, FormatName, table, items))
	assert.Equal(t, "host1 longer-host10\n", printed(t, "jsonpath={[*].name}", table, items))
	assert.Equal(t, "N               TEXT\nhost1           a <b>\nlonger-host10   <none>\n",
		printed(t, "custom-columns=N:.name,TEXT:text", table, items))
	assert.Equal(t, "n   1000000000000\n", printed(t, "custom-columns=A:.a,B:.b",
		Table{NoHeaders: true}, []map[string]any{{"a": "n", "b": int64(1e12)}}), "no float")
	table.NoHeaders = true
	assert.NotContains(t, printed(t, FormatTable, table, items), "NAME")
	require.ErrorIs(t, Print(&bytes.Buffer{}, "jsonpath={", table, items), topology.ErrInvalid)
}

func TestPaint(t *testing.T) {
	table := Table{Columns: []Column{{Name: "a"}, {Name: "s", State: true}, {Name: "b"}}, Color: true}
	for _, s := range []string{"ready", "down", "other"} {
		table.Rows = append(table.Rows, []any{s, s, "x"})
	}
	assert.Equal(t, "A       S       B\n"+
		"ready   \x1b[32mready\x1b[0m   x\n"+
		"down    \x1b[31mdown\x1b[0m    x\n"+
		"other   other   x\n", printed(t, FormatTable, table, nil))
}

func TestQuery(t *testing.T) {
	known := Fields{"n": "integer", "ip": "string", "on": "boolean", "sub": "object", "sub.p": "string"}
	items := []any{
		map[string]any{"n": int64(10), "ip": "10.1.9.2", "on": true, "sub": []any{map[string]any{"p": "a"}}},
		map[string]any{"n": int64(9), "ip": "10.1.10.2", "sub": []any{map[string]any{"p": "b"}, map[string]any{"p": "a"}}},
		map[string]any{"ip": "fd00::1", "sub": nil},
	}
	for _, tc := range []struct {
		filters []string
		sort    string
		want    []int
	}{
		{nil, "", []int{0, 1, 2}},
		{[]string{"n=9"}, "", []int{1}},
		{[]string{"n=0"}, "", []int{2}},
		{[]string{"n=9", "n=10"}, "", []int{0, 1}},
		{[]string{"n=9", "on=true"}, "", nil},
		{[]string{"on=false"}, "", []int{1, 2}},
		{[]string{"ip=10.1.*"}, "", []int{0, 1}},
		{[]string{"ip=10.1."}, "", nil},
		{[]string{"sub.p=a"}, "", []int{0, 1}},
		{[]string{"sub.p="}, "", []int{2}},
		{nil, "n", []int{2, 1, 0}},
		{nil, "-n", []int{0, 1, 2}},
		{nil, "ip", []int{0, 1, 2}},
		{nil, "sub.p", []int{2, 0, 1}},
		{[]string{"sub.p=*"}, "-ip", []int{2, 1, 0}},
	} {
		q, err := ParseQuery(known, tc.filters, tc.sort)
		require.NoError(t, err)
		assert.Equal(t, tc.want, q.Select(items), "%v %s", tc.filters, tc.sort)
	}
	for _, bad := range [][2]string{{"x=1", ""}, {"n", ""}, {"sub=1", ""}, {"n=1", "x"}, {"n=1", "-sub"}, {"n=\xff", ""}} {
		_, err := ParseQuery(known, bad[:1], bad[1])
		require.ErrorIs(t, err, topology.ErrInvalid, "%v", bad)
	}
	_, err := ParseQuery(known, []string{"x=1"}, "")
	assert.ErrorContains(t, err, "use one of ip, n, on, sub.p")
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "now", 900 * time.Millisecond: "now", 59 * time.Second: "59s ago", 3 * time.Minute: "3m ago",
		47 * time.Hour: "47h ago", 48 * time.Hour: "2d ago", 400 * 24 * time.Hour: "400d ago",
	} {
		assert.Equal(t, want, Ago(d))
	}
	assert.Equal(t, "3m ago", Cell(time.Now().Add(-200*time.Second)), "for people; JSON has RFC 3339")
}

func TestFit(t *testing.T) {
	assert.Equal(t, "a\nb\n", fit("a\nb\n", 3))
	assert.Equal(t, "a\n… 2 more lines\n", fit("a\nb\nc\n", 3))
	assert.Equal(t, "a\n… 1 more lines\n", fit("a\nb\n", 1))
}

func TestCell(t *testing.T) {
	for _, tc := range []struct {
		v    any
		want string
	}{
		{nil, "-"}, {"", "-"}, {"x", "x"}, {true, "yes"}, {false, "no"}, {0, "0"}, {uint64(7), "7"},
		{netip.Addr{}, "-"}, {netip.MustParseAddr("::1"), "::1"}, {netip.Prefix{}, "-"},
		{netip.MustParsePrefix("10.0.0.0/8"), "10.0.0.0/8"},
		{[]string{"a", "b"}, "a,b"}, {[]string{}, "-"}, {topology.VXLAN, "vxlan"},
		{topology.Transports(), "vxlan,gre,geneve,route,auto,auto-gre,auto-geneve"},
		{time.Time{}, "-"}, {1500 * time.Millisecond, "1.5s"},
		{topology.MACOf(netip.MustParseAddr("10.1.5.2")), "02:42:0a:01:05:02"},
		{"two\nlines\x1b[31m", "two lines [31m"}, {errors.New("oops"), "oops"},
	} {
		assert.Equal(t, tc.want, Cell(tc.v), "%#v", tc.v)
	}
}

func TestExitCode(t *testing.T) {
	for kind, want := range map[error]int{
		nil: 0, errors.New("other"): 1, topology.ErrInvalid: 2, topology.ErrNotFound: 3,
		topology.ErrExists: 4, topology.ErrConflict: 4, topology.ErrInUse: 4, topology.ErrUnavailable: 5, topology.ErrFull: 6,
		context.DeadlineExceeded: 5, context.Canceled: 130, &ExitStatus{Code: 42}: 42, &exec.ExitError{}: 1,
	} {
		assert.Equal(t, want, ExitCode(kind), "%v", kind)
		if kind != nil {
			assert.Equal(t, want, ExitCode(fmt.Errorf("doing: %w", kind)), "%v, wrapped", kind)
			assert.Equal(t, want, ExitCode(&topology.Error{Kind: kind}), "%v, as a refusal", kind)
		}
	}
	full := &ExitStatus{Code: 3, Err: topology.ErrFull}
	require.ErrorIs(t, full, topology.ErrFull)
	assert.Equal(t, "full", full.Error())
	assert.Equal(t, "exit status 3", (&ExitStatus{Code: 3}).Error())
}

// step runs a step of the given length without waiting for it.
func step(t *testing.T, takes time.Duration, fail error) (out string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		err := NewProgress(&b).Step(t.Context(), "waiting for OVS", func(context.Context) error {
			time.Sleep(takes) // the bubble's clock: no time passes
			return fail
		})
		require.Equal(t, fail, err)
		out = b.String()
	})
	return out
}

func TestProgressInPlainLines(t *testing.T) {
	assert.Empty(t, step(t, 900*time.Millisecond, nil))
	assert.Equal(t, "waiting for OVS ...\nwaiting for OVS: done in 3.2s\n", step(t, 3200*time.Millisecond, nil))
	assert.Equal(t, "waiting for OVS ...\n", step(t, 3*time.Second, errors.New("no")),
		"the caller reports the error")
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		require.NoError(t, NewProgress(&b).Count(t.Context(), "hosts", 3, func(_ context.Context, done func(int)) error {
			for i := range 3 {
				time.Sleep(700 * time.Millisecond)
				done(i + 1)
			}
			return nil
		}))
		assert.Equal(t, "hosts 1/3 ...\nhosts: done in 2.1s\n", b.String())
	})
	assert.Panics(t, func() {
		_ = NewProgress(&bytes.Buffer{}).Step(t.Context(), "x", func(context.Context) error { panic("x") })
	})
}

// watchWriter closes seen when a write holds text.
type watchWriter struct {
	bytes.Buffer
	text string
	seen chan struct{}
	once sync.Once
}

func (w *watchWriter) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(w.text)) {
		w.once.Do(func() { close(w.seen) })
	}
	return w.Buffer.Write(b)
}

func TestProgressOnATerminal(t *testing.T) {
	w := &watchWriter{text: "hosts 2/3", seen: make(chan struct{})}
	p := &Progress{w: w, terminal: true, delay: time.Millisecond}
	err := p.Count(t.Context(), "hosts", 3, func(ctx context.Context, done func(int)) error {
		done(2)
		select {
		case <-w.seen:
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("nothing was drawn")
		}
	})
	require.NoError(t, err)
	assert.Regexp(t, `hosts: done in .*s\n$`, w.String())
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l, err := NewLogger(&b, "warn", "json")
	require.NoError(t, err)
	l.Info("not shown")
	l.WithField("peer", "host2").Warn("gone")
	var line map[string]string
	require.NoError(t, json.Unmarshal(b.Bytes(), &line))
	assert.Equal(t, "gone", line["msg"])
	assert.Equal(t, "host2", line["peer"])

	b.Reset()
	t.Setenv("JOURNAL_STREAM", "8:123")
	l, err = NewLogger(&b, "debug", "text")
	require.NoError(t, err)
	l.Debug("shown")
	assert.Equal(t, "level=debug msg=shown\n", b.String())

	for _, bad := range [][2]string{{"loud", "text"}, {"panic", "text"}, {"", "text"}, {"info", "xml"}} {
		_, err := NewLogger(&b, bad[0], bad[1])
		require.ErrorIs(t, err, topology.ErrInvalid, "%v", bad)
	}
}

func TestFlags(t *testing.T) {
	assert.Equal(t, []string{"BAIZE_ETCD_ENDPOINTS"}, Env("etcd-endpoints"))
	var level string
	run := func(args ...string) error {
		app := &urfave.App{
			Name: "baize", Flags: LogFlags(), OnUsageError: OnUsageError,
			Writer: &bytes.Buffer{}, ErrWriter: &bytes.Buffer{},
			Action: func(c *urfave.Context) error {
				l, err := Logger(c, &bytes.Buffer{})
				if err != nil {
					return err
				}
				level = l.GetLevel().String()
				return nil
			},
		}
		return app.Run(append([]string{"baize"}, args...))
	}
	require.NoError(t, run())
	assert.Equal(t, "info", level)
	require.NoError(t, run("--log-level", "debug"))
	assert.Equal(t, "debug", level)
	t.Setenv("BAIZE_LOG_LEVEL", "warn")
	require.NoError(t, run())
	assert.Equal(t, "warning", level)
	err := run("--no-such-flag")
	assert.Equal(t, ExitUsage, ExitCode(err))
	assert.True(t, strings.Contains(err.Error(), "no-such-flag") && strings.Contains(err.Error(), "--help"), "%v", err)
	assert.Equal(t, ExitUsage, ExitCode(run("--log-level", "loud")))
}
