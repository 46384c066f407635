package proof

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestProofNamesWhatFails(t *testing.T) {
	p := &Proof{Paths: []Path{
		{From: "host1/c1", To: "host2/c1", RTT: time.Millisecond}, {From: "host2/c1", To: "host1/c1", Error: "no answer"},
	}}
	assert.Len(t, p.Failed(), 1)
	assert.Equal(t, time.Millisecond, p.MedianRTT())
	err := p.Err("lab")
	require.ErrorIs(t, err, topology.ErrUnavailable)
	assert.ErrorContains(t, err, "1 of 2 paths")
	assert.ErrorContains(t, err, "host2/c1 to host1/c1")
	b, err := json.Marshal(p)
	require.NoError(t, err)
	assert.Contains(t, string(b), `"rttNanoseconds":1000000`)
}
