package api

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// An answer has room for what matters.
func TestTrafficFits(t *testing.T) {
	var x Traffic
	for i := range 500 {
		x.Links = append(x.Links, Link{
			Node: fmt.Sprintf("host%d", i), Encap: "vxlan", State: StateOK, Counted: &LinkCounters{SentPackets: uint64(i)},
		})
	}
	x.Links[3].State = StateSilent
	x.Links[4].Down = true
	x.Links[5].State = StateDown // nobody knows
	all := x
	x.Fit(1 << 20)
	require.Equal(t, all, x)
	x.Fit(10_000)
	b, err := json.Marshal(x)
	require.NoError(t, err)
	require.LessOrEqual(t, len(b), 10_000)
	require.Greater(t, len(b), 8_000)
	require.Equal(t, 500, len(x.Links)+x.Left)
	require.Equal(t, []string{"host4", "host3", "host499"}, []string{x.Links[0].Node, x.Links[1].Node, x.Links[2].Node})
}
