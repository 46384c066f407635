package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// Prove sends pings and bulk TCP between every two endpoints of different hosts
// that share a network, IPv4 and IPv6. Paths may take some seconds to come up
// after Up. The error names the first paths that fail; the Proof is valid all
// the same.
func (l *Lab) Prove(ctx context.Context) (*Proof, error) {
	end := l.begin("prove that every endpoint reaches every other")
	start := time.Now()
	p := &Proof{}
	members, err := l.endpoints(&p.Endpoints)
	if err != nil {
		return p, end(err)
	}
	namespace := func(e EndpointStatus) string { return members[e.Node].Inside(filepath.Join(member.NetnsDir, e.Name)) }
	err = p.Measure(ctx, namespace, l.cfg.ProofBytes)
	p.Elapsed = time.Since(start)
	if err == nil {
		err = p.Err(l.cfg.Name)
	}
	return p, end(err)
}

// endpoints lists the endpoints that the lab attached, and where they live.
func (l *Lab) endpoints(out *[]EndpointStatus) (map[string]member.Member, error) {
	running, err := l.running()
	if err != nil {
		return nil, err
	}
	for _, h := range l.Hosts() {
		m, ok := running[h.name]
		if !ok {
			continue
		}
		entries, err := os.ReadDir(m.Inside(endpointsDir))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			s := EndpointStatus{Name: e.Name(), Node: h.name, Network: attached(m, e.Name()), IPs: []netip.Addr{}}
			if err := s.Look(m.Inside(filepath.Join(member.NetnsDir, s.Name))); err != nil {
				return nil, fmt.Errorf("endpoint %s: %w", s, err)
			}
			*out = append(*out, s)
		}
	}
	return running, nil
}
