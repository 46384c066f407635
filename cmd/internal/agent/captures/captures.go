// Package captures is the part of the agent that captures packets for other hosts, which
// ask by way of etcd (capture.Request). It listens nowhere: it connects to a node that
// asks, and ends with that connection. How many captures there are at a time, how long
// each may take and how much it sends, is bounded.
package captures

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// atATime is how many captures there are at the same time.
const atATime = 2

// Config is what the part is started with.
type Config struct {
	// Refuse: nothing is captured for other hosts.
	Refuse bool
	// Find returns a point of this node.
	Find func(ctx context.Context, name string) (api.Point, error)
	// IsNode reports whether a node of the cluster has an address.
	IsNode func(netip.Addr) bool
}

// Part is the part of the agent.
type Part struct {
	cfg   Config
	log   *logrus.Entry
	slots chan struct{}
	jobs  chan job
}

type job struct {
	sender  *capture.Sender
	point   api.Point
	request capture.Request
}

// New returns the part. It starts nothing.
func New(cfg Config, log *logrus.Entry) *Part {
	return &Part{
		cfg: cfg, log: log.WithField("part", "captures"), slots: make(chan struct{}, atATime), jobs: make(chan job),
	}
}

// Name implements part.Part.
func (p *Part) Name() string { return "captures" }

// Faults implements part.Part: who asks sees what is wrong, and nobody else.
func (p *Part) Faults() []fault.Fault { return nil }

// Cleanup implements part.Part: a capture leaves nothing.
func (p *Part) Cleanup(context.Context, part.Undo) ([]string, error) { return nil, nil }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	g := part.NewGroup(ctx)
	var pending sync.WaitGroup
	g.Go(func(ctx context.Context) error {
		defer pending.Wait()
		for {
			select {
			case <-ctx.Done():
				return nil
			case j := <-p.jobs:
				pending.Go(func() { p.capture(ctx, j) })
			}
		}
	})
	return g.Wait()
}

// Answer starts the capture that a question asks for, and returns its point.
func (p *Part) Answer(ctx context.Context, arguments json.RawMessage) (any, error) {
	var r capture.Request
	if err := json.Unmarshal(arguments, &r); err != nil {
		return nil, err
	}
	if err := p.refusal(r); err != nil {
		return nil, err
	}
	point, err := p.cfg.Find(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "capture", What: fmt.Sprintf("%d run on this node for other hosts", atATime),
			Remedy: "end one of them",
		}
	}
	sender, err := capture.Dial(ctx, r)
	if err == nil {
		select {
		case p.jobs <- job{sender, point, r}:
			return point, nil
		case <-ctx.Done():
			_ = sender.Close()
			err = ctx.Err()
		}
	}
	<-p.slots
	return nil, err
}

func (p *Part) refusal(r capture.Request) error {
	refused := func(what, remedy string) error {
		return &topology.Error{Kind: topology.ErrInvalid, Item: "capture", What: what, Remedy: remedy}
	}
	switch {
	case p.cfg.Refuse:
		return refused("this agent runs with --no-remote-capture", "run 'baize capture' on the node itself")
	case !p.cfg.IsNode(r.To.Addr()):
		return refused(r.To.Addr().String()+" is no node's address, and packets go to nodes only",
			"ask from a node of the cluster")
	}
	return r.Check()
}

// capture runs one until its end.
func (p *Part) capture(ctx context.Context, j job) {
	defer func() { <-p.slots }()
	defer j.sender.Close()
	began := time.Now()
	p.log.Infof("packets at %s are captured for %s", j.point, j.request.To)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(j.request.Seconds)*time.Second)
	defer cancel()
	err := fault.Protect(func() error { return j.sender.Run(ctx, j.point, j.request.Options) })
	if err != nil {
		p.log.Infof("the capture at %s for %s ended after %s: %v", j.point, j.request.To, time.Since(began), err)
		return
	}
	p.log.Infof("the capture at %s for %s ended after %s", j.point, j.request.To, time.Since(began).Round(time.Second))
}
