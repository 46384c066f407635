package vswitch

import (
	"slices"

	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/vswitch/internal/vswitchd"
)

// Keys of IPFIX's other_config. The value of virtualObsID is in every record. So many
// seconds are between two sendings of the templates: a collector that was restarted
// cannot read records before. Versions that do not know the key send them every ten
// minutes.
const (
	virtualObsID     = "virtual_obs_id"
	templateInterval = "template_interval"
	templateSeconds  = "60"
)

// selectSampling takes over what was selected of the tables of collectors.
func (r *rows) selectSampling(schema ovsdb.DatabaseSchema, res []ovsdb.OperationResult) (err error) {
	r.sets, err = decode(schema, vswitchd.FlowSampleCollectorSetTable, res[0],
		func(r *vswitchd.FlowSampleCollectorSet, id string) { r.UUID = id })
	if err != nil {
		return err
	}
	r.ipfix, err = decode(schema, vswitchd.IPFIXTable, res[1], func(r *vswitchd.IPFIX, id string) { r.UUID = id })
	if err != nil {
		return err
	}
	r.sflow, err = decode(schema, vswitchd.SFlowTable, res[2], func(r *vswitchd.SFlow, id string) { r.UUID = id })
	return err
}

// observeSampling says who is told of the bridge's packets.
func (r *rows) observeSampling(b *vswitchd.Bridge, o *ovs.Observed) {
	for _, s := range r.sets {
		if s.Bridge != b.UUID {
			continue
		}
		c := ovs.ObservedCollectorSet{CollectorSet: ovs.CollectorSet{ID: uint32(s.ID)}, Owned: owned(s.ExternalIDs)}
		if x := r.ipfix[deref(s.IPFIX)]; x != nil {
			c.Targets = slices.Sorted(slices.Values(x.Targets))
			c.Timeout, c.Flows, c.Node = deref(x.CacheActiveTimeout), deref(x.CacheMaxFlows), x.OtherConfig[virtualObsID]
		}
		if o.Collectors == nil {
			o.Collectors = map[uint32]ovs.ObservedCollectorSet{}
		}
		o.Collectors[c.ID] = c
	}
	if s := r.sflow[deref(b.Sflow)]; s != nil {
		o.SFlow = &ovs.ObservedSFlow{
			SFlow: ovs.SFlow{
				Targets:  slices.Sorted(slices.Values(s.Targets)),
				Sampling: deref(s.Sampling), Header: deref(s.Header), Polling: deref(s.Polling),
			},
			Owned: owned(s.ExternalIDs),
		}
	}
}

var ownMark = map[string]string{ovs.KeyOwner: ovs.Owner}

// sampling adds the operations on who is told of the packets of the bridge id, whose
// row is br.
func (t *txn) sampling(id string, br *vswitchd.Bridge, change ovs.DBChange) {
	for _, c := range change.SetCollectors {
		// A new row of IPFIX: the old one goes with the last that refers to it.
		row := ovsdb.Row{"ipfix": ovsdb.UUID{GoUUID: t.insertIPFIX(c)}}
		if old := t.collectorSet(br, c.ID); old != nil {
			if owned(old.ExternalIDs) {
				t.update(vswitchd.FlowSampleCollectorSetTable, old.UUID, row)
			}
			continue
		}
		row["id"], row["bridge"], row["external_ids"] = int(c.ID), ovsdb.UUID{GoUUID: id}, dict(ownMark)
		t.insert(vswitchd.FlowSampleCollectorSetTable, row)
	}
	t.removeSets(func(s *vswitchd.FlowSampleCollectorSet) bool {
		return s.Bridge == br.UUID && slices.Contains(change.RemoveCollectors, uint32(s.ID))
	})
	old := t.r.sflow[deref(br.Sflow)]
	if old != nil && !owned(old.ExternalIDs) {
		return
	}
	switch {
	case change.SetSFlow != nil:
		s := change.SetSFlow
		row := t.insert(vswitchd.SFlowTable, ovsdb.Row{
			"targets": set(s.Targets), "sampling": s.Sampling, "header": s.Header, "polling": s.Polling,
			"external_ids": dict(ownMark),
		})
		t.update(vswitchd.BridgeTable, id, ovsdb.Row{"sflow": ovsdb.UUID{GoUUID: row}})
	case change.RemoveSFlow && old != nil:
		t.update(vswitchd.BridgeTable, id, ovsdb.Row{"sflow": ovsdb.OvsSet{}})
	}
}

func (t *txn) insertIPFIX(c ovs.CollectorSet) string {
	return t.insert(vswitchd.IPFIXTable, ovsdb.Row{
		"targets": set(c.Targets), "cache_active_timeout": c.Timeout, "cache_max_flows": c.Flows,
		"other_config": dict(map[string]string{virtualObsID: c.Node, templateInterval: templateSeconds}),
		"external_ids": dict(ownMark),
	})
}

func (t *txn) collectorSet(br *vswitchd.Bridge, id uint32) *vswitchd.FlowSampleCollectorSet {
	for _, s := range t.r.sets {
		if s.Bridge == br.UUID && s.ID == int(id) {
			return s
		}
	}
	return nil
}

// removeSets deletes those of Baize's sets of collectors that are stale.
func (t *txn) removeSets(stale func(*vswitchd.FlowSampleCollectorSet) bool) {
	var gone []string
	for id, s := range t.r.sets {
		if owned(s.ExternalIDs) && stale(s) {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	for _, id := range gone {
		t.ops = append(t.ops, ovsdb.Operation{
			Op: ovsdb.OperationDelete, Table: vswitchd.FlowSampleCollectorSetTable, Where: byUUID(id),
		})
	}
}
