package hub

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// Watcher delivers Baize's own records, as etcdstore.Store does.
type Watcher interface {
	Watch(ctx context.Context, deliver func(etcdstore.Update)) error
	// Faults are what is wrong although the store answers.
	Faults() []fault.Fault
}

// CacheFile is the file of the state directory that has the topology seen last.
const CacheFile = "topology.json"

// Records is the part of the agent that follows Baize's own records: it gives
// them to the hub, and keeps a copy on disk for a start without the store.
type Records struct {
	hub    *Hub
	store  Watcher
	cache  *Cache
	kept   *topology.Snapshot // the last one
	log    *logrus.Entry
	faults part.Faults
}

// NewRecords returns the part.
func NewRecords(h *Hub, store Watcher, stateDir string, log *logrus.Entry) *Records {
	log = log.WithField("part", "topology")
	cache := NewCache(filepath.Join(stateDir, CacheFile), topology.NewSnapshot, func(err error) { log.Warn(err) })
	return &Records{hub: h, store: store, cache: cache, log: log}
}

// ReadCache returns what was in force when an agent ran last; nil where that is not
// known.
func ReadCache(stateDir string) *topology.Snapshot {
	s, err := NewCache(filepath.Join(stateDir, CacheFile), topology.NewSnapshot, func(error) {}).Load()
	if err != nil {
		return nil
	}
	return s
}

// SetDisk says how the copy is written; before Run.
func (r *Records) SetDisk(w atomicfile.Writer) { r.cache.disk = w }

// Name implements part.Part.
func (r *Records) Name() string { return "topology" }

// Faults implements part.Part: what is wrong with the records and the store.
func (r *Records) Faults() []fault.Fault {
	t := r.hub.Topology().Get()
	faults := fault.Merge(fault.All(t.Err), t.Vanished...)
	faults = fault.Merge(faults, r.store.Faults()...)
	if t.Known() {
		faults = fault.Merge(faults, t.View().Problems...)
	}
	r.faults.Set(faults)
	return r.faults.Get()
}

// FaultsWake implements part.FaultTeller.
func (r *Records) FaultsWake(s part.Signal) {
	r.hub.Topology().Wakes(s)
	r.faults.Wakes(s)
}

// Run implements part.Part.
func (r *Records) Run(ctx context.Context) error {
	if last, err := r.cache.Load(); err == nil {
		r.hub.SetLast(last)
	}
	fallback := time.AfterFunc(CacheAfter, r.useCache)
	defer fallback.Stop()
	defer r.cache.Flush()
	return r.store.Watch(ctx, func(u etcdstore.Update) {
		was := r.hub.Topology().Get().Err
		if u.Err != nil {
			if was == nil {
				r.log.Warnf("etcd does not answer, forwarding goes on: %v", u.Err)
			}
			r.hub.SetError(u.Err)
			return
		}
		if was != nil {
			r.log.Info("etcd answers again")
		}
		fallback.Stop()
		r.hub.SetOwn(u.Snapshot, false)
		if t := r.hub.Topology().Get(); t.Own != nil && !t.Cached {
			r.keep(t.Own) // what is in force
		}
	})
}

// keep keeps a copy of a topology. Leases of this node are kept at once: endpoints get
// addresses of them, and are cut off where the next agent, without the store, does not
// know them.
func (r *Records) keep(s *topology.Snapshot) {
	r.cache.Save(s)
	if r.kept != nil && samePointer(r.kept.Subnets, s.Subnets) {
		return
	}
	own := func(s *topology.Snapshot) map[topology.SubnetID]bool {
		out := map[topology.SubnetID]bool{}
		for id, sub := range s.Subnets {
			if sub.Node == r.hub.Self().Node {
				out[id] = true
			}
		}
		return out
	}
	if r.kept == nil || !maps.Equal(own(r.kept), own(s)) {
		r.cache.FlushSoon() // what the store says next is not to wait for a slow disk
	}
	r.kept = s
}

// useCache takes what the agent saw before it was stopped.
func (r *Records) useCache() {
	s, err := r.cache.Load()
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			r.log.Warn(err)
		}
		return
	}
	r.log.Warnf("etcd does not answer: using the topology of revision %d seen last", s.Revision)
	r.hub.SetOwn(s, true)
}

// Await returns the topology; a moment after the agent's start there may be
// none yet.
func (h *Hub) Await(ctx context.Context) (Topology, error) {
	wake := part.NewSignal()
	h.records.Wakes(wake)
	defer h.records.Forget(wake)
	limit := time.NewTimer(2 * CacheAfter)
	defer limit.Stop()
	for {
		if t := h.records.Get(); t.Known() {
			return t, nil
		}
		select {
		case <-wake:
			continue
		case <-ctx.Done():
		case <-limit.C:
		}
		return Topology{}, &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: "topology",
			What:   "etcd has not answered since the agent started, and no earlier topology is known",
			Remedy: "check etcd; see 'baize status'",
		}
	}
}

// Cleanup implements part.Part.
func (r *Records) Cleanup(_ context.Context, undo part.Undo) ([]string, error) {
	return undo.RemoveFiles(r.cache.File())
}
