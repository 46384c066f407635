package vswitch

import (
	"context"

	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/vswitch/internal/vswitchd"
)

var (
	restoreWait     = map[string]string{ovs.RestoreWait: "true"}
	restoreWaitMark = map[string]string{ovs.KeyRestoreWait: ovs.Owner}
)

// SetRestoreWait sets other_config:flow-restore-wait and marks it as Baize's,
// in one transaction, unless somebody set it already: then it stays theirs.
// Only an ovs-vswitchd that starts afterwards heeds it. It holds every bridge
// of that ovs-vswitchd: ClearRestoreWait has to follow, whatever happens.
//
// It reads nothing first: there are milliseconds between the end of an
// ovs-vswitchd and the next one's look at the database.
func (c *Client) SetRestoreWait(ctx context.Context) error {
	_, err := c.mutateRoot(ctx,
		ovsdb.Condition{Column: "other_config", Function: ovsdb.ConditionExcludes, Value: dict(restoreWait)},
		setKeys("other_config", nil, restoreWait), // over a "false"
		setKeys("external_ids", nil, restoreWaitMark))
	return err
}

// ClearRestoreWait takes other_config:flow-restore-wait away where it has
// Baize's mark, and the mark, and reports whether it did. An ovs-vswitchd that
// waited replaces the kernel's flows by those of its tables.
func (c *Client) ClearRestoreWait(ctx context.Context) (cleared bool, err error) {
	return c.mutateRoot(ctx,
		ovsdb.Condition{Column: "external_ids", Function: ovsdb.ConditionIncludes, Value: dict(restoreWaitMark)},
		deleteKey("other_config", ovs.RestoreWait), deleteKey("external_ids", ovs.KeyRestoreWait))
}

// mutateRoot changes the one row of table Open_vSwitch if it meets a condition,
// and reports whether it did.
func (c *Client) mutateRoot(ctx context.Context, where ovsdb.Condition, mutations ...[]ovsdb.Mutation) (bool, error) {
	s, err := c.session(ctx)
	if err != nil {
		return false, err
	}
	op := ovsdb.Operation{Op: ovsdb.OperationMutate, Table: vswitchd.OpenvSwitchTable, Where: []ovsdb.Condition{where}}
	for _, m := range mutations {
		op.Mutations = append(op.Mutations, m...)
	}
	comment := "baize"
	res, err := c.transact(ctx, s, op, ovsdb.Operation{Op: ovsdb.OperationComment, Comment: &comment})
	return err == nil && res[0].Count > 0, err
}

func deleteKey(column, key string) []ovsdb.Mutation {
	return []ovsdb.Mutation{{Column: column, Mutator: ovsdb.MutateOperationDelete, Value: set([]string{key})}}
}
