package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// denied is the error for keys that the user may not use. etcd does not say which keys of
// a request those are.
func (s *Store) denied(item, what string) error {
	e := unavailable(item, fmt.Sprintf("permission denied: %s may not %s", s.user(), what),
		fmt.Sprintf("changes by people need a user with the role %s; a node's user gets its rights by "+
			"'baize auth add NODE', which root runs; 'baize auth status' shows who may what",
			topology.OperatorRole(s.cfg.Prefix)))
	e.Kind, e.Code = topology.ErrDenied, fault.StoreDenied
	return e
}

// nameDenied finds out which key of a transaction is denied, and names it.
func (s *Store) nameDenied(ctx context.Context, t txn, err error) error {
	if !errors.Is(err, topology.ErrDenied) {
		return err
	}
	for _, op := range t.then {
		if !op.IsPut() && !op.IsDelete() {
			continue
		}
		if is(s.mayDo(ctx, op), rpctypes.ErrPermissionDenied) {
			return s.denied("etcd key "+string(op.KeyBytes()), "write it")
		}
	}
	return err
}

// mayDo asks whether an operation would be accepted, and does nothing: it is in a
// transaction whose comparison cannot hold. etcd checks the user's permission, and whether
// its database is full, before it compares.
func (s *Store) mayDo(ctx context.Context, op clientv3.Op) error {
	_, err := request(ctx, s, func(ctx context.Context, c Client) (*clientv3.TxnResponse, error) {
		return c.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(string(op.KeyBytes())), "=", math.MaxInt64)).
			Then(op).Commit()
	})
	return err
}

// MayWrite asks whether keys could be written, and writes nothing: those of some rights,
// or, without any, one below the prefix. The error names all that could not.
func (s *Store) MayWrite(ctx context.Context, rights ...topology.Right) error {
	if len(rights) == 0 {
		rights = []topology.Right{{Key: s.key("alive/~"), Write: true}}
	}
	var missing []string
	for _, r := range rights {
		if !r.Write {
			continue
		}
		op := clientv3.OpPut(r.Key, "")
		if r.Below {
			op = clientv3.OpDelete(r.Key, clientv3.WithPrefix())
		}
		err := s.mayDo(ctx, op)
		switch {
		case is(err, rpctypes.ErrPermissionDenied):
			missing = append(missing, strings.TrimPrefix(r.String(), "readwrite "))
		case err != nil:
			return s.explain(ctx, err)
		}
	}
	if len(missing) > 0 {
		return s.denied("etcd keys "+strings.Join(missing, ", "), "write them")
	}
	return nil
}
