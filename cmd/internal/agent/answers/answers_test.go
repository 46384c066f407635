package answers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// fakeStore asks what it is given, and keeps the answers.
type fakeStore struct {
	ask []topology.Question

	mu  sync.Mutex
	got map[string]topology.NodeAnswer
}

func (s *fakeStore) Questions(ctx context.Context, asked func(topology.Question)) error {
	for _, q := range s.ask {
		asked(q)
	}
	<-ctx.Done()
	return nil
}

func (s *fakeStore) PutAnswer(_ context.Context, q topology.Question, a topology.NodeAnswer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got[q.ID] = a
	return nil
}

// run lets a part answer questions, until all that can happen has happened.
func run(t *testing.T, kinds Kinds, ask ...topology.Question) map[string]topology.NodeAnswer {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := &fakeStore{ask: ask, got: map[string]topology.NodeAnswer{}}
	p := New("host1", s, kinds, logrus.NewEntry(log))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	time.Sleep(2 * time.Minute) // virtual
	synctest.Wait()
	cancel()
	require.NoError(t, <-done)
	return s.got
}

func TestAnswers(t *testing.T) {
	kinds := Kinds{
		"echo":  func(_ context.Context, args json.RawMessage) (any, error) { return args, nil },
		"fails": func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("boom") },
		"panics": func(context.Context, json.RawMessage) (any, error) {
			panic("bang")
		},
		"hangs": func(ctx context.Context, _ json.RawMessage) (any, error) { <-ctx.Done(); return nil, ctx.Err() },
	}
	q := func(id, kind string, nodes ...string) topology.Question {
		return topology.Question{ID: id, Kind: kind, Arguments: json.RawMessage(`{"a":1}`), Nodes: nodes, Seconds: 10}
	}
	synctest.Test(t, func(t *testing.T) {
		got := run(t, kinds, q("1", "echo"), q("2", "fails"), q("3", "panics"), q("4", "unknown"),
			q("5", "echo", "host2"), q("6", "hangs", "host1"), q("7", "echo", "host2", "host1"))
		require.JSONEq(t, `{"a":1}`, string(got["1"].Body))
		require.Equal(t, "boom", got["2"].Error)
		require.Contains(t, got["3"].Error, "bang")
		require.Contains(t, got["4"].Error, "it knows echo, fails, hangs, panics")
		require.NotContains(t, got, "5", "another node is asked")
		require.Contains(t, got["6"].Error, "deadline")
		require.JSONEq(t, `{"a":1}`, string(got["7"].Body))
		require.Equal(t, "host1", got["7"].Node)
	})
}

func TestBounds(t *testing.T) {
	most, now := 0, 0
	var mu sync.Mutex
	count := func(d int) {
		mu.Lock()
		defer mu.Unlock()
		now += d
		most = max(most, now)
	}
	kinds := Kinds{"slow": func(context.Context, json.RawMessage) (any, error) {
		count(1)
		defer count(-1)
		time.Sleep(time.Second)
		return "done", nil
	}}
	var ask []topology.Question
	for i := range perMinute + 5 {
		ask = append(ask, topology.Question{ID: fmt.Sprint(i), Kind: "slow", Seconds: 60})
	}
	synctest.Test(t, func(t *testing.T) {
		got := run(t, kinds, ask...)
		require.Len(t, got, len(ask))
		refused := 0
		for _, a := range got {
			if a.Error != "" {
				refused++
				require.Contains(t, a.Error, "asked too much")
			}
		}
		require.Equal(t, 5, refused)
		require.Equal(t, atATime, most)
	})
}
