package etcdfake

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// database is what etcd keeps: keys with their history, and leases. A KeyValue
// in it is never changed, so copies share them.
type database struct {
	rev, compacted int64
	keys           []string // that have a history, sorted
	history        map[string][]version
	events         []event // since the compaction, by revision
	leases         map[int64]*lease
	nextLease      int64
}

// version is a key from one revision on; kv is nil when it was deleted.
type version struct {
	rev int64
	kv  *mvccpb.KeyValue
}

type event struct {
	rev int64
	ev  *mvccpb.Event
}

type lease struct {
	id, ttl int64
	expires time.Time
	keys    map[string]bool
}

func newDatabase() *database {
	// etcd begins at revision 1.
	return &database{rev: 1, history: map[string][]version{}, leases: map[int64]*lease{}, nextLease: 0x1000}
}

func (d *database) clone() *database {
	out := *d
	out.keys, out.events = slices.Clone(d.keys), slices.Clone(d.events)
	out.history, out.leases = map[string][]version{}, map[int64]*lease{}
	for k, v := range d.history {
		out.history[k] = slices.Clone(v)
	}
	for id, l := range d.leases {
		c := *l
		c.keys = maps.Clone(l.keys)
		out.leases[id] = &c
	}
	return &out
}

// at returns a key as it was at a revision; nil when it was not there.
func (d *database) at(key string, rev int64) *mvccpb.KeyValue {
	h := d.history[key]
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].rev <= rev {
			return h[i].kv
		}
	}
	return nil
}

// in reports whether a key lies in etcd's form of a range: end empty is one
// key, a zero byte everything from key on.
func in(key string, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return key == string(from)
	case len(end) == 1 && end[0] == 0:
		return key >= string(from)
	}
	return key >= string(from) && key < string(end)
}

// scan returns what is in a range at a revision, by key.
func (d *database) scan(from, end []byte, rev int64) []*mvccpb.KeyValue {
	if len(end) == 0 {
		if kv := d.at(string(from), rev); kv != nil {
			return []*mvccpb.KeyValue{kv}
		}
		return nil
	}
	var out []*mvccpb.KeyValue
	i, _ := slices.BinarySearch(d.keys, string(from))
	for ; i < len(d.keys) && in(d.keys[i], from, end); i++ {
		if kv := d.at(d.keys[i], rev); kv != nil {
			out = append(out, kv)
		}
	}
	return out
}

// checkRange refuses revisions that are not there (any more).
func (d *database) checkRange(r *pb.RangeRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.Revision > d.rev:
		return rpctypes.ErrGRPCFutureRev
	case r.Revision != 0 && r.Revision < d.compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// read answers a range; the revision in its header is rev.
func (d *database) read(r *pb.RangeRequest, rev int64) *pb.RangeResponse {
	at := r.Revision
	if at == 0 {
		at = rev
	}
	kvs := d.scan(r.Key, r.RangeEnd, at)
	out := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: rev}, Count: int64(len(kvs))}
	if r.CountOnly {
		return out
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, out.More = kvs[:r.Limit], true
	}
	if r.KeysOnly {
		for i, kv := range kvs {
			kvs[i] = copyKV(kv)
			kvs[i].Value = nil
		}
	}
	out.Kvs = kvs
	return out
}

func copyKV(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		Version: kv.Version, Value: kv.Value, Lease: kv.Lease,
	}
}

func (d *database) checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	case (r.IgnoreValue || r.IgnoreLease) && d.at(string(r.Key), d.rev) == nil:
		return rpctypes.ErrGRPCKeyNotFound
	case r.Lease != 0 && d.leases[r.Lease] == nil:
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return nil
}

// put stores a key at revision rev, which is the transaction's.
func (d *database) put(r *pb.PutRequest, rev int64) *pb.PutResponse {
	key := string(r.Key)
	old := d.at(key, rev)
	kv := &mvccpb.KeyValue{
		Key: r.Key, Value: r.Value, Lease: r.Lease, CreateRevision: rev, ModRevision: rev, Version: 1,
	}
	out := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: rev}}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if r.IgnoreValue {
			kv.Value = old.Value
		}
		if r.IgnoreLease {
			kv.Lease = old.Lease
		}
		if r.PrevKv {
			out.PrevKv = old
		}
		d.detach(old)
	}
	if l := d.leases[kv.Lease]; l != nil {
		l.keys[key] = true
	}
	d.record(key, rev, kv, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv})
	return out
}

func (d *database) detach(kv *mvccpb.KeyValue) {
	if l := d.leases[kv.Lease]; l != nil {
		delete(l.keys, string(kv.Key))
	}
}

func (d *database) record(key string, rev int64, kv *mvccpb.KeyValue, ev *mvccpb.Event) {
	if _, known := d.history[key]; !known {
		i, _ := slices.BinarySearch(d.keys, key)
		d.keys = slices.Insert(d.keys, i, key)
	}
	d.history[key] = append(d.history[key], version{rev, kv})
	d.events = append(d.events, event{rev, ev})
	d.rev = rev
}

// remove deletes a range at revision rev.
func (d *database) remove(r *pb.DeleteRangeRequest, rev int64) *pb.DeleteRangeResponse {
	gone := d.scan(r.Key, r.RangeEnd, rev)
	for _, kv := range gone {
		d.detach(kv)
		d.record(string(kv.Key), rev, nil, &mvccpb.Event{
			Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: rev},
		})
	}
	out := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{Revision: d.rev}, Deleted: int64(len(gone))}
	if r.PrevKv {
		out.PrevKvs = gone
	}
	return out
}

// compact forgets what was overwritten at rev or before.
func (d *database) compact(rev int64) error {
	switch {
	case rev <= d.compacted:
		return rpctypes.ErrGRPCCompacted
	case rev > d.rev:
		return rpctypes.ErrGRPCFutureRev
	}
	d.compacted = rev
	for key, h := range d.history {
		for len(h) > 1 && h[1].rev <= rev {
			h = h[1:]
		}
		if len(h) == 1 && h[0].kv == nil && h[0].rev <= rev {
			delete(d.history, key)
			continue
		}
		d.history[key] = h
	}
	d.keys = slices.DeleteFunc(d.keys, func(k string) bool { return d.history[k] == nil })
	i, _ := slices.BinarySearchFunc(d.events, rev, func(e event, r int64) int { return cmp.Compare(e.rev, r) })
	d.events = slices.Clone(d.events[i:])
	return nil
}

// since returns the events of a range from a revision on.
func (d *database) since(rev int64, from, end []byte) []*mvccpb.Event {
	i, _ := slices.BinarySearchFunc(d.events, rev, func(e event, r int64) int { return cmp.Compare(e.rev, r) })
	var out []*mvccpb.Event
	for _, e := range d.events[i:] {
		if in(string(e.ev.Kv.Key), from, end) {
			out = append(out, e.ev)
		}
	}
	return out
}

// holds evaluates a comparison: of every key in its range, or of an absent key.
func (d *database) holds(c *pb.Compare) bool {
	kvs := d.scan(c.Key, c.RangeEnd, d.rev)
	if len(kvs) == 0 {
		// There is no way to write "no value".
		return c.Target != pb.Compare_VALUE && compare(c, &mvccpb.KeyValue{})
	}
	for _, kv := range kvs {
		if !compare(c, kv) {
			return false
		}
	}
	return true
}

func compare(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	}
	return order < 0
}
