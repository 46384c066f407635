package ovs_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
)

// edit changes a list a little, or altogether.
func edit[T any](rng *rand.Rand, list []T, fresh func() T) []T {
	list = slices.Clone(list)
	for range 1 + rng.IntN(4) {
		if len(list) == 0 || rng.IntN(3) == 0 {
			list = slices.Insert(list, rng.IntN(len(list)+1), fresh())
			continue
		}
		i := rng.IntN(len(list))
		switch rng.IntN(6) {
		case 0, 1:
			list = slices.Delete(list, i, min(len(list), i+1+rng.IntN(40)))
		case 2:
			list[i] = fresh()
		case 3:
			list = append(list, list[i]) // twice
		case 4:
			for range 50 {
				list = slices.Insert(list, i, fresh())
			}
		case 5:
			if rng.IntN(4) == 0 {
				rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			}
		}
	}
	return list
}

// diffFlows is DiffFlows by its definition.
func diffFlows(want []ovs.BoundFlow, have []ovs.FlowID) (add []ovs.BoundFlow, del []ovs.FlowID) {
	for _, f := range want {
		if !slices.Contains(have, f.ID()) {
			add = append(add, f)
		}
	}
	for _, id := range have {
		if !slices.Contains(del, id) && !slices.ContainsFunc(want, func(f ovs.BoundFlow) bool { return f.ID() == id }) {
			del = append(del, id)
		}
	}
	return add, del
}

func TestDiffFlowsIsWhatItSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	number := uint64(0)
	fresh := func() ovs.BoundFlow {
		number++
		return ovs.BoundFlow{Flow: ovs.Flow{Table: rng.IntN(3)}, Cookie: number}
	}
	var want, have []ovs.BoundFlow
	for i := range 1500 {
		if want = edit(rng, want, fresh); i%3 > 0 {
			have = edit(rng, want, fresh)
		}
		if len(want) > 400 {
			want = want[:100]
		}
		ids := make([]ovs.FlowID, len(have))
		for i, f := range have {
			ids[i] = f.ID()
		}
		wantAdd, wantDel := diffFlows(want, ids)
		add, del := ovs.DiffFlows(want, ids)
		require.True(t, slices.Equal(wantAdd, add), "step %d", i)
		require.True(t, slices.Equal(wantDel, del), "step %d", i)
	}
}

// Whatever was bound before, a Binder binds as Bind does, and leaves alone what it bound.
func TestBinderBindsAsBindDoes(t *testing.T) {
	port := func(i int) string { return fmt.Sprintf("p%d", i) }
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 2))
		number := 0
		fresh := func() ovs.Flow {
			number++
			f := ovs.Flow{Table: rng.IntN(2), Match: fmt.Sprint("metadata=", number), Actions: "drop", Class: "class"}
			if rng.IntN(3) == 0 {
				f.Match = fmt.Sprintf("in_port=%q,metadata=%d", port(rng.IntN(9)), number)
			}
			switch a, b := port(rng.IntN(9)), port(rng.IntN(9)); rng.IntN(4) {
			case 0:
				f.Actions = fmt.Sprintf("output:%q,output:%q", a, b)
			case 1:
				f.Actions = fmt.Sprintf("set_field:%q->reg2,goto_table:9", a)
			case 2:
				f.Actions = ovs.MeterOf(a) + ",goto_table:9"
			}
			return f
		}
		ofports := map[string]int{}
		var s ovs.State
		var b ovs.Binder
		var lastWant, last []ovs.BoundFlow
		for step := range 300 {
			if s.Flows = edit(rng, s.Flows, fresh); len(s.Flows) > 500 {
				s.Flows = s.Flows[:200]
			}
			if rng.IntN(3) == 0 {
				ofports = maps.Clone(ofports)
				if name := port(rng.IntN(9)); rng.IntN(2) == 0 {
					delete(ofports, name)
				} else {
					ofports[name] = 1 + rng.IntN(20)
				}
			}
			if rng.IntN(9) == 0 { // what the class of a flow says whose port is down
				s.Ports = []ovs.Port{{Name: port(rng.IntN(9)), ExternalIDs: map[string]string{
					ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: fmt.Sprint("host", step),
				}}}
			}
			want, _ := s.Bind(ofports)
			got := b.Bind(s, ofports)
			require.True(t, slices.Equal(want, got), "seed %d, step %d", seed, step)
			require.True(t, slices.Equal(lastWant, last), "seed %d, step %d: what was bound before has changed", seed, step)
			lastWant, last = want, got
		}
	}
}
