package etcdstore_test

import (
	"context"
	"math/rand/v2"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/etcdstore"
)

// actor is a client of the store.
type actor struct {
	s    *etcdstore.Store
	host *etcdfake.Host
	name string
	id   int
	// random says what it does; each has its own, so that a run can be repeated.
	random *rand.Rand
	// fault is asked before each of its requests.
	fault func() stepFault
	// meanwhile is what others do then.
	meanwhile func()
	// unanswered: a request of the call has got no answer.
	unanswered bool
}

// stepFault is what becomes of a request.
type stepFault int

const (
	noFault    stepFault = iota
	lostBefore           // it does not reach etcd
	lostAfter            // its answer is lost
	lostLong             // its answer is lost, and others come before it is repeated
)

// stepping is a backend whose requests have faults.
type stepping struct {
	*etcdfake.Host
	a *actor
}

func (b stepping) Connect(ctx context.Context) (etcdstore.Client, error) {
	c, err := b.Host.Connect(ctx)
	return steppingClient{c, b.a}, err
}

type steppingClient struct {
	etcdstore.Client
	a *actor
}

// faulty runs a request, or not.
func faulty[T any](a *actor, f func() (T, error)) (out T, err error) {
	x := a.fault()
	if x != lostBefore {
		out, err = f()
	}
	if x == lostLong {
		a.meanwhile()
	}
	a.unanswered = a.unanswered || x != noFault || err != nil
	if x != noFault {
		var zero T
		return zero, rpctypes.ErrNoLeader // another member may answer: the store repeats the request
	}
	return out, err
}

func (c steppingClient) Get(ctx context.Context, k string, o ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return faulty(c.a, func() (*clientv3.GetResponse, error) { return c.Client.Get(ctx, k, o...) })
}

func (c steppingClient) Txn(ctx context.Context) clientv3.Txn {
	return steppingTxn{c.Client.Txn(ctx), c.a}
}

type steppingTxn struct {
	clientv3.Txn
	a *actor
}

func (t steppingTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	return steppingTxn{t.Txn.If(cs...), t.a}
}
func (t steppingTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	return steppingTxn{t.Txn.Then(ops...), t.a}
}
func (t steppingTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	return steppingTxn{t.Txn.Else(ops...), t.a}
}
func (t steppingTxn) Commit() (*clientv3.TxnResponse, error) {
	return faulty(t.a, t.Txn.Commit)
}
