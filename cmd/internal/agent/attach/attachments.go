package attach

import (
	"context"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// detachAtOnce is how many stale endpoints are removed at a time.
const detachAtOnce = 16

// Available is why nothing can be attached to a network now; nil where it can.
func (p *Part) Available(network string) error {
	t := p.hub.Topology().Get()
	if !t.Known() {
		return unknownTopology(network)
	}
	n, err := p.view(t, network)
	have, there := t.Snapshot.Networks[network]
	switch {
	case !there:
		return err
	case have.CheckOpen() != nil:
		return have.CheckOpen()
	case err == nil && hasSubnets(n), have.Layout == "" && t.Err == nil:
		return nil // its first endpoint leases what is missing
	case err != nil:
		return err
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "network " + network,
		What:   "this node has no subnet in it, and cannot lease one now: " + errText(t.Err),
		Remedy: "check etcd; 'baize agent --network " + network + "' leases one ahead",
	}
}

func errText(err error) string {
	if err == nil {
		return "its source does"
	}
	return err.Error()
}

// addAttachment adds the endpoint of an attachment, in its turn.
func (p *Part) addAttachment(ctx context.Context, req api.EndpointRequest) (ovs.Endpoint, error) {
	a, began := *req.Attachment, moment(req.Began)
	if err := a.Check(); err != nil {
		return ovs.Endpoint{}, err
	}
	_ = p.loadOnce() // a fault of the part
	// Of an agent that has only started nobody is to notice.
	if _, err := p.hub.Await(ctx); err != nil {
		return ovs.Endpoint{}, err
	}
	ctx, leave, err := p.order.enter(ctx, a, true, began)
	defer leave()
	if err != nil {
		return ovs.Endpoint{}, err
	}
	if err := p.checkOrder(a, began); err != nil {
		return ovs.Endpoint{}, err
	}
	wanted, err := endpointOf(req)
	if err != nil {
		return wanted, err
	}
	if err := p.clearStale(ctx, a, wanted); err != nil {
		return wanted, err
	}
	if p.has(p.portOf(wanted)) {
		return wanted, &topology.Error{
			Kind: topology.ErrExists, Item: itemOf(a), What: "it is attached already, as endpoint " + wanted.Name,
			Remedy: "remove it first",
		}
	}
	e, err := p.add(ctx, req)
	// Whatever it failed at, the reason is that the engine changed its mind.
	if overtaken := p.checkOrder(a, began); err != nil && overtaken != nil {
		err = overtaken
	}
	return e, err
}

// clearStale removes what is left of an attachment that never ended: its namespace is
// gone, or another one; or an agent was killed before it recorded the endpoint.
func (p *Part) clearStale(ctx context.Context, a api.Attachment, wanted ovs.Endpoint) error {
	known := false
	for _, e := range p.of(a) {
		known = known || (e.Network == wanted.Network && e.Name == wanted.Name)
		if e.Netns != wanted.Netns || !p.host.LinkExists(e.Port) {
			if err := p.disconnect(ctx, e); err != nil {
				return err
			}
		}
	}
	if !known && p.host.LinkExists(wanted.Port) {
		return p.host.Detach(ctx, wanted.Port)
	}
	return nil
}

// of returns the endpoints of an attachment: one at the most, unless its network was
// configured anew meanwhile.
func (p *Part) of(a api.Attachment) (out []ovs.Endpoint) {
	for _, e := range p.known.Get().Endpoints {
		if of, ok := api.AttachmentOf(e); ok && of == a {
			out = append(out, e)
		}
	}
	return out
}

// DetachAttachment removes the endpoint of an attachment, and what an agent left that
// was killed while it made one. A request to make one that began before is given up or
// refused.
func (p *Part) DetachAttachment(ctx context.Context, d api.Detachment) error {
	ctx, cancel := p.limit(ctx)
	defer cancel()
	_ = p.loadOnce() // a fault of the part
	a, began := d.Attachment, moment(d.Began)
	p.noteRemoval(a, began)
	ctx, leave, err := p.order.enter(ctx, a, false, began)
	defer leave()
	if err != nil {
		return err
	}
	p.keep(ctx)
	found := p.of(a)
	for _, e := range found {
		if began < madeAt(e) {
			return nil // it was made by a later request
		}
		if err := p.disconnect(ctx, e); err != nil {
			return err
		}
		p.log.Infof("endpoint %s detached from network %s", e.Name, e.Network)
	}
	if len(found) > 0 {
		return nil
	}
	return p.detachRest(ctx, portOf(ovs.Endpoint{Network: d.Baize, Name: a.EndpointName()}))
}

// detachRest removes what is left of an endpoint that has no record, by the name that its
// port has unless that is a name for people: the port of one whose device is gone,
// the device of an agent that was killed.
func (p *Part) detachRest(ctx context.Context, port string) error {
	var err error
	if leaving := p.leavingAs(port); leaving != "" {
		err = p.sw.Detached(ctx, leaving)
	}
	if p.host.LinkExists(port) {
		return errors.Join(err, p.detachNow(port))
	}
	return err
}

// madeAt is when the request began that made an endpoint; 0 where that was before this
// boot.
func madeAt(e ovs.Endpoint) moment {
	n, err := strconv.ParseInt(e.Labels[api.LabelBegan], 10, 64)
	if err != nil || moment(n) > now() {
		return 0
	}
	return moment(n)
}

// CheckAttachment returns the endpoint of an attachment once the switch forwards for it.
func (p *Part) CheckAttachment(ctx context.Context, a api.Attachment) (ovs.Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	_ = p.loadOnce() // a fault of the part
	found := p.of(a)
	if len(found) == 0 {
		return ovs.Endpoint{}, &topology.Error{
			Kind: topology.ErrNotFound, Item: itemOf(a),
			What:   "node " + p.hub.Self().Node + " has no endpoint of it in network " + a.Network,
			Remedy: "start the container again",
		}
	}
	e := found[0]
	e.Node = p.hub.Self().Node
	if !p.host.LinkExists(e.Port) {
		return e, &topology.Error{
			Kind: topology.ErrNotFound, Item: itemOf(a), What: "its device " + e.Port + " is gone from this host",
			Remedy: "start the container again",
		}
	}
	if t := p.hub.Records().Get(); t.Known() {
		if faults := p.endpointFaults(t.View(), found[:1]); len(faults) > 0 {
			f := faults[0]
			return e, &topology.Error{Kind: topology.ErrUnavailable, Code: f.Code, Item: f.Item, What: f.What, Remedy: f.Remedy}
		}
	}
	return e, p.sw.Attached(ctx, e, nil)
}

// Retain removes the endpoints of an engine's network that are not among those given.
func (p *Part) Retain(ctx context.Context, r api.Retention) error {
	_ = p.loadOnce() // a fault of the part
	began := int64(now())
	var stale []api.Detachment
	for _, e := range p.known.Get().Endpoints {
		a, ok := api.AttachmentOf(e)
		if ok && a.Engine == r.Engine && a.Network == r.Network && !slices.Contains(r.Attachments, a) {
			stale = append(stale, api.Detachment{Attachment: a, Baize: e.Network, Began: began})
		}
	}
	errs := make([]error, len(stale))
	g := errgroup.Group{}
	g.SetLimit(detachAtOnce)
	for i, d := range stale {
		g.Go(func() error {
			errs[i] = p.DetachAttachment(ctx, d)
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}

// calledBy is what the port of an attachment's endpoint is named after: the pod or the
// container, without the namespace; its first alias; its ID where that fits. "" is for a
// name with a hash.
func calledBy(req api.EndpointRequest) string {
	name := path.Base("/" + req.Container)
	if name == "/" && len(req.Aliases) > 0 {
		name = req.Aliases[0]
	}
	if id := req.Attachment.Container; name == "/" && pipeline.FitsEndpointPort(id) {
		name = id
	}
	return strings.Trim(name, "/")
}

// labelsOf returns the labels of an attachment's endpoint.
func labelsOf(req api.EndpointRequest) map[string]string {
	labels := map[string]string{
		api.LabelEngine: req.Attachment.Engine, api.LabelNetwork: req.Attachment.Network,
		api.LabelID: req.Attachment.Container, api.LabelContainer: req.Container,
		api.LabelAliases: strings.Join(req.Aliases, ","), api.LabelBegan: strconv.FormatInt(req.Began, 10),
	}
	for k, v := range labels {
		if v == "" {
			delete(labels, k)
		}
	}
	return labels
}

func unknownTopology(network string) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: "network " + network,
		What:   "etcd has not answered since the agent started, and no earlier topology is known",
		Remedy: "check etcd; see 'baize status'",
	}
}
