//go:build system

package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/ovs/ovstest"
)

// scale is how many nodes there are besides the one measured.
const scale = 1000

// BenchmarkScale measures one real agent with a real Open vSwitch among a
// thousand nodes.
func BenchmarkScale(b *testing.B) {
	c := newCluster(b)
	c.grow(b, scale)
	var h *rigHost

	b.Run("cold-start", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if h != nil {
				h.stop(c.tb)
			}
			sw := ovstest.Start(c.tb)
			b.StartTimer()
			h = c.start(c.tb, 1, sw, 0)
			c.converged(b, h)
		}
		b.ReportMetric(float64(h.flowCount()), "flows")
		b.ReportMetric(float64(len(h.interfaces(b))-1), "ports")
	})
	if h == nil { // not chosen with -bench
		h = c.start(b, 1, ovstest.Start(b), 0)
		c.converged(b, h)
	}

	b.Run("node-joins", func(b *testing.B) {
		i := firstNode + scale
		for b.Loop() {
			sub, err := c.join(b.Context(), i)
			require.NoError(b, err)
			await(b, "its flow", func() bool { return h.hasFlow(ndFlow(sub.Prefix)) })
			b.StopTimer()
			_, err = c.store.RemoveNode(b.Context(), node(i).Name, true)
			require.NoError(b, err)
			await(b, "no flow", func() bool { return !h.hasFlow(ndFlow(sub.Prefix)) })
			await(b, "no port", func() bool { return h.interfaces(b)["vx-"+node(i).Name] == "" })
			b.StartTimer()
		}
	})
	b.Run("address-changes", func(b *testing.B) {
		n, i := node(firstNode+scale/2), 0
		before := processorTime(b, h.pid)
		for b.Loop() {
			i++
			n.VTEPs = []netip.Addr{netip.AddrFrom4([4]byte{172, 17, byte(i >> 8), byte(i)})}
			_, err := c.store.RegisterNode(b.Context(), n)
			require.NoError(b, err)
			await(b, "the tunnel's new end", func() bool {
				return strings.Contains(h.Appctl("ofproto/list-tunnels"), "->"+n.VTEPs[0].String()+",")
			})
		}
		b.ReportMetric((processorTime(b, h.pid)-before).Seconds()*1000/float64(b.N), "agent-cpu-ms/op")
	})
	b.Run("status", func(b *testing.B) {
		for b.Loop() {
			s, err := h.api.Status(b.Context())
			require.NoError(b, err)
			require.Len(b, s.Peers, scale)
		}
	})
	b.Run("audit", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, h.api.Reconcile(b.Context(), true))
		}
	})
	b.Run("idle", func(b *testing.B) {
		// One audit, at the interval an agent has unless told otherwise, of tables in which
		// another has found nothing.
		const window = 30 * time.Second
		for range 2 {
			require.NoError(b, h.api.Reconcile(b.Context(), true))
		}
		for b.Loop() {
			before, began := processorTime(b, h.pid), time.Now()
			<-time.After(window)
			used := processorTime(b, h.pid) - before
			b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), "%cpu")
		}
		b.ReportMetric(memory(b, h.pid, "VmRSS"), "RSS-MB")
		b.ReportMetric(memory(b, h.pid, "VmHWM"), "RSS-peak-MB")
	})
}

// BenchmarkScaleJoinAtOnce measures a thousand nodes that join an agent within
// seconds, as after a power failure.
func BenchmarkScaleJoinAtOnce(b *testing.B) {
	var joined, behind time.Duration
	passes := 0
	for b.Loop() {
		b.StopTimer()
		c := newCluster(b)
		h := c.start(b, 1, ovstest.Start(b), 0)
		c.converged(b, h)
		b.StartTimer()
		began := time.Now()
		c.grow(b, scale)
		joined += time.Since(began)
		began = time.Now()
		c.converged(b, h)
		behind += time.Since(began)
		b.StopTimer()
		log, err := os.ReadFile(h.log)
		require.NoError(b, err)
		passes += bytes.Count(log, []byte("reconciled in"))
		h.stop(b)
		b.StartTimer()
	}
	b.ReportMetric(joined.Seconds()/float64(b.N), "s-joining")
	b.ReportMetric(behind.Seconds()/float64(b.N), "s-behind")
	b.ReportMetric(float64(passes)/float64(b.N), "passes")
}

// tick is the unit of times in /proc/PID/stat: USER_HZ.
const tick = time.Second / 100

// processorTime is what a process has used, to the nanosecond (clock_getcpuclockid(3)),
// and the children it waited for, to the tick (proc_pid_stat(5)).
func processorTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	const ofProcess = 2 // CPUCLOCK_SCHED
	var own unix.Timespec
	require.NoError(tb, unix.ClockGettime(int32(^pid<<3|ofProcess), &own))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(tb, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	used := time.Duration(own.Nano())
	for _, f := range strings.Fields(rest)[13:15] {
		n, err := strconv.Atoi(f)
		require.NoError(tb, err)
		used += time.Duration(n) * tick
	}
	return used
}

// memory reads a line of /proc/PID/status, in megabytes.
func memory(tb testing.TB, pid int, name string) float64 {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(tb, err)
	_, rest, _ := strings.Cut(string(b), name+":")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(tb, err)
	return float64(kb) / 1000
}
