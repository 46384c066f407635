package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

// An engine whose plugin does not answer tries again for half a minute, at
// every step of removing a container, while it holds the container's lock. So
// while no agent runs, a stand-in answers: a process that the agent starts,
// that outlives it and that the next agent dismisses. It lets containers stop
// and be removed, which the next agent finds out by itself, and refuses at once
// what it cannot do.

// dismissal is the stand-in's own method.
const dismissal = "/StandIn.Dismiss"

// StartStandIn starts argv as a stand-in that takes over when this process
// ends. It is for an agent that serves the plugin; the stand-in is told of its
// end by the end of its standard input.
func StartStandIn(argv []string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("stand-in: %w", err)
	}
	defer r.Close()
	// It is to outlive whatever ends this process.
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("stand-in: %w", errors.Join(err, w.Close()))
	}
	go func() {
		_ = cmd.Wait() // reaped, should it end before this process does
		_ = w.Close()
	}()
	return nil
}

// Dismiss ends the stand-in that listens on a socket, if there is one.
func Dismiss(ctx context.Context, socket string) {
	e := newEngine(socket)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://baize"+dismissal, nil)
	if err != nil {
		return
	}
	if resp, err := e.http.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}

// StandIn waits until agent ends, then answers on the plugin's socket until it
// is dismissed, the socket is removed or ctx ends. Where somebody else listens
// by then it returns at once.
func StandIn(ctx context.Context, agent io.Reader, socket string, log logrus.FieldLogger) error {
	if _, err := io.Copy(io.Discard, agent); err != nil {
		return fmt.Errorf("stand-in: wait for the agent's end: %w", err)
	}
	// Its log may have ended with the agent.
	signal.Ignore(unix.SIGPIPE)
	l, err := takeOver(ctx, socket)
	if err != nil {
		return err
	}
	log.Info("no agent runs: Docker is answered by a stand-in")
	defer log.Info("the stand-in ends")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go watchSocket(ctx, socket, cancel)
	srv := &http.Server{Handler: untilDone(ctx, standInHandler(l, cancel, log)), ReadHeaderTimeout: 5 * time.Second}
	// At once: an engine keeps connections for its next request, which is the next
	// agent's.
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("the Docker plugin's socket: %w", errors.Join(err, l.Close()))
	}
	return nil // dismissed
}

// untilDone cuts a request that comes after the end of ctx off: the engine
// sends it again.
func untilDone(ctx context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// takeOver listens once the dead agent's own socket is closed, which may be a
// moment after the end of its other files. A socket that stays is the next
// agent's.
func takeOver(ctx context.Context, socket string) (net.Listener, error) {
	const attempts, pause = 20, 50 * time.Millisecond
	for i := 1; ; i++ {
		l, err := api.Listen(socket)
		if !errors.Is(err, topology.ErrConflict) || i == attempts {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

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

func standInHandler(l net.Listener, end func(), log logrus.FieldLogger) http.Handler {
	mux := http.NewServeMux()
	p := &Plugin{log: log}
	p.constants(mux)
	for _, m := range []string{
		"NetworkDriver.DeleteNetwork", "NetworkDriver.DeleteEndpoint", "NetworkDriver.Leave",
		"NetworkDriver.EndpointOperInfo",
		"IpamDriver.ReleasePool", "IpamDriver.ReleaseAddress",
	} {
		handle(mux, p, m, always(nothing{}))
	}
	refuse := func(context.Context, nothing) (nothing, error) {
		return nothing{}, &topology.Error{
			Kind:   topology.ErrUnavailable,
			Item:   "baize agent",
			What:   "does not run on this host: running containers go on, none can be started",
			Remedy: "'systemctl start baize'",
		}
	}
	for _, m := range []string{
		"NetworkDriver.CreateNetwork", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join", "IpamDriver.RequestPool",
		"IpamDriver.RequestAddress",
	} {
		handle(mux, p, m, refuse)
	}
	leave := sync.OnceFunc(func() {
		end()
		_ = l.Close() // the socket is free before the agent is told so
	})
	mux.HandleFunc("POST "+dismissal, func(w http.ResponseWriter, _ *http.Request) {
		leave()
		w.WriteHeader(http.StatusOK)
	})
	return mux
}
