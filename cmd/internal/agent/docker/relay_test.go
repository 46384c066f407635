package docker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

// agents are what the relay finds at the other end, one after another.
type agents struct {
	t      *testing.T
	socket string

	mu    sync.Mutex
	heard []string // methods with their requests' names
}

func newAgents(t *testing.T) *agents {
	return &agents{t: t, socket: filepath.Join(t.TempDir(), "docker.sock")}
}

// start makes an agent that answers with f, and returns its end, as by SIGKILL.
func (a *agents) start(f http.HandlerFunc) (kill func()) {
	l, err := api.Listen(a.socket)
	require.NoError(a.t, err)
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not seen
			if r.URL.Path != "/Plugin.Activate" {
				a.mu.Lock()
				a.heard = append(a.heard, strings.TrimPrefix(r.URL.Path, "/")+" "+r.Header.Get(headerRequest))
				a.mu.Unlock()
			}
			f(w, r)
		},
	)}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	kill = sync.OnceFunc(func() {
		_ = srv.Close()
		assert.ErrorIs(a.t, <-ended, http.ErrServerClosed)
	})
	a.t.Cleanup(kill)
	return kill
}

// methods are those that agents heard of, without the names.
func (a *agents) methods() (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.heard {
		m, _, _ := strings.Cut(h, " ")
		out = append(out, m)
	}
	return out
}

func answerEmpty(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }

// eternal is longer than a test.
const eternal = time.Hour

// A container that starts while the agent is restarted waits for it, and hears
// nothing of the restart.
func TestRequestsWaitForTheNextAgent(t *testing.T) {
	a := newAgents(t)
	r := newRelay(a.socket, "r", quiet())
	r.startPatience = eternal
	asked := make(chan string)
	go func() {
		_, refused := call(t, r.handler(), "NetworkDriver.Join", `{}`)
		asked <- refused
	}()
	require.Eventually(t, r.isMissing, 10*time.Second, time.Millisecond)
	a.start(answerEmpty)
	assert.Empty(t, <-asked)
	assert.False(t, r.isMissing())
}

// An agent that dies over a request leaves it to the next, which is told that
// it is the same one.
func TestUnfinishedRequestsAreRepeated(t *testing.T) {
	a := newAgents(t)
	r := newRelay(a.socket, "r", quiet())
	r.startPatience = eternal
	began := make(chan struct{})
	kill := a.start(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})
	asked := make(chan string)
	go func() {
		_, refused := call(t, r.handler(), "IpamDriver.RequestAddress", `{"PoolID":"x"}`)
		asked <- refused
	}()
	<-began
	kill()
	a.start(answerEmpty)
	assert.Empty(t, <-asked)
	assert.Equal(t, []string{"IpamDriver.RequestAddress r-1", "IpamDriver.RequestAddress r-1"}, a.heard)
}

// Without an agent containers end; those that start wait no longer than an
// engine would. What ended comes first when there is an agent again.
func TestContainersEndWithoutAnAgent(t *testing.T) {
	a := newAgents(t)
	r := newRelay(a.socket, "r", quiet())
	r.startPatience, r.endPatience = 0, 0
	h := r.handler()
	for _, m := range []string{"NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint", "IpamDriver.ReleaseAddress"} {
		_, refused := call(t, h, m, `{"EndpointID":"`+epID+`"}`)
		assert.Empty(t, refused, m)
	}
	for _, m := range startingMethods {
		_, refused := call(t, h, m, `{}`)
		assert.Contains(t, refused, "systemctl start baize", m)
	}
	for _, m := range []string{"Plugin.Activate", "NetworkDriver.GetCapabilities", "IpamDriver.GetDefaultAddressSpaces"} {
		_, refused := call(t, h, m, `{}`)
		assert.Empty(t, refused, m)
	}
	a.start(answerEmpty)
	r.startPatience = eternal // on a busy machine even what answers at once takes time
	_, refused := call(t, h, "IpamDriver.RequestAddress", `{}`)
	assert.Empty(t, refused)
	assert.Equal(t, []string{
		"NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint", "IpamDriver.ReleaseAddress", "IpamDriver.RequestAddress",
	}, a.methods())
}

// Without a request as well, it is told what ended.
func TestWhatEndedIsTold(t *testing.T) {
	a := newAgents(t)
	r := newRelay(a.socket, "r", quiet())
	r.endPatience = 0
	_, refused := call(t, r.handler(), "NetworkDriver.Leave", `{}`)
	require.Empty(t, refused)
	a.start(answerEmpty)
	go r.payLoop(t.Context())
	require.Eventually(t, func() bool { return len(a.methods()) == 1 }, 10*time.Second, 5*time.Millisecond)
}

// An agent that hangs keeps no engine waiting for ever; one that is slow may be.
func TestAgentHangs(t *testing.T) {
	a := newAgents(t)
	r := newRelay(a.socket, "r", quiet())
	r.startPatience, r.endPatience = 0, 0
	l, err := api.Listen(a.socket) // and nobody accepts
	require.NoError(t, err)
	_, refused := call(t, r.handler(), "NetworkDriver.Join", `{}`)
	assert.Contains(t, refused, "does not answer")
	assert.Contains(t, refused, "systemctl restart baize")
	_, refused = call(t, r.handler(), "NetworkDriver.Leave", `{}`)
	assert.Empty(t, refused)
	require.NoError(t, l.Close())

	asked := make(chan struct{}) // whether it lives
	once := sync.OnceFunc(func() { close(asked) })
	a.start(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/Plugin.Activate":
			once()
		case "/NetworkDriver.CreateNetwork":
			<-asked
		}
		answerEmpty(w, r)
	})
	_, refused = call(t, r.handler(), "NetworkDriver.CreateNetwork", `{}`)
	assert.Empty(t, refused)
}

