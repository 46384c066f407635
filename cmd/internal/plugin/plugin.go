// Package plugin is what the plugins of engines (CNI, netavark) share: requests to the
// agent of this host that outlast its restart, and the end of an attachment without one.
package plugin

import (
	"context"
	"errors"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
)

const (
	// addPatience is how long is waited for an agent that is being restarted,
	// removePatience how long before a device is removed without one.
	addPatience    = 10 * time.Second
	removePatience = 2 * time.Second
	// agentPause is between two looks for the agent.
	agentPause = 50 * time.Millisecond
)

// Add attaches a container. The request began when this process was started: one to
// remove the same, by a process that was started later, wins.
func Add(ctx context.Context, socket string, req api.EndpointRequest) (e api.Endpoint, err error) {
	if req.Began, err = hostnet.ProcessStart(); err != nil {
		return e, err
	}
	agent := api.NewClient(socket)
	err = patiently(ctx, addPatience, func() error {
		e, err = agent.AddEndpoint(ctx, req)
		return err
	})
	return e, err
}

// Remove ends an attachment, also where no agent listens: without its device the
// endpoint is none, and the agent removes the rest when it starts.
func Remove(ctx context.Context, socket string, a api.Attachment, network string) error {
	began := hostnet.SinceBoot()
	defer afterTick(began)
	agent := api.NewClient(socket)
	err := patiently(ctx, removePatience, func() error {
		return agent.Detach(ctx, api.Detachment{Attachment: a, Baize: network, Began: began})
	})
	if errors.Is(err, api.ErrNoAgent) {
		return hostnet.Detach(ctx, hostnet.HostIfname(network+"/"+a.EndpointName()))
	}
	return err
}

// afterTick returns in another tick of the kernel's than the one that a request began in:
// the start of a process that adds again is rounded down to a tick.
func afterTick(began int64) {
	tick := int64(hostnet.StartTick)
	if rest := (began/tick+1)*tick - hostnet.SinceBoot(); rest > 0 {
		time.Sleep(time.Duration(rest))
	}
}

// patiently repeats a request while no agent listens: one is being restarted.
func patiently(ctx context.Context, patience time.Duration, request func() error) error {
	end := time.Now().Add(patience)
	for {
		err := request()
		if !errors.Is(err, api.ErrNoAgent) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(agentPause):
		}
	}
}
