package command

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology/fault"
)

// The agent knows since when; what is computed here from etcd does not.
func TestStatusShowsAFaultOnce(t *testing.T) {
	f := fault.Fault{Code: fault.RecordConflict, Item: "networks/red", What: "VNI 100 is used by network blue already"}
	seen := f
	seen.Since = time.Now()
	item := statusItem{}
	item.add(seen)
	item.add(f)
	require.Equal(t, []fault.Fault{seen}, item.Problems)
}
