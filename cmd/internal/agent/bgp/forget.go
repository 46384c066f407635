package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// forgetTime bounds Forget.
const forgetTime = 10 * time.Second

// Forget makes the neighbours forget this node now, and not at the end of its
// restart time, for which they keep the routes of an agent that stopped. It
// begins sessions whose restart capability names no address family, which ends
// the wait (RFC 4724, 3 and 4.2), and ends them. node is the node's name. It
// returns the neighbours that it did not reach within 10 s.
func Forget(ctx context.Context, cfg Config, node string, log *slog.Logger) ([]Neighbor, error) {
	return forgetWithin(ctx, cfg, node, log, forgetTime)
}

func forgetWithin(
	ctx context.Context, cfg Config, node string, log *slog.Logger, limit time.Duration,
) ([]Neighbor, error) {
	changed := make(chan struct{}, 1)
	s, err := New(cfg, log, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, err
	}
	s.leaving = true
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.Announce(node, netip.Addr{}, nil)
	reached, read := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for len(read) < len(s.cfg.Neighbors) {
		select {
		case <-changed:
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				return nil, err
			}
			return s.missed(reached), nil // there was no time left
		}
		for _, x := range s.Sessions() {
			if x.Up {
				reached[x.Neighbor.Addr] = true
			}
			// A connection that is closed before all is read is reset, and the
			// notification may be lost with it.
			if x.Up && x.Received {
				read[x.Neighbor.Addr] = true
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		return nil, fmt.Errorf("end the sessions: %w", err)
	}
	return nil, nil
}

// missed returns the neighbours that are not among those reached.
func (s *Speaker) missed(reached map[netip.Addr]bool) []Neighbor {
	var out []Neighbor
	for _, n := range s.cfg.Neighbors {
		if !reached[n.Addr] {
			out = append(out, n)
		}
	}
	return out
}
