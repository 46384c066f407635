package console

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves a console until the test ends, and returns its address: http://…/.
func serve(t testing.TB, cfg Config) (c *Console, base string) {
	t.Helper()
	c = New(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	return c, "http://" + l.Addr().String() + "/"
}

// client keeps no connection for later.
var client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testkit.Patience}

// get asks for a path; header are name, value pairs.
func get(t testing.TB, method, url string, header ...string) (status int, h http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, string(b)
}

func threeHosts() *part.Cell[Topology] { return cell(Topology{Snapshot: snapshotOf(madeUp(3)...)}) }

func TestFilesAndHeaders(t *testing.T) {
	_, base := serve(t, Config{Topology: threeHosts()})
	for path, kind := range map[string]string{
		"": "text/html", "app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml",
	} {
		status, h, body := get(t, "GET", base+path)
		assert.Equal(t, 200, status, path)
		assert.Contains(t, h.Get("Content-Type"), kind)
		assert.NotEmpty(t, body)
		assert.Equal(t, policy, h.Get("Content-Security-Policy"), path)
		assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		assert.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
		assert.Empty(t, h.Get("Set-Cookie"))
	}
	assert.NotContains(t, policy, "unsafe")
	status, h, _ := get(t, "GET", base+"api/v1/state")
	assert.Equal(t, 200, status)
	assert.Equal(t, "no-store", h.Get("Cache-Control"))
	assert.Contains(t, h.Get("Content-Type"), "application/json")
}

// The page names nothing outside: what it links to are documents, in new tabs.
func TestFilesNameNothingOutside(t *testing.T) {
	entries, err := files.ReadDir("web")
	require.NoError(t, err)
	require.Greater(t, len(entries), 5)
	for _, e := range entries {
		b, err := files.ReadFile("web/" + e.Name())
		require.NoError(t, err)
		for line := range strings.Lines(string(b)) {
			rest := strings.NewReplacer("http://www.w3.org/2000/svg", "", "https://github.com/baize-net/baize/blob/main/docs/", "").Replace(line)
			assert.NotContains(t, rest, "://", e.Name())
			assert.NotContains(t, rest, "innerHTML", e.Name())
			assert.NotContains(t, rest, "eval(", e.Name())
		}
	}
}

func TestRefusals(t *testing.T) {
	_, base := serve(t, Config{Topology: threeHosts(), Tracer: tracer{}})
	for name, tc := range map[string]struct {
		method, path string
		header       []string
		status       int
		want         string
	}{
		"writing":           {"POST", "api/v1/state", nil, 405, "only reads"},
		"deleting a file":   {"DELETE", "app.js", nil, 405, "only reads"},
		"no such path":      {"GET", "api/v2/state", nil, 404, "no such path"},
		"no such file":      {"GET", "nothing.js", nil, 404, "not found"},
		"out of the folder": {"GET", "..%2f..%2fserver.go", nil, 404, ""},
		"out, encoded":      {"GET", "web/%2e%2e/%2e%2e/server.go", nil, 404, ""},
		"another site":      {"GET", "api/v1/state", []string{"Host", "evil.example:7474"}, 421, "localhost"},
		"another site, /":   {"GET", "", []string{"Host", "evil.example"}, 421, "localhost"},
		"localhost":         {"GET", "api/v1/state", []string{"Host", "localhost:7474"}, 200, "host1"},
		"IPv6":              {"GET", "api/v1/state", []string{"Host", "[::1]:7474"}, 200, "host1"},
		"a host":            {"GET", "api/v1/hosts/host1", nil, 200, "192.168.77.12"},
		"no such host":      {"GET", "api/v1/hosts/host9", nil, 404, `no host \"host9\"`},
		"trace from where":  {"GET", "api/v1/trace?to=10.1.3.9", nil, 400, "where"},
		"trace of what":     {"GET", "api/v1/trace?from=a&to=b&protocol=gre", nil, 400, "icmp, tcp or udp"},
		"trace to no port":  {"GET", "api/v1/trace?from=a&to=b&protocol=tcp", nil, 400, "need a port"},
		"trace, odd port":   {"GET", "api/v1/trace?from=a&to=b&protocol=tcp&port=70000", nil, 400, "need a port"},
		"trace of nobody":   {"GET", "api/v1/trace?from=a&to=b", nil, 404, "there is none"},
		"trace":             {"GET", "api/v1/trace?from=host1/web&to=10.1.3.9&protocol=tcp&port=443", nil, 200, "Dropped on host3"},
	} {
		t.Run(name, func(t *testing.T) {
			status, _, body := get(t, tc.method, base+tc.path, tc.header...)
			assert.Equal(t, tc.status, status, body)
			assert.Contains(t, body, tc.want)
		})
	}
}

