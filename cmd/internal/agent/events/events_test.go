package events

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// rig is a part with what other parts hand it.
type rig struct {
	*Part
	hub       *hub.Hub
	endpoints *part.Queue[attach.Deed]
	sw        *part.Queue[openvswitch.Deed]
	known     *part.Cell[attach.Known]
	called    *part.Cell[names.Called]
	faults    part.Faults
	stop      context.CancelFunc
	ended     chan error
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	r := &rig{
		hub: hub.New(hub.Identity{Node: "host1", ID: "one", Epoch: "boot1"}), endpoints: part.NewQueue[attach.Deed](100),
		sw: part.NewQueue[openvswitch.Deed](100), known: part.NewCell[attach.Known](nil),
		called: part.NewCell[names.Called](nil), ended: make(chan error, 1),
	}
	r.hub.SetInUse(map[string]bool{})
	r.Part = New(Sources{
		Hub: r.hub, Faults: r.faults.Get, FaultsWake: r.faults.Wakes, Endpoints: r.endpoints, Known: r.known, Switch: r.sw,
		Called: r.called, Label: "id", Version: "v1",
	}, dir, logrus.NewEntry(quiet))
	return r
}

func (r *rig) start(t *testing.T) {
	t.Helper()
	var ctx context.Context
	ctx, r.stop = context.WithCancel(t.Context())
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(r.stop)
}

// has waits until the journal has an event of a kind with a text in it.
func (r *rig) has(t *testing.T, kind event.Kind, text string) {
	t.Helper()
	testkit.Await(t, fmt.Sprintf("%s %s", kind, text), func() (bool, string) {
		list, err := r.journal.Read(event.Query{Kinds: []string{string(kind)}})
		for _, e := range list {
			if strings.Contains(e.Subject+" "+e.Text+" "+e.Cause, text) {
				return true, ""
			}
		}
		return false, fmt.Sprint(list, err)
	})
}

func snapshot(revision int64, records ...topology.Record) *topology.Snapshot {
	var kvs []topology.KV
	for _, r := range records {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: revision, ModRevision: revision},
		})
	}
	return topology.NewSnapshot(revision, kvs)
}

func TestPart(t *testing.T) {
	r := newRig(t, t.TempDir())
	x := ovs.Endpoint{Name: "4f2a", Network: "blue", Port: "bz1", Labels: map[string]string{"id": "docker-1"}}
	// Done before the part runs: nothing is missed.
	r.endpoints.Put(attach.Deed{At: at, Endpoint: x, What: attach.Attached, By: "the engine"})
	r.start(t)
	r.has(t, event.AgentStarted, "version v1")
	r.has(t, event.EndpointAttached, "the engine")

	var mu sync.Mutex
	var followed []event.Event
	following := make(chan error, 1)
	go func() {
		following <- r.Follow(t.Context(), event.Query{}, func(e event.Event) error {
			mu.Lock()
			defer mu.Unlock()
			followed = append(followed, e)
			return nil
		})
	}()

	r.known.Set(attach.Known{Endpoints: []ovs.Endpoint{x}})
	r.called.Set(names.Called{Containers: map[string]names.Container{"docker-1": {Name: "web", Image: "nginx"}}, Known: true})
	r.has(t, event.EndpointNamed, "container web, image nginx")
	r.called.Set(names.Called{Containers: map[string]names.Container{"docker-1": {Name: "web"}}, Known: true})

	host2 := topology.Node{Name: "host2", ID: "two"}
	r.hub.SetLast(snapshot(7))
	r.hub.SetOwn(snapshot(8, host2), false)
	r.has(t, event.NodeJoined, "nodes/host2 at revision 8")
	r.hub.SetError(&topology.Error{Code: fault.StoreUnavailable, Item: "etcd", What: "refused"})
	r.has(t, event.EtcdLost, "refused")
	r.hub.SetOwn(snapshot(9, host2), false)
	r.has(t, event.EtcdBack, "answers again after")

	r.faults.Set([]fault.Fault{{Code: fault.PortDead, Item: "port a", What: "dead"}})
	r.has(t, event.FaultFound, "port a dead")
	r.faults.Set(nil)
	r.has(t, event.FaultGone, "port a no longer: dead")

	r.sw.Put(openvswitch.Deed{At: at, What: openvswitch.Back}) // the first connection is no event
	r.sw.Put(openvswitch.Deed{At: at, What: openvswitch.Lost})
	r.sw.Put(openvswitch.Deed{At: at, What: openvswitch.Back})
	r.has(t, event.SwitchBack, "answers again")
	r.called.Set(names.Called{Known: true}) // the engine has forgotten it
	r.endpoints.Put(attach.Deed{At: at, Endpoint: x, What: attach.Detached, By: "the engine"})
	r.has(t, event.EndpointDetached, "container web")

	r.stop()
	require.NoError(t, <-r.ended)
	require.ErrorIs(t, <-following, topology.ErrUnavailable)
	list, err := r.journal.Read(event.Query{})
	require.NoError(t, err)
	count := map[event.Kind]int{}
	for _, e := range list {
		count[e.Kind]++
	}
	assert.Equal(t, map[event.Kind]int{
		event.AgentStarted: 1, event.AgentStopped: 1, event.EndpointAttached: 1, event.EndpointNamed: 1,
		event.EndpointDetached: 1, event.NodeJoined: 1, event.EtcdLost: 1, event.EtcdBack: 1, event.FaultFound: 1,
		event.FaultGone: 1, event.SwitchLost: 1, event.SwitchBack: 1,
	}, count)
	mu.Lock()
	defer mu.Unlock()
	assert.Len(t, followed, len(list), "each was followed, the last included")
	assert.Equal(t, event.AgentStopped, followed[len(followed)-1].Kind)
	counts, lost := r.journal.Counts()
	assert.EqualValues(t, 1, counts[event.NodeJoined])
	assert.Zero(t, lost)
}

// What changed while no agent ran is told by the next one.
func TestWhatChangedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	host2, host3 := topology.Node{Name: "host2", ID: "two"}, topology.Node{Name: "host3", ID: "three"}
	r.hub.SetLast(snapshot(7, host2))
	r.start(t)
	r.hub.SetOwn(snapshot(9, host3, topology.Liveness{Node: "host3", ID: "three"}), false)
	r.has(t, event.NodeJoined, "nodes/host3 at revision 9, while no agent ran here")
	r.has(t, event.NodeLeft, "host2")
	r.stop()
	require.NoError(t, <-r.ended)
	list, err := r.journal.Read(event.Query{Kinds: []string{"node-back"}})
	require.NoError(t, err)
	assert.Empty(t, list, "the copy on disk has no liveness to compare with")
}

// A disk that takes nothing is a fault of the journal alone, and ends with it.
func TestPartWithoutADisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	r := newRig(t, dir)
	r.start(t)
	testkit.Await(t, "the fault", func() (bool, string) {
		f := r.Faults()
		return len(f) == 1 && f[0].Code == fault.StateUnwritable, fmt.Sprint(f)
	})
	for range 1000 {
		r.endpoints.Put(attach.Deed{At: at}) // never waits
	}
	require.NoError(t, os.Mkdir(dir, 0o700))
	r.sw.Put(openvswitch.Deed{At: at, What: openvswitch.Lost})
	testkit.Await(t, "it is over", func() (bool, string) { f := r.Faults(); return len(f) == 0, fmt.Sprint(f) })
	r.has(t, event.AgentStarted, "v1")
	r.stop()
	require.NoError(t, <-r.ended)
}
