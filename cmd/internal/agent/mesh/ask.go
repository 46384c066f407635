package mesh

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/topology"
)

// What people ask: whether one peer answers now, and what all nodes know.

const (
	// hurryFor is how long all ways are probed faster after somebody looked.
	hurryFor = 15 * time.Second
	// rowTimeout bounds the wait for a part of a row, rowTries how often it is asked
	// for.
	rowTimeout = time.Second
	rowTries   = 3
	// rowsMost is how many nodes are asked at a time.
	rowsMost = 16
)

// Pong is what became of one probe.
type Pong struct {
	Key
	// Size is the IP packet's that an endpoint would have sent, in bytes.
	Size int
	// RTT is the time of the answer; 0: none came in time.
	RTT time.Duration
	// There says, of a probe that was not answered, whether it arrived: "yes", "no" or
	// "unknown".
	There string
}

// Ping sends one probe to a peer and waits for its answer until ctx ends. encap is
// empty where the peer has one way only; size is that of an endpoint's IP packet, 0
// for the least. Errors are of kind ErrNotFound, ErrInvalid and ErrUnavailable.
func (p *Part) Ping(ctx context.Context, node string, encap topology.Transport, size int) (Pong, error) {
	if size < 0 || size > maxFrame-ethernet {
		return Pong{}, &topology.Error{
			Kind: topology.ErrInvalid, Item: fmt.Sprintf("a probe of %d bytes", size), What: "no frame has such a size",
			Remedy: fmt.Sprintf("give a size from 0 to %d", maxFrame-ethernet),
		}
	}
	p.mu.Lock()
	w, err := p.way(node, encap)
	if err != nil {
		p.mu.Unlock()
		return Pong{}, err
	}
	s, length := small, headerSize
	if size+ethernet > headerSize {
		s, length = large, size+ethernet
	}
	f := w.next(kindProbe, s, length, time.Now())
	pong := Pong{Key: w.Key, Size: length - ethernet}
	answer := p.await(awaited{w.Key, kindAnswer, s, f.seq})
	out := p.engine.outgoing(w, f)
	p.mu.Unlock()
	p.send([]outgoing{out})

	select {
	case got := <-answer:
		pong.RTT = max(got.rtt, time.Microsecond)
		return pong, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, answer)
	pong.There = "unknown"
	if r := w.tx[s].find(f.seq); r != nil && r.fate == arrived {
		pong.There = "yes"
	} else if r != nil && r.fate == lost {
		pong.There = "no"
	}
	return pong, nil
}

// await returns where a frame will be. It needs p.mu.
func (p *Part) await(k awaited) chan arrival {
	c := make(chan arrival, 1)
	p.waiting[c] = k
	return c
}

// way finds the way to a node. It needs p.mu.
func (p *Part) way(node string, encap topology.Transport) (*peer, error) {
	var list []*peer
	for _, w := range p.engine.order {
		if w.Node == node && (encap == "" || w.Encap == encap) {
			list = append(list, w)
		}
	}
	item := "node " + node
	switch {
	case node == p.hub.Self().Node:
		return nil, &topology.Error{
			Kind: topology.ErrInvalid, Item: item, What: "is this node itself", Remedy: "name another: 'baize node list'",
		}
	case len(list) == 0:
		return nil, &topology.Error{
			Kind: topology.ErrNotFound, Item: item, What: "is no peer of this node: they have no network with tunnels in common",
			Remedy: "'baize status' lists the peers",
		}
	case len(list) > 1:
		return nil, &topology.Error{
			Kind: topology.ErrInvalid, Item: item, What: fmt.Sprintf("has tunnels of %d encapsulations", len(list)),
			Remedy: fmt.Sprintf("say which with --encap: %s or %s", list[0].Encap, list[1].Encap),
		}
	case !p.engine.connected:
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "probes", What: "this agent has no connection to the switch",
			Remedy: "see 'baize status'",
		}
	case list[0].Port <= 0:
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: item, What: "its tunnel has no port yet", Remedy: "see 'baize status'",
		}
	case !list[0].Answers:
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: item,
			What:   "does not answer probes: its agent is of an older version, does not run, or has --probe-interval 0",
			Remedy: "'baize node list' shows the agents",
		}
	}
	return list[0], nil
}

// Row is what one node knows of its ways.
type Row struct {
	Node string
	// Results are those that the node told: without Since, RTTMax, Needed and Detail.
	Results []Result
}

// Rows asks all peers for what they know, until ctx ends, and returns the rows that
// came, this node's own first. Every way is probed faster for a while.
func (p *Part) Rows(ctx context.Context) []Row {
	now := time.Now()
	p.mu.Lock()
	p.engine.quicken(now)
	out := []Row{{p.hub.Self().Node, p.engine.results(now)}}
	ways := p.engine.ways()
	p.mu.Unlock()
	p.turn.Wake()
	names := p.names()
	rows := make(chan Row, len(ways))
	var g errgroup.Group
	g.SetLimit(rowsMost)
	for _, key := range ways {
		g.Go(func() error {
			if row, ok := p.row(ctx, key, names); ok {
				rows <- row
			}
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	close(rows)
	for row := range rows {
		out = append(out, row)
	}
	slices.SortFunc(out[1:], func(a, b Row) int { return topology.CompareNames(a.Node, b.Node) })
	return out
}

// names are those of all nodes, by what frames call them.
func (p *Part) names() map[uint64]string {
	t := p.hub.Topology().Get()
	out := map[uint64]string{}
	if !t.Known() {
		return out
	}
	for name := range t.Snapshot.Nodes {
		out[hashOf(name)] = name
	}
	return out
}

// row asks a peer for its row, part by part; what has come when ctx ends is its row.
func (p *Part) row(ctx context.Context, key Key, names map[uint64]string) (Row, bool) {
	row := Row{Node: key.Node}
	for first := 0; ; first += rowPart {
		got, ok := p.rowPart(ctx, key, first)
		if !ok {
			return row, first > 0
		}
		for _, e := range decodeEntries(got.frame.body, rowPart) {
			if name := names[e.peer]; name != "" {
				row.Results = append(row.Results, e.result(name))
			}
		}
		if first+rowPart >= int(got.frame.answers) {
			return row, true
		}
	}
}

func (p *Part) rowPart(ctx context.Context, key Key, first int) (arrival, bool) {
	for range rowTries {
		p.mu.Lock()
		w := p.engine.peers[key]
		if w == nil { // it is no peer any more
			p.mu.Unlock()
			return arrival{}, false
		}
		answer := p.await(awaited{key: key, kind: kindRow, seq: uint32(first)})
		out := p.engine.ask(w, first)
		p.mu.Unlock()
		p.send([]outgoing{out})
		limit, cancel := context.WithTimeout(ctx, rowTimeout)
		select {
		case got := <-answer:
			cancel()
			return got, true
		case <-limit.Done():
			cancel()
		}
		p.mu.Lock()
		delete(p.waiting, answer)
		p.mu.Unlock()
		if ctx.Err() != nil {
			break
		}
	}
	return arrival{}, false
}

// result is the entry as a result.
func (e entry) result(node string) Result {
	percent := func(n uint8) int {
		if n == unknown {
			return -1
		}
		return int(n)
	}
	return Result{
		Key: Key{node, e.encap}, Verdict: e.verdict, LossOut: percent(e.lossOut), LossIn: percent(e.lossIn),
		RTT: time.Duration(e.rtt) * time.Microsecond, Passes: int(e.passes),
	}
}
