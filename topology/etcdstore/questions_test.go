package etcdstore_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/stretchr/testify/require"
)

func question(id string) topology.Question {
	return topology.Question{ID: id, Kind: "echo", Arguments: json.RawMessage(`{"a":1}`), Seconds: 60}
}

// answering answers every question of a store's cluster as node, until the test ends.
func answering(t *testing.T, s *etcdstore.Store, node string, body func(topology.Question) json.RawMessage) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Questions(ctx, func(q topology.Question) {
			if err := s.PutAnswer(ctx, q, topology.NodeAnswer{Node: node, Body: body(q)}); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", node, err)
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func TestAskIsAnsweredByAllAndLeavesNothing(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t)
	s := openAt(t, endpoint)
	for _, n := range []string{"host1", "host2"} {
		answering(t, openAt(t, endpoint), n, func(q topology.Question) json.RawMessage { return q.Arguments })
	}
	got := map[string]string{}
	require.NoError(t, s.Ask(t.Context(), question("q1"), func(a topology.NodeAnswer) bool {
		got[a.Node] = string(a.Body)
		return len(got) == 2
	}))
	require.Equal(t, map[string]string{"host1": `{"a":1}`, "host2": `{"a":1}`}, got)
	require.Empty(t, getRaw(t, raw(t, endpoint), question("q1").Key()), "the question")
	require.Empty(t, getRaw(t, raw(t, endpoint), "~answers/host1/q1"), "an answer")
}

// Who follows the topology must not get what others ask and answer: of a thousand
// agents that answer, each would get a thousand answers.
func TestQuestionsAreNoPartOfTheTopology(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t)
	s, c := openAt(t, endpoint), raw(t, endpoint)
	updates := watch(t, s)
	require.Empty(t, receive(t, updates).Snapshot.Networks)
	putRaw(t, c, "~questions/q1", `{"kind": "echo", "seconds": 5}`)
	putRaw(t, c, "~answers/host1/q1", `nonsense`)
	mustCreate(t, s, blue())
	u := receive(t, updates)
	require.Contains(t, u.Snapshot.Networks, "blue", "the first update is that of the network")
	require.Empty(t, u.Snapshot.Validate())
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	require.Empty(t, snap.Malformed)
}

func TestAskEndsWhereNobodyAnswers(t *testing.T) {
	t.Parallel()
	s := openAt(t, etcdtest.Start(t))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	require.ErrorIs(t, s.Ask(ctx, question("q1"), func(topology.NodeAnswer) bool { return false }), context.Canceled)
}

func TestAskRefuses(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t)
	s := openAt(t, endpoint)
	never := func(topology.NodeAnswer) bool { return true }
	for _, change := range []func(*topology.Question){
		func(q *topology.Question) { q.ID = "a/b" },
		func(q *topology.Question) { q.Kind = "" },
		func(q *topology.Question) { q.Seconds = 61 },
		func(q *topology.Question) { q.Arguments = json.RawMessage(`"` + strings.Repeat("x", 5000) + `"`) },
	} {
		q := question("q1")
		change(&q)
		require.ErrorIs(t, s.Ask(t.Context(), q, never), topology.ErrInvalid)
	}
	putRaw(t, raw(t, endpoint), "~questions/q1", `{"kind": "echo", "seconds": 5}`)
	require.ErrorIs(t, s.Ask(t.Context(), question("q1"), never), topology.ErrConflict)
}

func TestPutAnswerBounds(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t)
	s := openAt(t, endpoint)
	answering(t, openAt(t, endpoint), "host1", func(topology.Question) json.RawMessage {
		return json.RawMessage(`"` + strings.Repeat("x", topology.MaxAnswer) + `"`)
	})
	require.NoError(t, s.Ask(t.Context(), question("q1"), func(a topology.NodeAnswer) bool {
		require.Empty(t, a.Body)
		require.Contains(t, a.Error, "the answer has")
		return true
	}))
	gone := question("q2")
	gone.ModRevision = 1
	require.NoError(t, s.PutAnswer(t.Context(), gone, topology.NodeAnswer{Node: "host1"}), "nobody asks any more")
	require.Empty(t, getRaw(t, raw(t, endpoint), "~answers/host1/q2"))
}
