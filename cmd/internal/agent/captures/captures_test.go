package captures

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// start runs a part whose points have a device that does not exist.
func start(t *testing.T, cfg Config) *Part {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	if cfg.Find == nil {
		cfg.Find = func(_ context.Context, name string) (api.Point, error) {
			return api.Point{Node: "host1", Kind: api.PointEndpoint, Name: name, Devices: []string{"no-such-dev"}}, nil
		}
	}
	if cfg.IsNode == nil {
		cfg.IsNode = func(netip.Addr) bool { return true }
	}
	p := New(cfg, logrus.NewEntry(log))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return p
}

func request(t *testing.T) (*capture.Receiver, json.RawMessage) {
	t.Helper()
	r, err := capture.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	b, err := json.Marshal(r.Request("c1", capture.Options{SnapLen: 100, Rate: 10}, time.Minute))
	require.NoError(t, err)
	return r, b
}

// A capture goes to who asked for it, and frees its place when it ends.
func TestAnswer(t *testing.T) {
	p := start(t, Config{})
	for range atATime + 1 {
		r, arguments := request(t)
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
		defer cancel()
		streams := make(chan *capture.Stream, 1)
		go func() { s, _ := r.Accept(ctx); streams <- s }()
		point, err := p.Answer(ctx, arguments)
		require.NoError(t, err)
		require.Equal(t, "c1", point.(api.Point).Name)
		s := <-streams
		require.NotNil(t, s)
		_, err = s.Run(ctx, func(capture.Packet) {})
		require.ErrorContains(t, err, "no-such-dev", "what is wrong there is said here")
		require.Eventually(t, func() bool { return len(p.slots) == 0 }, testkit.Patience, time.Millisecond)
	}
}

func TestRefusals(t *testing.T) {
	_, arguments := request(t)
	for _, x := range []struct {
		cfg  Config
		want string
	}{
		{Config{Refuse: true}, "--no-remote-capture"},
		{Config{IsNode: func(netip.Addr) bool { return false }}, "no node's address"},
		{Config{Find: func(context.Context, string) (api.Point, error) { return api.Point{}, topology.ErrNotFound }}, "not found"},
	} {
		_, err := start(t, x.cfg).Answer(t.Context(), arguments)
		require.ErrorContains(t, err, x.want)
	}
	p := start(t, Config{})
	_, err := p.Answer(t.Context(), json.RawMessage(`{"to":"127.0.0.1:1","options":{"snapLen":-1}}`))
	require.ErrorIs(t, err, topology.ErrInvalid)
	for range atATime {
		p.slots <- struct{}{}
	}
	_, err = p.Answer(t.Context(), arguments)
	require.ErrorContains(t, err, "run on this node for other hosts")
}

// Nobody there to connect to is said, and the place is free.
func TestNobody(t *testing.T) {
	p := start(t, Config{})
	r, arguments := request(t)
	require.NoError(t, r.Close())
	_, err := p.Answer(t.Context(), arguments)
	require.ErrorContains(t, err, "--listen-port")
	require.Empty(t, p.slots)
}
