package ovs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A port's meter has the port's number, and a name in texts for people.
func TestMetersOfPorts(t *testing.T) {
	s := State{
		Meters: []Meter{{Rate: 10}, {Port: "c1", Rate: 1}},
		Flows: []Flow{
			{Table: 35, Match: `in_port="c1"`, Actions: MeterOf("c1") + ",goto_table:40"},
			{Table: 40, Actions: NodeMeterAction + `,output:"c1"`},
		},
	}
	bound, missing := s.Bind(map[string]int{"c1": 7})
	require.Empty(t, missing)
	require.Equal(t, "meter:65543,goto_table:40", bound[0].Actions)
	require.Equal(t, "meter:131071,output:7", bound[1].Actions)
	for i := range bound {
		require.Equal(t, s.Flows[i], Unbind(bound[i], map[int]string{7: "c1"}))
	}
	require.Equal(t, []BoundMeter{{ID: MeterBase + 7, Rate: 1}, {ID: NodeMeter, Rate: 10}}, s.BindMeters(map[string]int{"c1": 7}))
	gone, _ := s.Bind(map[string]int{})
	require.Len(t, gone, 1, "the flow of a port that is not there is left out")
	require.Equal(t, "drop", gone[0].Actions)
	require.Len(t, s.BindMeters(nil), 1)

	plain := s.Unmetered()
	require.Empty(t, plain.Meters)
	require.Equal(t, "goto_table:40", plain.Flows[0].Actions)
	require.Equal(t, `output:"c1"`, plain.Flows[1].Actions)
	require.Equal(t, NodeMeterAction+`,output:"c1"`, s.Flows[1].Actions, "the state itself is as it was")
}
