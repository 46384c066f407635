package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
)

// The relay's own methods, which its agent calls.
const (
	// following is answered with what the relay is, and then not ended: either
	// side sees the end of the other.
	following = "/Relay.Follow"
	// dismissal ends the relay. Its name is that of what stood there before: a new
	// agent ends that as well.
	dismissal = "/StandIn.Dismiss"
)

// identity is what a relay is.
type identity struct {
	// Program tells executable files apart: after an upgrade the old relay is
	// replaced.
	Program string
	// Agent is the socket that it passes requests to.
	Agent string
}

// programOf tells an executable file from its successor.
func programOf(file string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return fmt.Sprintf("%d:%d:%d", st.Dev, st.Ino, st.Mtim.Nano()), nil
}

// startRelay starts argv as a relay. It outlives this process.
func startRelay(argv []string) error {
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaped, should it end before this process does
	return nil
}

// Dismiss ends the relay that listens on a socket, if there is one.
func Dismiss(ctx context.Context, socket string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://baize"+dismissal, nil)
	if err != nil {
		return
	}
	if resp, err := newEngine(socket).http.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}

// follow calls found with what the relay on a socket is, and returns when the
// relay ends, ctx does, or found says so.
func follow(ctx context.Context, socket string, found func(identity) (stay bool)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://baize"+following, nil)
	if err != nil {
		return err
	}
	c := newEngine(socket)
	answers := time.AfterFunc(engineTimeout, cancel)
	c.http.Timeout = 0
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", following, resp.Status)
	}
	read := json.NewDecoder(resp.Body)
	var is identity
	if err := read.Decode(&is); err != nil {
		return fmt.Errorf("%s: %w", following, err)
	}
	answers.Stop()
	if !found(is) {
		return nil
	}
	err = read.Decode(&is)
	return fmt.Errorf("the relay ended: %w", err)
}

// Relay answers engines on socket, with what the agent on agentSocket answers,
// until it is dismissed, the socket is removed or ctx ends. Where somebody else
// listens it returns an error.
func Relay(ctx context.Context, socket, agentSocket string, log logrus.FieldLogger) error {
	// Its log may end with the agent.
	signal.Ignore(unix.SIGPIPE)
	program, err := programOf("/proc/self/exe")
	if err != nil {
		return err
	}
	l, err := api.Listen(socket)
	if err != nil {
		return err
	}
	r := newRelay(agentSocket, strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(time.Now().UnixNano(), 36), log)
	return r.serve(ctx, l, socket, identity{program, agentSocket})
}

// lingerFor is how long a relay that was dismissed goes on answering on connections that it
// has: an engine sends a request again whose connection ends, and without its body (moby,
// pkg/plugins, callWithRetry), which nobody can answer.
const lingerFor = startPatience

func (r *relay) serve(ctx context.Context, l net.Listener, socket string, is identity) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left, markLeft := context.WithCancel(ctx)
	defer markLeft()
	go watchSocket(left, socket, cancel)
	go r.payLoop(ctx)
	mux := r.handler()
	mux.HandleFunc("POST "+following, func(w http.ResponseWriter, req *http.Request) {
		r.followed(w, req, left.Done(), is)
	})
	leave := sync.OnceFunc(func() {
		_ = r.pay(ctx, 0)
		markLeft()
		_ = l.Close() // the socket is free before the next relay is told so
	})
	mux.HandleFunc("POST "+dismissal, func(w http.ResponseWriter, _ *http.Request) {
		leave()
		w.WriteHeader(http.StatusOK)
	})
	var open connections
	srv := &http.Server{
		Handler: lastAfter(left, mux), ReadHeaderTimeout: 5 * time.Second, ConnState: open.change,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); left.Err() == nil {
		return fmt.Errorf("the Docker plugin's socket: %w", errors.Join(err, l.Close()))
	}
	open.await(ctx, lingerFor)
	return nil // dismissed
}

// connections are those of a server.
type connections struct {
	mu   sync.Mutex
	busy map[net.Conn]bool // by whether there is a request
}

// change is a server's ConnState.
func (c *connections) change(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy == nil {
		c.busy = map[net.Conn]bool{}
	}
	if s == http.StateClosed || s == http.StateHijacked {
		delete(c.busy, conn)
	} else {
		c.busy[conn] = s == http.StateActive
	}
}

// await returns when there is no connection any more, or for a while no request on those
// that there are.
func (c *connections) await(ctx context.Context, idle time.Duration) {
	for last := time.Now(); time.Since(last) < idle; {
		c.mu.Lock()
		open, busy := len(c.busy), false
		for _, b := range c.busy {
			busy = busy || b
		}
		c.mu.Unlock()
		if open == 0 {
			return
		}
		if busy {
			last = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
	}
}

// followed answers an agent: its end is the end of the connection. The relay's is that of
// left.
func (r *relay) followed(w http.ResponseWriter, req *http.Request, left <-chan struct{}, is identity) {
	if json.NewEncoder(w).Encode(is) != nil || http.NewResponseController(w).Flush() != nil {
		return
	}
	r.agents.Add(1)
	r.answers()
	select {
	case <-req.Context().Done():
	case <-left:
	}
	if r.agents.Add(-1) == 0 {
		r.missed() // from now on, not from the next request on
	}
}

// lastAfter makes a request the last one of its connection once the relay has left: the
// next one is for the next relay.
func lastAfter(left context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(closing{w, left}, r)
	})
}

// closing is an answer after which the connection ends, if the relay has left by then.
type closing struct {
	http.ResponseWriter
	left context.Context //nolint:containedctx // it is the relay's, and no request's
}

// WriteHeader implements http.ResponseWriter.
func (c closing) WriteHeader(status int) {
	if c.left.Err() != nil {
		c.Header().Set("Connection", "close")
	}
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (c closing) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// watchSocket calls gone when the socket is no more: Baize was removed.
func watchSocket(ctx context.Context, socket string, gone func()) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if _, err := os.Lstat(socket); errors.Is(err, unix.ENOENT) {
				gone()
			}
		}
	}
}
