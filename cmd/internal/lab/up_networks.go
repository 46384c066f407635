package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// upNetworks creates the networks, or changes their transport.
func (l *Lab) upNetworks(ctx context.Context, fab member.Member) error {
	if l.state.isForeign() {
		return l.upForeign(ctx)
	}
	for _, n := range slices.Clone(l.state.Networks) {
		have, err := l.networkTransport(ctx, fab, n.Name)
		switch {
		case endedWith(err, cli.ExitNotFound):
			err = l.createNetwork(ctx, fab, n)
		case err == nil:
			err = l.updateNetwork(ctx, fab, n, have)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// networkTransport asks for that of a network. Where there is none, the error has
// baize's exit code for that.
func (l *Lab) networkTransport(ctx context.Context, fab member.Member, name string) (topology.Transport, error) {
	show, err := l.inFabric(ctx, fab, networkShowArgs(name)...)
	if err != nil {
		return "", err
	}
	var have struct{ Transport topology.Transport }
	if err := json.Unmarshal([]byte(show), &have); err != nil {
		return "", fmt.Errorf("network %s: %w: %s", name, err, show)
	}
	return have.Transport, nil
}

func (l *Lab) updateNetwork(ctx context.Context, fab member.Member, n NetworkSpec, have topology.Transport) error {
	want := l.state.transport(n)
	if have == want {
		return nil
	}
	end := l.begin("network %s: change to %s", n.Name, want)
	_, err := l.inFabric(ctx, fab, networkUpdateArgs(n.Name, want)...)
	return end(err)
}

func (l *Lab) createNetwork(ctx context.Context, fab member.Member, n NetworkSpec) error {
	var prefixes []string
	for _, p := range n.Prefixes {
		prefixes = append(prefixes, p.String())
	}
	want := l.state.transport(n)
	end := l.begin("network %s: create %s (%s)", n.Name, strings.Join(prefixes, ", "), want)
	vni := ""
	if n.VNI != 0 {
		vni = strconv.FormatUint(uint64(n.VNI), 10)
	}
	_, err := l.inFabric(ctx, fab, networkCreateArgs(n, want, vni, l.state.IPv6Underlay)...)
	if refused(err) {
		err = errors.Join(err, l.forget(n.Name))
	}
	return end(err)
}

// refused reports whether baize said that a network cannot be, as opposed to
// not now.
func refused(err error) bool { return endedWith(err, cli.ExitUsage, cli.ExitConflict, cli.ExitFull) }

// forget takes a network that was refused out of what the lab is to be: the next
// Up may ask for another.
func (l *Lab) forget(network string) error {
	l.state.Networks = slices.DeleteFunc(
		slices.Clone(l.state.Networks), func(n NetworkSpec) bool { return n.Name == network },
	)
	return l.state.write(l.cfg.dir())
}
