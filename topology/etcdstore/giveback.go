package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// GiveBack removes what a node has in a network that nothing on it needs any more:
// leases, pins and names; its reservations stay. A network that was created for
// Docker goes with the last part that any node has of it, unless somebody reserved
// a subnet in it. Of two nodes that are the last at the same moment one removes the
// record. It is no error where there is nothing to remove. Where the user may not remove
// the record, it stays: an operator removes it.
func (s *Store) GiveBack(ctx context.Context, network, node string) error {
	mayRemove := true
	return s.attempts(ctx, fmt.Sprintf("node %s in network %s", node, network), func() (bool, error) {
		v, err := s.readNetwork(ctx, network, topology.NamesKey(network, node))
		if err != nil {
			return false, err
		}
		n, there := v.Networks[network]
		parts := s.partsOf(v, network, node)
		chunk := parts[:min(len(parts), maxTxnOps-4)]
		docker := there && n.CreatedBy == topology.CreatedByDocker && mayRemove
		last := docker && len(chunk) == len(parts) && v.lastIs(network, node)
		if len(parts) == 0 && !last {
			return true, nil
		}
		t := s.settle(chunk)
		if last {
			t.cmps = append(t.cmps, append(s.stillUnused(network, v.Revision), s.unchanged(n.Key(), n.ModRevision))...)
			t.then = append(t.then, clientv3.OpDelete(s.key(n.Key())), clientv3.OpDelete(s.key(namesDir(network)),
				clientv3.WithPrefix()))
		}
		resp, err := s.commit(ctx, t)
		if last && errors.Is(err, topology.ErrDenied) {
			mayRemove = false
			return false, nil
		}
		// Another node may have given up its part meanwhile: then this one is the last.
		return err == nil && resp.Succeeded && (last || (len(chunk) == len(parts) && !docker)), err
	})
}

// lastIs reports whether nobody but a node has a part of a network, and nobody
// reserved one.
func (v view) lastIs(network, node string) bool {
	for id, sub := range v.Subnets {
		if id.Network == network && (sub.Node != node || sub.Reserved) {
			return false
		}
	}
	for id, p := range v.Pins {
		if id.Network == network && p.Node != node {
			return false
		}
	}
	// What cannot be read may be a lease of a newer version.
	for key := range v.Malformed {
		if strings.HasPrefix(key, subnetDir(network)) || strings.HasPrefix(key, pinDir(network)) {
			return false
		}
	}
	return true
}
