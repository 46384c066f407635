package attach

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// An agent that is started again knows what the one before it promised an
// engine, and to which request.
func TestPromisesOutliveTheAgent(t *testing.T) {
	file := filepath.Join(t.TempDir(), recordsFile)
	r := newRecords(file)
	require.NoError(t, r.loadOnce())
	addr := netip.MustParseAddr("10.1.5.2")
	e := ovs.Endpoint{
		Name: "docker-1", Network: "blue", IPs: []netip.Addr{addr}, MAC: topology.MACOf(addr), Port: "bz0000000001",
		Allow: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, Labels: map[string]string{"docker-endpoint": "1"},
	}
	r.change(func() { r.reserved[reservation{"blue", addr}] = promise{time.Now(), "relay-7"} })
	require.NoError(t, r.await(e))
	require.NoError(t, r.save())

	next := newRecords(file)
	require.NoError(t, next.loadOnce())
	assert.Equal(t, []ovs.Endpoint{e}, next.known.Get().Pending)

	// The next agent knows a device that this one is about to make by its name.
	e.Port = "bz-web"
	require.True(t, next.rename(next.known.Get().Pending[0], e.Port))
	require.NoError(t, next.save())
	next = newRecords(file)
	require.NoError(t, next.loadOnce())
	assert.Equal(t, []ovs.Endpoint{e}, next.known.Get().Pending)

	// Handed over, and taken back to be handed over again: it is known all the time.
	require.NoError(t, next.put(e))
	require.NoError(t, next.save())
	next = newRecords(file)
	require.NoError(t, next.loadOnce())
	assert.Equal(t, Known{Endpoints: []ovs.Endpoint{e}}, next.known.Get())
	require.NoError(t, next.await(e))
	require.NoError(t, next.save())
	next = newRecords(file)
	require.NoError(t, next.loadOnce())
	assert.Equal(t, Known{Pending: []ovs.Endpoint{e}}, next.known.Get())

	next.change(func() { next.reserved[reservation{"blue", addr}] = promise{time.Now(), "relay-7"} })
	got, ok := next.repeated(Reservation{Network: "blue", Family: topology.IPv4, Request: "relay-7"})
	assert.True(t, ok)
	assert.Equal(t, addr, got)
	for _, other := range []Reservation{
		{Network: "blue", Family: topology.IPv4, Request: "relay-8"},
		{Network: "blue", Family: topology.IPv4},
		{Network: "red", Family: topology.IPv4, Request: "relay-7"},
	} {
		_, ok := next.repeated(other)
		assert.False(t, ok, "%+v", other)
	}
}

// An agent that was killed while it removed an endpoint leaves a port and a
// device. The next one adopts neither, and removes the device after the port.
func TestRemovalIsFinished(t *testing.T) {
	file := filepath.Join(t.TempDir(), recordsFile)
	r := newRecords(file)
	require.NoError(t, r.loadOnce())
	addr := netip.MustParseAddr("10.1.5.2")
	e := ovs.Endpoint{Name: "web", Network: "blue", IPs: []netip.Addr{addr}, Port: "bz0000000001"}
	require.NoError(t, r.put(e))
	r.remove(e.Port)
	require.NoError(t, r.save())

	next := newRecords(file)
	assert.Empty(t, next.Adopt([]ovs.Endpoint{e}))
	var detached []string
	finish := func() []string {
		require.NoError(t, next.finish(func(port string) error { detached = append(detached, port); return nil }))
		return detached
	}
	assert.Empty(t, finish(), "its port is there")
	assert.Empty(t, next.Adopt(nil))
	select {
	case <-next.wake:
	default:
		assert.Fail(t, "nobody is told")
	}
	assert.Equal(t, []string{e.Port}, finish())
	assert.Equal(t, []string{e.Port}, finish(), "once")
	require.NoError(t, next.save())

	// The switch has the port no more, the device is there still, and the file is written for
	// another endpoint when the agent is killed.
	other := ovs.Endpoint{Name: "db", Network: "blue", IPs: []netip.Addr{addr.Next()}, Port: "bz0000000002"}
	require.NoError(t, r.put(e))
	r.remove(e.Port)
	assert.Empty(t, r.Adopt(nil))
	require.NoError(t, r.put(other))
	require.NoError(t, r.save())
	next = newRecords(file)
	assert.Equal(t, []ovs.Endpoint{other}, next.Adopt([]ovs.Endpoint{other}))
	detached = nil
	assert.Equal(t, []string{e.Port}, finish())
	r.unplugged(e.Port)
	r.remove(other.Port)
	r.unplugged(other.Port)
	r.Adopt(nil)
	require.NoError(t, r.save())
	next = newRecords(file)
	assert.Empty(t, next.Adopt(nil))
	detached = nil
	assert.Empty(t, finish(), "what is gone is not looked for")

	// One that is added again meanwhile keeps its device.
	require.NoError(t, r.put(e))
	r.remove(e.Port)
	require.NoError(t, r.save())
	next = newRecords(file)
	next.Adopt([]ovs.Endpoint{e})
	next.Adopt(nil)
	require.NoError(t, next.await(e))
	detached = nil
	assert.Empty(t, finish())
}

// Endpoints of attachments that were on their way when an agent was killed are none: who
// asked for them asks again, and gets their addresses. Their devices are removed.
func TestAttachmentsOnTheirWay(t *testing.T) {
	file := filepath.Join(t.TempDir(), recordsFile)
	r := newRecords(file)
	require.NoError(t, r.loadOnce())
	addr := netip.MustParseAddr("10.1.5.2")
	e := ovs.Endpoint{
		Name: "cni-1", Network: "blue", IPs: []netip.Addr{addr}, Port: "bz-web",
		Labels: map[string]string{api.LabelEngine: api.EngineCNI},
	}
	require.NoError(t, r.await(e))
	require.NoError(t, r.save())

	next := newRecords(file)
	assert.Empty(t, next.Adopt(nil))
	require.NoError(t, next.loadOnce())
	assert.Empty(t, next.known.Get().All())
	assert.Empty(t, next.taken("blue"))
	var detached []string
	require.NoError(t, next.finish(func(port string) error { detached = append(detached, port); return nil }))
	assert.Equal(t, []string{e.Port}, detached)
}
