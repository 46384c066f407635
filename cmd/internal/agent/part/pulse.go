package part

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Pulse knows which passes are at work, and so whether the parts that make them still
// turn: a pass that is not over long after its time is over hangs.
type Pulse struct {
	mu     sync.Mutex
	next   int
	passes map[int]pass
}

type pass struct {
	part  string
	until time.Time
}

// overdue is how long after its time is over a pass is still expected to end.
const overdue = 30 * time.Second

// NewPulse returns a pulse that knows of no pass.
func NewPulse() *Pulse { return &Pulse{passes: map[int]pass{}} }

type pulseKey struct{}

type pulseOf struct {
	pulse *Pulse
	part  string
}

// WithPulse has every Loop that runs with the context tell the pulse of its passes.
func WithPulse(ctx context.Context, p *Pulse, part string) context.Context {
	return context.WithValue(ctx, pulseKey{}, pulseOf{p, part})
}

// begin notes a pass that has so much time; the function it returns notes its end.
func begin(ctx context.Context, timeout time.Duration) (end func()) {
	of, ok := ctx.Value(pulseKey{}).(pulseOf)
	if !ok || timeout <= 0 {
		return func() {}
	}
	p := of.pulse
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.next
	p.next++
	p.passes[n] = pass{of.part, time.Now().Add(timeout + overdue)}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.passes, n)
	}
}

// Hanging returns the parts of which a pass hangs, sorted.
func (p *Pulse) Hanging() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var out []string
	for _, x := range p.passes {
		if now.After(x.until) {
			out = append(out, x.part)
		}
	}
	slices.SortFunc(out, cmp.Compare[string])
	return slices.Compact(out)
}
