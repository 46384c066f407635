package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/baize-net/baize/topology"
)

const (
	// RequestTimeout bounds one request in the agent.
	RequestTimeout = 60 * time.Second
	// shutdownTimeout is what requests under way are given when the agent stops.
	shutdownTimeout = 5 * time.Second
	// maxBody bounds a request's body.
	maxBody = 1 << 20
)

// ListenAndServe is Listen and Serve.
func ListenAndServe(ctx context.Context, path string, svc Service) error {
	l, err := Listen(path)
	if err != nil {
		return err
	}
	return Serve(ctx, l, svc)
}

// Serve answers on l until ctx ends, lets requests under way finish within
// seconds, and closes l. It returns nil when ctx ended it.
func Serve(ctx context.Context, l net.Listener, svc Service) error {
	return ServeHandler(ctx, l, Handler(svc), "the agent's socket")
}

// ServeHandler is Serve for other requests than those of the local API; what
// names the listener in an error.
func ServeHandler(ctx context.Context, l net.Listener, h http.Handler, what string) error {
	// The requests outlive ctx: stopping is no reason to leave an endpoint half made.
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("%s: %w", what, errors.Join(err, l.Close()))
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(base, shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		cut()
		err = srv.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Handler returns the API's routes.
func Handler(svc Service) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f handler) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), RequestTimeout)
			defer cancel()
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			v, err := f(r.WithContext(ctx))
			reply(w, v, err)
		})
	}
	nodeRoutes(svc, handle)
	endpointRoutes(svc, handle)
	attachmentRoutes(svc, handle)
	meshRoutes(svc, handle)
	handle("GET /v1/points", func(r *http.Request) (any, error) {
		return svc.Point(r.Context(), r.URL.Query().Get("name"))
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { streamEvents(svc, w, r) })
	handle("/", func(r *http.Request) (any, error) {
		return nil, &topology.Error{
			Kind: topology.ErrNotFound, Item: r.Method + " " + r.URL.Path, What: "this agent does not know it",
			Remedy: "use the client of the agent's own version ('baize version')",
		}
	})
	return mux
}

// nodeRoutes are what the node is and has.
func nodeRoutes(svc Service, handle func(pattern string, f handler)) {
	handle("GET /v1/status", func(r *http.Request) (any, error) { return svc.Status(r.Context()) })
	handle("GET /v1/config", func(r *http.Request) (any, error) { return svc.Config(r.Context()) })
	handle("GET /v1/routes", func(r *http.Request) (any, error) { return svc.Routes(r.Context()) })
	handle("POST /v1/reconcile", func(r *http.Request) (any, error) {
		audit := false
		if s := r.URL.Query().Get("audit"); s != "" {
			var err error
			if audit, err = strconv.ParseBool(s); err != nil {
				return nil, invalid("audit=" + s + " is neither true nor false")
			}
		}
		return struct{}{}, svc.Reconcile(r.Context(), audit)
	})
}

// endpointRoutes are those of the node's endpoints.
func endpointRoutes(svc Service, handle func(pattern string, f handler)) {
	handle("GET /v1/endpoints", func(r *http.Request) (any, error) {
		list, err := svc.Endpoints(r.Context())
		if list == nil {
			list = []Endpoint{}
		}
		return list, err
	})
	handle("POST /v1/endpoints", func(r *http.Request) (any, error) {
		var req EndpointRequest
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		return svc.AddEndpoint(r.Context(), req)
	})
	// The name is no part of the path: it may be "..".
	handle("DELETE /v1/endpoints", func(r *http.Request) (any, error) {
		name := r.URL.Query().Get("name")
		if name == "" {
			return nil, invalid("name= is missing")
		}
		return struct{}{}, svc.RemoveEndpoint(r.Context(), name)
	})
}

// meshRoutes are those of the probes.
func meshRoutes(svc Service, handle func(pattern string, f handler)) {
	handle("GET /v1/mesh", func(r *http.Request) (any, error) { return svc.Mesh(r.Context()) })
	handle("POST /v1/ping", func(r *http.Request) (any, error) {
		var req PingRequest
		if err := decode(r, &req); err != nil {
			return nil, err
		}
		return svc.Ping(r.Context(), req)
	})
}

// decode reads a request's body. A field the agent does not know is refused: to
// leave out what a newer client asks for would be to do something else.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid(err.Error())
	}
	if d.More() {
		return invalid("there is more than one JSON value")
	}
	return nil
}

func invalid(what string) error {
	return &topology.Error{
		Kind:   topology.ErrInvalid,
		Item:   "request",
		What:   what,
		Remedy: "docs/cli.md describes the agent's interface",
	}
}

func reply(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status, v = replyError(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		status, v = replyError(fmt.Errorf("encoding the answer: %w", err))
		b, _ = json.Marshal(v)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone is no matter
}

// errorBody is the body of every reply but 200.
type errorBody struct {
	Error wireError `json:"error"`
}

func replyError(err error) (int, any) {
	status, w := toWire(err)
	return status, errorBody{w}
}
