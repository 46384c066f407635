package docker

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// contentType is what engines send and expect.
const contentType = "application/vnd.docker.plugins.v1.1+json"

const maxBody = 1 << 20

// handle decodes a request, calls f and encodes its answer.
func handle[In, Out any](mux *http.ServeMux, p *Plugin, method string, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST /"+method, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		var in In
		var out any
		err := error(nil)
		if r.ContentLength != 0 {
			// Fields of newer engines are none of ours.
			err = json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in)
		}
		if err == nil {
			out, err = f(context.WithValue(ctx, requestKey{}, r.Header.Get(headerRequest)), in)
		}
		if err != nil && p.stopping.Load() {
			// The relay sends it to the next agent.
			panic(http.ErrAbortHandler)
		}
		log := p.log.WithField("took", time.Since(start).Round(time.Microsecond))
		status := http.StatusOK
		if err != nil {
			status, out = http.StatusInternalServerError, refusal{err.Error()}
			log.Warnf("Docker: %s refused: %v", method, err)
		} else {
			log.Debugf("Docker: %s %+v", method, in)
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(out) // an engine that is gone is no matter
	})
}

// requestKey is where a request's context has its name (headerRequest).
type requestKey struct{}

// requestName is the name of a request, the same when it is sent again; "" where
// an engine asks without a relay.
func requestName(ctx context.Context) string {
	name, _ := ctx.Value(requestKey{}).(string)
	return name
}

type nothing struct{}

// done makes a function without an answer one with an empty answer.
func done[In any](f func(context.Context, In) error) func(context.Context, In) (nothing, error) {
	return func(ctx context.Context, in In) (nothing, error) { return nothing{}, f(ctx, in) }
}

// always answers the same.
func always[Out any](out Out) func(context.Context, nothing) (Out, error) {
	return func(context.Context, nothing) (Out, error) { return out, nil }
}

// Handler returns the plugin's routes.
func (p *Plugin) Handler() http.Handler {
	mux := http.NewServeMux()
	p.constants(mux)
	handle(mux, p, "NetworkDriver.CreateNetwork", done(p.createNetwork))
	handle(mux, p, "NetworkDriver.DeleteNetwork", done(p.deleteNetwork))
	handle(mux, p, "NetworkDriver.CreateEndpoint", p.createEndpoint)
	handle(mux, p, "NetworkDriver.EndpointOperInfo", p.endpointInfo)
	handle(mux, p, "NetworkDriver.DeleteEndpoint", done(p.deleteEndpoint))
	handle(mux, p, "NetworkDriver.Join", p.join)
	handle(mux, p, "NetworkDriver.Leave", done(p.leave))
	handle(mux, p, "IpamDriver.RequestPool", p.requestPool)
	handle(mux, p, "IpamDriver.ReleasePool", done(p.releasePool))
	handle(mux, p, "IpamDriver.RequestAddress", p.requestAddress)
	handle(mux, p, "IpamDriver.ReleaseAddress", done(p.releaseAddress))
	return mux
}

// constants adds the routes whose answer is always the same.
func (p *Plugin) constants(mux *http.ServeMux) {
	handle(mux, p, "Plugin.Activate", always(activation{[]string{"NetworkDriver", "IpamDriver"}}))
	// A network of Baize reaches beyond the engine, but each engine creates it
	// for itself: scope "local".
	handle(mux, p, "NetworkDriver.GetCapabilities", always(capabilities{Scope: "local", ConnectivityScope: "global"}))
	for _, m := range []string{
		"DiscoverNew", "DiscoverDelete", "ProgramExternalConnectivity", "RevokeExternalConnectivity",
	} {
		handle(mux, p, "NetworkDriver."+m, always(nothing{}))
	}
	// No replay: what is in use is known without the engine.
	handle(mux, p, "IpamDriver.GetCapabilities", always(ipamCapabilities{}))
	handle(mux, p, "IpamDriver.GetDefaultAddressSpaces", always(addressSpaces{addressSpace, addressSpace}))
}
