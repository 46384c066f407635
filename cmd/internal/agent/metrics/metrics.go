// Package metrics is the part of the agent that serves metrics in Prometheus' format
// (prometheus.io/docs/instrumenting/exposition_formats). They are taken from the values
// of other parts when somebody asks for them; no part waits for that.
package metrics

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// scrapeTimeout bounds one request.
const scrapeTimeout = 10 * time.Second

// unixScheme begins the address of a socket.
const unixScheme = "unix:"

// CheckAddress refuses what is no address to serve metrics at: HOST:PORT, whose HOST is
// an address and not left out, or unix:PATH. The error is of kind ErrInvalid.
func CheckAddress(s string) error {
	if path, ok := strings.CutPrefix(s, unixScheme); ok {
		if strings.HasPrefix(path, "/") {
			return nil
		}
	} else if a, err := netip.ParseAddrPort(s); err == nil && a.Port() != 0 {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrInvalid, Item: "--metrics " + s, What: "it is neither ADDRESS:PORT nor unix:PATH",
		Remedy: "write 127.0.0.1:9799 for this host alone; 0.0.0.0:9799 for everybody who can reach it: see docs/metrics.md",
	}
}

// Part is the part of the agent.
type Part struct {
	address string
	handler http.Handler
	log     *logrus.Entry
}

// New returns the part, which serves at an address that CheckAddress takes.
func New(address string, s Sources, log *logrus.Entry) *Part {
	return &Part{address: address, handler: handler(s), log: log.WithField("part", "metrics")}
}

// handler answers GET /metrics.
func handler(s Sources) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{
		// One at a time: it makes Open vSwitch work.
		MaxRequestsInFlight: 1, Timeout: scrapeTimeout,
	}))
	return mux
}

// Name implements part.Part.
func (p *Part) Name() string { return "metrics" }

// Faults implements part.Part: where it cannot listen it fails.
func (p *Part) Faults() []fault.Fault { return nil }

// Cleanup implements part.Part.
func (p *Part) Cleanup(context.Context, part.Undo) ([]string, error) { return nil, nil }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	l, err := p.listen(ctx)
	if err != nil {
		return err
	}
	p.log.Infof("metrics at %s", p.address)
	return api.ServeHandler(ctx, l, p.handler, "the metrics at "+p.address)
}

func (p *Part) listen(ctx context.Context) (net.Listener, error) {
	if path, ok := strings.CutPrefix(p.address, unixScheme); ok {
		return api.ListenAndKeep(path)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.address)
	if err != nil {
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "metrics at " + p.address, What: fmt.Sprintf("cannot be served: %v", err),
			Remedy: "name another address with --metrics",
		}
	}
	return l, nil
}