// startedRelay runs a relay on a socket of the test's own.
func startedRelay(t *testing.T, agentSocket string) (socket string, ended chan error) {
	socket, ended = filepath.Join(t.TempDir(), "baize.sock"), make(chan error, 1)
	go func() { ended <- Relay(t.Context(), socket, agentSocket, quiet()) }()
	require.Eventually(t, func() bool {
		return follow(t.Context(), socket, func(identity) bool { return false }) == nil
	}, 10*time.Second, 5*time.Millisecond)
	return socket, ended
}

// A request that is on its way when the relay is dismissed is answered by the relay, and so
// is the next one on a connection that an engine has kept: sent again, it would have no body.
func TestRelayIsDismissed(t *testing.T) {
	a := newAgents(t)
	kill := a.start(answerEmpty)
	socket, ended := startedRelay(t, a.socket)
	dial := func() net.Conn {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(c net.Conn) {
		_, err := io.WriteString(c, "POST /IpamDriver.RequestAddress HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		require.NoError(t, err)
	}
	answered := func(c net.Conn, last bool) {
		t.Helper()
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, answer.Body)
		require.NoError(t, answer.Body.Close())
		assert.Equal(t, http.StatusOK, answer.StatusCode)
		assert.Equal(t, last, answer.Close)
	}
	kept, underway := dial(), dial()
	for _, c := range []net.Conn{kept, underway} {
		ask(c)
		answered(c, false)
	}
	kill()
	ask(underway)

	Dismiss(t.Context(), socket)
	next, err := api.Listen(socket)
	require.NoError(t, err, "the socket is free")
	defer next.Close()
	a.start(answerEmpty) // the next agent
	answered(underway, true)
	ask(kept)
	answered(kept, true)
	require.NoError(t, <-ended, "nobody is connected any more")
	for _, c := range []net.Conn{kept, underway} {
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err)
	}
	require.Len(t, a.methods(), 4)
}

// A dry run of the cleanup, which an agent may outlive, leaves the relay where it is.
func TestDryCleanupKeepsTheRelay(t *testing.T) {
	a := newAgents(t)
	a.start(answerEmpty)
	p := &Part{settings: Settings{Socket: a.socket}, plugin: &Plugin{file: filepath.Join(t.TempDir(), "none")}}
	_, err := p.Cleanup(t.Context(), part.Undo{DryRun: true})
	require.NoError(t, err)
	require.Empty(t, a.methods())
	_, err = p.Cleanup(t.Context(), part.Undo{})
	require.NoError(t, err)
	require.Len(t, a.methods(), 1)
}

// The relay knows of its agent's end at once: who asks long afterwards does not
// wait.
func TestRelayIsFollowed(t *testing.T) {
	r := newRelay(filepath.Join(t.TempDir(), "docker.sock"), "r", quiet())
	socket := filepath.Join(t.TempDir(), "baize.sock")
	l, err := api.Listen(socket)
	require.NoError(t, err)
	is := identity{"program", "agent"}
	go func() { _ = r.serve(t.Context(), l, socket, is) }()
	ctx, end := context.WithCancel(t.Context())
	err = follow(ctx, socket, func(found identity) bool {
		assert.Equal(t, is, found)
		assert.False(t, r.isMissing())
		end()
		return true
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, r.isMissing, 10*time.Second, time.Millisecond)
}

// An agent that was started again goes on with what the one before it began:
// the endpoint is known, and a repeated request gets the address of the first.
func TestAnAgentGoesOn(t *testing.T) {
	n := &node{networks: []topology.Network{blue}}
	p := newPlugin(t, n)
	h := p.Handler()
	must := func(h http.Handler, method, body string) map[string]any {
		answer, refused := call(t, h, method, body)
		require.Empty(t, refused, method)
		return answer
	}
	must(h, "IpamDriver.RequestPool", `{"Pool":"10.1.0.0/16","Options":{"baize.network":"blue"}}`)
	must(h, "NetworkDriver.CreateNetwork", creation("10.1.0.0/16", ""))
	must(h, "NetworkDriver.CreateEndpoint", `{"NetworkID":"`+netID+`","EndpointID":"`+epID+`",
		"Interface":{"Address":"10.1.5.2/16"}}`)

	next := New(n, p.file, filepath.Join(t.TempDir(), "no-engine.sock"), quiet())
	next.load()
	answer := must(next.Handler(), "NetworkDriver.Join", `{"NetworkID":"`+netID+`","EndpointID":"`+epID+`"}`)
	assert.Equal(t, "dev0", answer["InterfaceName"].(map[string]any)["SrcName"])
	require.Len(t, n.endpoints, 1)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("10.1.5.2")}, n.endpoints[0].IPs)
}

// What fails because the agent ends is not answered: the next agent will do it.
func TestStoppingRefusesNothing(t *testing.T) {
	p := newPlugin(t, &node{})
	p.stopping.Store(true)
	w := errors.New("none")
	func() {
		defer func() { w, _ = recover().(error) }()
		call(t, p.Handler(), "NetworkDriver.Join", `{}`)
	}()
	assert.ErrorIs(t, w, http.ErrAbortHandler)
}