func TestNoTracer(t *testing.T) {
	_, base := serve(t, Config{Topology: threeHosts()})
	status, _, _ := get(t, "GET", base+"api/v1/trace?from=a&to=b")
	assert.Equal(t, 404, status)
	_, _, body := get(t, "GET", base+"api/v1/state")
	assert.Contains(t, body, `"panels":[]`)
}

func TestToken(t *testing.T) {
	_, base := serve(t, Config{Topology: threeHosts(), Token: "correct-horse-battery"})
	for name, tc := range map[string]struct {
		header []string
		status int
	}{
		"none":            {nil, 401},
		"right":           {[]string{"Authorization", "Bearer correct-horse-battery"}, 200},
		"wrong":           {[]string{"Authorization", "Bearer correct-horse-batterz"}, 401},
		"a part":          {[]string{"Authorization", "Bearer correct"}, 401},
		"empty":           {[]string{"Authorization", "Bearer "}, 401},
		"without Bearer":  {[]string{"Authorization", "correct-horse-battery"}, 401},
		"any host's name": {[]string{"Authorization", "Bearer correct-horse-battery", "Host", "host1.example:7474"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"api/v1/state", "api/v1/hosts/host1"} {
				status, _, body := get(t, "GET", base+path, tc.header...)
				assert.Equal(t, tc.status, status)
				assert.Equal(t, status == 200, strings.Contains(body, "192.168.77.1"), body)
			}
		})
	}
	status, _, _ := get(t, "GET", base+"api/v1/stream")
	assert.Equal(t, 401, status)
	status, _, _ = get(t, "GET", base+"api/v1/state?token=correct-horse-battery")
	assert.Equal(t, 401, status, "an address is kept in logs: no token in it")
	status, _, _ = get(t, "GET", base)
	assert.Equal(t, 200, status, "the page itself tells nothing, and asks for the token")
}

// events opens the stream, and gives its events until the test ends.
func events(t *testing.T, base string, header ...string) <-chan [2]string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"api/v1/stream", nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	assert.Contains(t, resp.Header.Get("Content-Type"), "text/event-stream")
	out, ended := make(chan [2]string, 100), make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended; resp.Body.Close() })
	go func() {
		defer close(ended)
		defer close(out)
		var body io.Reader = resp.Body
		if resp.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(resp.Body)
			if err != nil {
				return
			}
			body = z
		}
		name := ""
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, 8<<20)
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				out <- [2]string{name, v}
			}
		}
	}()
	return out
}

// next waits for an event of a section.
func next(t *testing.T, from <-chan [2]string, section string) string {
	t.Helper()
	limit := time.After(testkit.Patience)
	for {
		select {
		case e, ok := <-from:
			require.True(t, ok, "the stream ended")
			if e[0] == section {
				return e[1]
			}
		case <-limit:
			require.FailNow(t, "no event", section)
		}
	}
}

func TestStream(t *testing.T) {
	for name, header := range map[string][]string{"plain": {"Accept-Encoding", "identity"}, "gzip": {"Accept-Encoding", "gzip"}} {
		t.Run(name, func(t *testing.T) {
			topo, agent := threeHosts(), cell(agentOf("host1"))
			c, base := serve(t, Config{Topology: topo, Agent: agent, Findings: cell(findingsOf())})
			from := events(t, base, header...)
			assert.Contains(t, next(t, from, "agent"), `"node":"host1"`)
			assert.Contains(t, next(t, from, "findings"), "path MTU")
			var s State
			require.NoError(t, json.Unmarshal([]byte(next(t, from, "state")), &s))
			assert.Len(t, s.Hosts, 3)
			assert.Equal(t, []string{"findings"}, s.Panels)
			assert.Equal(t, 1, c.Watched().Get())

			topo.Set(Topology{Snapshot: snapshotOf(madeUp(4)...)})
			require.NoError(t, json.Unmarshal([]byte(next(t, from, "state")), &s))
			assert.Len(t, s.Hosts, 4)

			// The same again is no event: the next one is that of the change after it.
			topo.Set(Topology{Snapshot: snapshotOf(madeUp(4)...)})
			agent.Set(Agent{})
			select {
			case e := <-from:
				assert.Equal(t, [2]string{"agent", `{"status":null}`}, e)
			case <-time.After(testkit.Patience):
				require.Fail(t, "no event")
			}
		})
	}
}

