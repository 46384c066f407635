package attach

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// A network is closed before it is given back, at a moment when no request, promise or
// endpoint uses it; whoever comes then is told.
func TestCloseIdle(t *testing.T) {
	p := &Part{records: newRecords(filepath.Join(t.TempDir(), recordsFile))}
	for name, use := range map[string]func() (end func()){
		"a request": func() func() {
			_, first := p.begin("blue")
			_, second := p.begin("blue")
			first()
			return second
		},
		"a promise": func() func() {
			x := reservation{"blue", netip.MustParseAddr("10.1.5.2")}
			p.change(func() { p.reserved[x] = promise{at: time.Now()} })
			return func() { p.change(func() { delete(p.reserved, x) }) }
		},
		"an endpoint on its way": func() func() {
			e := ovs.Endpoint{Name: "web", Network: "blue", Port: "p1"}
			require.NoError(t, p.await(e))
			return func() { p.forget(e) }
		},
		"an endpoint": func() func() {
			require.NoError(t, p.put(ovs.Endpoint{Name: "web", Network: "blue", Port: "p1"}))
			return func() { p.remove("p1") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			end := use()
			assert.True(t, p.CloseIdle("red"))
			assert.False(t, p.CloseIdle("blue"))
			end()
			require.True(t, p.CloseIdle("blue"))
			closed, end := p.begin("blue")
			assert.True(t, closed)
			end()
			assert.Empty(t, p.busy)
			p.Reopen("blue")
			closed, end = p.begin("blue")
			assert.False(t, closed)
			end()
		})
	}
}

// A fault of an endpoint names its container (U13).
func TestFaultsNameContainers(t *testing.T) {
	p := &Part{records: newRecords(filepath.Join(t.TempDir(), recordsFile))}
	endpoints := []ovs.Endpoint{{Name: "docker-1", Network: "gone"}, {Name: "c1", Network: "gone"}}
	p.SetCalled(func(e ovs.Endpoint) string {
		if e.Name == "docker-1" {
			return "container web"
		}
		return ""
	})
	faults := p.endpointFaults(topology.View{}, endpoints)
	require.Len(t, faults, 2)
	require.Equal(t, "endpoint docker-1, container web", faults[0].Item)
	require.Equal(t, "endpoint c1", faults[1].Item)

	web := netip.MustParseAddr("10.1.5.2")
	require.NoError(t, p.put(ovs.Endpoint{Name: "docker-1", Network: "blue", Port: "bz-web", IPs: []netip.Addr{web}}))
	require.Equal(t, "endpoint docker-1, container web", p.taken("blue")[web])
}
