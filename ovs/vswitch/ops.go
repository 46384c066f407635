package vswitch

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/baize-net/baize/ovs"
)

// guard makes the transaction fail unless the row is still there and ours.
func (t *txn) guard(table, name string, externalIDs map[string]string) {
	now := 0
	mark := dict(map[string]string{ovs.KeyOwner: externalIDs[ovs.KeyOwner]})
	t.ops = append(t.ops, ovsdb.Operation{
		Op: ovsdb.OperationWait, Table: table, Timeout: &now,
		Where: []ovsdb.Condition{
			{Column: "name", Function: ovsdb.ConditionEqual, Value: name},
			{Column: "external_ids", Function: ovsdb.ConditionIncludes, Value: mark},
		},
		Columns: []string{"name"}, Until: string(ovsdb.WaitConditionEqual), Rows: []ovsdb.Row{{"name": name}},
	})
}

// insert adds a row and returns the name it has within the transaction.
func (t *txn) insert(table string, row ovsdb.Row) string {
	t.named++
	// '-' is not allowed in such a name.
	id := fmt.Sprintf("row%d", t.named)
	t.ops = append(t.ops, ovsdb.Operation{Op: ovsdb.OperationInsert, Table: table, Row: row, UUIDName: id})
	return id
}

func (t *txn) update(table, uuid string, row ovsdb.Row) {
	t.ops = append(t.ops, ovsdb.Operation{Op: ovsdb.OperationUpdate, Table: table, Where: byUUID(uuid), Row: row})
}

func (t *txn) mutate(table, uuid string, m []ovsdb.Mutation) {
	t.ops = append(t.ops, ovsdb.Operation{Op: ovsdb.OperationMutate, Table: table, Where: byUUID(uuid), Mutations: m})
}

func byUUID(uuid string) []ovsdb.Condition {
	return []ovsdb.Condition{{Column: "_uuid", Function: ovsdb.ConditionEqual, Value: ovsdb.UUID{GoUUID: uuid}}}
}

// setKeys brings the named keys of a map column to their values. An insert does
// not overwrite a key, so each is deleted first. Of old, keys of our own that
// are not wanted any more go as well; keys of others stay.
func setKeys(column string, old, want map[string]string) []ovsdb.Mutation {
	drop := maps.Clone(want)
	if drop == nil {
		drop = map[string]string{}
	}
	for k := range old {
		if k == ovs.KeyOwner || strings.HasPrefix(k, ovs.KeyOwner+"-") {
			drop[k] = ""
		}
	}
	if len(drop) == 0 {
		return nil
	}
	m := []ovsdb.Mutation{{
		Column: column, Mutator: ovsdb.MutateOperationDelete, Value: set(slices.Sorted(maps.Keys(drop))),
	}}
	if len(want) > 0 {
		m = append(m, ovsdb.Mutation{Column: column, Mutator: ovsdb.MutateOperationInsert, Value: dict(want)})
	}
	return m
}

func set[T any](in []T) ovsdb.OvsSet {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = v
	}
	return ovsdb.OvsSet{GoSet: out}
}

// optional is the value of a column that may be empty.
func optional(v string) ovsdb.OvsSet {
	if v == "" {
		return ovsdb.OvsSet{}
	}
	return set([]string{v})
}

func dict(in map[string]string) ovsdb.OvsMap {
	out := make(map[any]any, len(in))
	for k, v := range in {
		out[k] = v
	}
	return ovsdb.OvsMap{GoMap: out}
}