// A stream ends with the console, which does not wait for it.
func TestStreamEndsWithTheConsole(t *testing.T) {
	c := New(Config{Topology: threeHosts()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(ctx, l) }()
	from := events(t, "http://"+l.Addr().String()+"/")
	next(t, from, "state")
	cancel()
	for range from { // until it is closed
	}
	require.NoError(t, <-ended)
	assert.Zero(t, c.Watched().Get())
}

// There is a bound to the streams, and a page that has gone makes room.
func TestStreamsAreBounded(t *testing.T) {
	c, base := serve(t, Config{Topology: threeHosts()})
	c.watched.Set(maxStreams)
	status, h, body := get(t, "GET", base+"api/v1/stream")
	assert.Equal(t, 503, status)
	assert.Contains(t, body, "100 pages")
	assert.NotEmpty(t, h.Get("Retry-After"))
	assert.Equal(t, maxStreams, c.Watched().Get())
	c.watched.Set(maxStreams - 1)
	next(t, events(t, base), "state")
	c.watched.Set(1)
}

// Streams that come and go together are counted right: what nobody looks at is not
// asked for.
func TestStreamsAreCounted(t *testing.T) {
	c := New(Config{Topology: threeHosts()})
	var streams sync.WaitGroup
	for range maxStreams {
		streams.Go(func() {
			for range 1000 {
				if c.enter() {
					c.leave()
				}
			}
		})
	}
	streams.Wait()
	assert.Zero(t, c.Watched().Get())
}

// A client that does not read costs its own connection only: others get every
// change, and what it has missed is not kept for it.
func TestSlowClient(t *testing.T) {
	topo := cell(Topology{Snapshot: snapshotOf(madeUp(200)...)})
	c, base := serve(t, Config{Topology: topo})
	u, err := url.Parse(base)
	require.NoError(t, err)
	slow, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
	require.NoError(t, err)
	defer slow.Close()
	require.NoError(t, slow.(*net.TCPConn).SetReadBuffer(4096))
	_, err = io.WriteString(slow, "GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	testkit.Await(t, "the slow one is there", func() (bool, string) { return c.Watched().Get() == 1, "" })

	from := events(t, base)
	next(t, from, "state")
	for n := 201; n < 206; n++ {
		topo.Set(Topology{Snapshot: snapshotOf(madeUp(n)...)})
		for {
			var s State
			require.NoError(t, json.Unmarshal([]byte(next(t, from, "state")), &s))
			if len(s.Hosts) == n {
				break
			}
		}
	}
	assert.Len(t, c.shown.Get(), 1, "one section, its newest form")
}

// Nothing known yet is said, not shown as an empty cluster.
func TestNothingKnownYet(t *testing.T) {
	topo := part.NewCell[Topology](nil)
	_, base := serve(t, Config{Topology: topo})
	status, _, _ := get(t, "GET", base+"api/v1/state")
	assert.Equal(t, 503, status)
	from := events(t, base)
	next(t, from, "beat")
	topo.Set(Topology{Snapshot: snapshotOf(madeUp(3)...)})
	next(t, from, "state")
}

// The console as a part of an agent: what is wrong with it is its own error, and it is
// served once that was mended. The agent is asked while somebody looks.
func TestPart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	asked := func(context.Context) Agent { return agentOf("host1") }
	log := logrus.New()
	log.SetOutput(io.Discard)
	p := NewPart(Access{Listen: taken.Addr().String()}, Config{Topology: threeHosts()}, asked, func(context.Context, Value[int]) {}, logrus.NewEntry(log))
	require.ErrorContains(t, p.Run(t.Context()), "name another address")
	open := NewPart(Access{Listen: "0.0.0.0:0"}, Config{Topology: threeHosts()}, asked, func(context.Context, Value[int]) {}, logrus.NewEntry(log))
	require.ErrorContains(t, open.Run(t.Context()), "--token-file")

	base := "http://" + taken.Addr().String() + "/"
	require.NoError(t, taken.Close())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	testkit.Await(t, "it listens", func() (bool, string) {
		resp, err := client.Get(base)
		if err != nil {
			return false, err.Error()
		}
		return resp.Body.Close() == nil, ""
	})
	from := events(t, base)
	assert.Contains(t, next(t, from, "agent"), `"node":"host1"`)
	cancel()
	require.NoError(t, <-ended)
	assert.Empty(t, p.Faults())
}

// However pages come and go, what they show is asked for every so often, and not at all
// while there is none.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watched, out := part.NewCell[int](nil), part.NewCell[int](nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		var asked atomic.Int32
		go Follow(ctx, watched, 10*time.Second, func(context.Context) (int, error) {
			n := asked.Add(1)
			if n == 2 {
				return 0, errors.New("no answer")
			}
			return int(n), nil
		}, out)
		pass(time.Hour)
		require.False(t, out.Known())
		for n := range 9 { // a page is opened each second
			watched.Set(n + 1)
			pass(time.Second)
			require.Equal(t, 1, out.Get())
		}
		watched.Set(0)
		pass(time.Hour)
		require.EqualValues(t, 1, asked.Load())
		watched.Set(1)
		pass(time.Second)
		require.EqualValues(t, 2, asked.Load())
		require.Equal(t, 1, out.Get(), "what was stays where there is no answer")
		pass(10 * time.Second)
		require.Equal(t, 3, out.Get())
	})
}

func TestAs(t *testing.T) {
	n := part.NewCell[int](nil)
	text := As[int, bool](n, func(v int) bool { return v > 1 })
	assert.False(t, text.Known())
	n.Set(2)
	assert.True(t, text.Get())
	assert.True(t, text.Known())
}
