package console

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
)

//go:embed web
var files embed.FS

const (
	// maxHeader bounds a request's header, in bytes; no request has a body.
	maxHeader = 16 << 10
	// answerTime bounds the writing of an answer that is no stream.
	answerTime = 15 * time.Second
	// traceTime bounds a trace.
	traceTime = 30 * time.Second
)

// policy lets the page load what it came with and nothing else (Content Security
// Policy Level 3).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Serve runs the console and answers on l until ctx ends, and closes l. It returns
// nil when ctx ended it.
func (c *Console) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	running := make(chan struct{})
	go func() { defer close(running); c.Run(ctx) }()
	defer func() { cancel(); <-running }()
	srv := &http.Server{
		Handler:           c.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is told to them
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("the console at %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	<-running // the streams end
	limit, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	err := srv.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Handler answers the console's requests.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	page, err := fs.Sub(files, "web")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	mux.Handle("GET /", http.FileServerFS(page))
	mux.HandleFunc("GET /api/v1/stream", c.stream)
	mux.HandleFunc("GET /api/v1/state", func(w http.ResponseWriter, _ *http.Request) {
		if !c.cfg.Topology.Known() {
			refuse(w, http.StatusServiceUnavailable, "etcd has not answered yet")
			return
		}
		answer(w, c.state())
	})
	mux.HandleFunc("GET /api/v1/hosts/{name}", func(w http.ResponseWriter, r *http.Request) {
		out, ok := TunnelsOf(c.cfg.Topology.Get().Snapshot, r.PathValue("name"))
		if !ok {
			refuse(w, http.StatusNotFound, "there is no host "+strconv.Quote(r.PathValue("name")))
			return
		}
		answer(w, out)
	})
	if c.cfg.Tracer != nil {
		mux.HandleFunc("GET /api/v1/trace", c.trace)
	}
	mux.HandleFunc("GET /api/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "no such path")
	})
	return c.guard(mux)
}

// guard sets the headers of every answer, and lets nobody in who may not read.
func (c *Console) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-cache")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if c.cfg.Token == "" && !loopbackHost(r.Host) {
			// Another site whose name was made to point here would be allowed to read.
			refuse(w, http.StatusMisdirectedRequest,
				"this console is for this host alone: open it as 127.0.0.1, [::1] or localhost")
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "the console only reads")
			return
		}
		if !strings.HasPrefix(r.URL.Path, "/api/") {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Cache-Control", "no-store")
		if !c.allowed(r) {
			h.Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "the token is missing or wrong")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allowed compares the token in constant time, whatever its length.
func (c *Console) allowed(r *http.Request) bool {
	if c.cfg.Token == "" {
		return true
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(c.cfg.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok
}

// loopbackHost reports whether a Host header names this host's loopback.
func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return isLoopback(strings.Trim(host, "[]"))
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || (err == nil && a.Unmap().IsLoopback())
}

func (c *Console) trace(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	req := TraceRequest{From: q.Get("from"), To: q.Get("to"), Protocol: q.Get("protocol")}
	if req.Protocol == "" {
		req.Protocol = "icmp"
	}
	port, err := strconv.ParseUint("0"+q.Get("port"), 10, 16)
	switch {
	case req.From == "" || req.To == "":
		refuse(w, http.StatusBadRequest, "say where the packet comes from and where it goes to")
		return
	case req.Protocol != "icmp" && req.Protocol != "tcp" && req.Protocol != "udp":
		refuse(w, http.StatusBadRequest, "the protocol is icmp, tcp or udp")
		return
	case err != nil || (req.Protocol != "icmp") != (port > 0):
		refuse(w, http.StatusBadRequest, "tcp and udp need a port from 1 to 65535, icmp has none")
		return
	}
	req.Port = int(port)
	ctx, cancel := context.WithTimeout(r.Context(), traceTime)
	defer cancel()
	t, err := c.cfg.Tracer.Trace(ctx, req)
	if err != nil {
		status := http.StatusBadGateway
		switch {
		case errors.Is(err, topology.ErrInvalid):
			status = http.StatusBadRequest
		case errors.Is(err, topology.ErrNotFound):
			status = http.StatusNotFound
		}
		refuse(w, status, err.Error())
		return
	}
	if t.Hops == nil {
		t.Hops = []TraceHop{}
	}
	answer(w, t)
}

// answer writes JSON, and does not wait long for whoever reads it.
func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	write(w, http.StatusOK, b)
}

// refuse writes an error as {"error": "…"}.
func refuse(w http.ResponseWriter, status int, what string) {
	b, _ := json.Marshal(map[string]string{"error": what}) // text does not fail
	write(w, status, b)
}

func write(w http.ResponseWriter, status int, b []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}
