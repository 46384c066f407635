package fault_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func TestOf(t *testing.T) {
	refusal := &topology.Error{
		Kind: topology.ErrFull, Code: fault.NetworkFull, Item: "network blue", What: "no subnet is left",
		Remedy: "release one",
	}
	want := fault.Fault{
		Code: fault.NetworkFull, Severity: fault.Error, Item: "network blue", What: "no subnet is left",
		Remedy: "release one",
	}
	require.Equal(t, want, fault.Of(refusal))
	require.Equal(t, want, fault.Of(fmt.Errorf("lease: %w", refusal)), "wrapped")
	require.Equal(t, "network blue: no subnet is left (release one)", want.String())
	require.Equal(t, fault.Fault{Severity: fault.Error, What: "boom"}, fault.Of(errors.New("boom")))
}

func TestAllTakesJoinedErrorsApartAndSaysEachOnce(t *testing.T) {
	boom := errors.New("boom")
	err := errors.Join(boom, errors.Join(&topology.Error{Item: "a", What: "b"}, boom))
	require.Len(t, fault.All(err), 2)
	require.Empty(t, fault.All(nil))
}

func TestKeep(t *testing.T) {
	first, second := time.Unix(1, 0), time.Unix(2, 0)
	a, b := fault.Fault{Item: "a"}, fault.Fault{Item: "b"}
	before := fault.Keep(nil, []fault.Fault{a}, first)
	now := fault.Keep(before, []fault.Fault{b, a}, second)
	require.Equal(t, second, now[0].Since)
	require.Equal(t, first, now[1].Since, "it was there before")
	require.True(t, now[1].Same(a))
}

// What leaves a severity open has that of its code, wherever it was made.
func TestSeverityIsThatOfTheCode(t *testing.T) {
	for _, c := range []struct {
		in   fault.Fault
		want fault.Severity
	}{
		{fault.Fault{Code: fault.NodeDown}, fault.Warning},
		{fault.Fault{Code: fault.RecordConflict}, fault.Error},
		{fault.Fault{What: "without a code"}, fault.Error},
		{fault.Fault{Code: fault.NodeDown, Severity: fault.Error}, fault.Error},
		{fault.Fault{Code: fault.KernelRefused, Severity: fault.Warning}, fault.Warning},
	} {
		b, err := json.Marshal([]fault.Fault{c.in})
		require.NoError(t, err)
		var out []fault.Fault
		require.NoError(t, json.Unmarshal(b, &out))
		require.Equal(t, c.want, out[0].Severity, "%s", b)
		require.True(t, c.in.Same(out[0]))
		require.Equal(t, c.in.Code, out[0].Code)
	}
	b, err := json.Marshal(fault.Fault{Code: fault.NodeDown, Item: "node a", What: "is down"})
	require.NoError(t, err)
	require.JSONEq(t, `{"code":"BZ0205","severity":"warning","item":"node a","what":"is down"}`, string(b))
	require.False(t, fault.Fault{Code: fault.NodeDown}.Same(fault.Fault{Code: fault.NodeDown, Severity: fault.Error}))
}
