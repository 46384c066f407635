package vswitch_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/topology"
)

func TestRestoreWait(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	o.Vsctl("set", "Open_vSwitch", ".", "other_config:theirs=1", "external_ids:theirs=2")
	const others, ids = `{theirs="1"}`, `{theirs="2"}`
	rows := func() (string, string) {
		return strings.TrimSpace(
				o.Vsctl("get", "Open_vSwitch", ".", "other_config"),
			), strings.TrimSpace(
				o.Vsctl("get", "Open_vSwitch", ".", "external_ids"),
			)
	}
	requireState := func(set, owned bool) {
		t.Helper()
		got := observe(t, c)
		require.Equal(t, set, got.RestoreWait)
		require.Equal(t, owned, got.RestoreWaitOwned)
		all, err := c.ObserveAll(t.Context())
		require.NoError(t, err)
		require.Equal(t, got, all)
	}
	clearIt := func() bool {
		t.Helper()
		cleared, err := c.ClearRestoreWait(t.Context())
		require.NoError(t, err)
		return cleared
	}
	requireState(false, false)
	require.False(t, clearIt(), "there was nothing to clear")

	require.NoError(t, c.SetRestoreWait(t.Context()))
	requireState(true, true)
	require.NoError(t, c.SetRestoreWait(t.Context()), "again")
	requireState(true, true)
	require.True(t, clearIt())
	requireState(false, false)
	config, external := rows()
	require.Equal(t, others, config)
	require.Equal(t, ids, external)

	// Over an explicit false.
	o.Vsctl("set", "Open_vSwitch", ".", "other_config:flow-restore-wait=false")
	require.NoError(t, c.SetRestoreWait(t.Context()))
	requireState(true, true)
	// Whoever set it, ovs-ctl, say, took it away: the mark goes too.
	o.Vsctl("remove", "Open_vSwitch", ".", "other_config", "flow-restore-wait")
	requireState(false, true)
	require.True(t, clearIt())
	requireState(false, false)

	// Somebody else's is left alone.
	o.Vsctl("set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
	require.NoError(t, c.SetRestoreWait(t.Context()))
	requireState(true, false)
	require.False(t, clearIt())
	requireState(true, false)

	o.KillOVSDB()
	require.ErrorIs(t, c.SetRestoreWait(t.Context()), topology.ErrUnavailable)
	_, err := c.ClearRestoreWait(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
}

// TestRunNoticesRestoreWait: somebody else's is to be reported at once.
func TestRunNoticesRestoreWait(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	var fired atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func() { fired.Add(1) }) }()
	require.Eventually(t, func() bool { return fired.Load() > 0 }, wait, tick)
	n := fired.Load()
	o.Vsctl("set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
	require.Eventually(t, func() bool { return fired.Load() > n }, wait, tick)
	require.True(t, observe(t, c).RestoreWait)
	cancel()
	require.NoError(t, <-ended)
}
