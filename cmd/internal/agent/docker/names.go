package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/part"
)

// containerNames are what containers are called. The engine tells a driver nothing of
// it, so it is asked, and asked again whenever it says that something changed.
// None of this is on the way of a container's start.
type containerNames struct {
	// byEndpoint are a container's name and its aliases in one network, by the
	// engine's ID of the endpoint; nil before the engine has answered.
	byEndpoint map[string][]string
	// containers are the containers themselves, by the same, with what never changes
	// while there is the endpoint.
	containers map[string]container
}

// container is what the engine says of a container in one network.
type container struct {
	names.Container
	aliases []string
}

// Called tells what the containers of this host are called, by the engine's ID
// of their endpoints (LabelEndpoint).
func (p *Plugin) Called() *part.Cell[names.Called] { return p.called }

// namesEvery is how often names are read although the engine says nothing.
const namesEvery = 15 * time.Second

const (
	// nameTimeout bounds the question for the name of a container that starts: it is for
	// people, and the container waits.
	nameTimeout = time.Second
	// namePause is how long an engine that did not answer it is not asked again.
	namePause = 5 * time.Second
)

// nameOf returns the name of the container that joins an endpoint; "" where nobody tells
// it. Engines have it before they ask the driver: an endpoint has the name of its
// container. One that does not answer has written it down.
func (p *Plugin) nameOf(ctx context.Context, network, endpoint string) string {
	name, err := p.askName(ctx, network, endpoint)
	if err != nil {
		p.log.Debugf("Docker: the name of endpoint %.12s: %v", endpoint, err)
		if name, err = storedName(p.settings, endpoint); err != nil {
			p.log.Debugf("Docker: the name of endpoint %.12s: %v", endpoint, err)
		}
	}
	return name
}

// askName asks the engine, unless it has just not answered.
func (p *Plugin) askName(ctx context.Context, network, endpoint string) (string, error) {
	p.mu.Lock()
	silent := time.Since(p.silent) < namePause
	p.mu.Unlock()
	if silent {
		return "", errors.New("the engine does not answer")
	}
	limited, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	name, err := p.engine.endpointName(limited, network, endpoint)
	if limited.Err() != nil {
		p.mu.Lock()
		p.silent = time.Now()
		p.mu.Unlock()
	}
	return name, err
}

// nameLoop keeps the names as the engine has them.
func (p *Plugin) nameLoop(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.followNames(ctx); err != nil && ctx.Err() == nil {
			p.log.Debugf("Docker: names of containers: %v", err)
		}
		t := time.NewTimer(sweepRetry)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// followNames reads the names, again after every change, until the engine ends.
func (p *Plugin) followNames(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	g := part.NewGroup(ctx)
	g.Go(func(ctx context.Context) error {
		return p.engine.follow(ctx, func() {
			select {
			case changes <- struct{}{}:
			default: // one is waiting already
			}
		})
	})
	g.Go(func(ctx context.Context) error {
		regular := time.NewTicker(namesEvery)
		defer regular.Stop()
		var again <-chan time.Time
		for {
			untold := false
			select {
			case <-ctx.Done():
				return nil
			case <-changes:
			case <-again:
			case <-regular.C:
				untold = len(changes) == 0
			}
			complete, changed, err := p.readNames(ctx)
			if err != nil {
				return err
			}
			if changed && untold && len(changes) == 0 {
				p.log.Info("Docker: names of containers have changed, and the engine has told nothing of it yet")
			}
			if again = nil; !complete {
				again = time.After(sweepRetry)
			}
		}
	})
	return g.Wait()
}

// readNames asks the engine. It is not complete where the engine told nothing of a
// container: the container is ending, or the engine is too busy to answer in time.
func (p *Plugin) readNames(ctx context.Context) (complete, changed bool, err error) {
	known, err := p.engine.networks(ctx)
	if err != nil {
		return false, false, err
	}
	complete = true
	p.mu.Lock()
	before := p.names
	p.mu.Unlock()
	next := containerNames{
		byEndpoint: map[string][]string{}, containers: map[string]container{},
	}
	told := map[string]names.Container{}
	for _, n := range known {
		for id, c := range n.Containers {
			if c.EndpointID == "" {
				continue
			}
			is, ok := before.containers[c.EndpointID]
			if !ok {
				if is, err = p.engine.container(ctx, id, c.EndpointID); err != nil {
					p.log.Debugf("Docker: container %s: %v", c.Name, err)
					complete = false
					continue
				}
			}
			is.Name = c.Name
			next.containers[c.EndpointID], told[c.EndpointID] = is, is.Container
			all := append([]string{c.Name}, is.aliases...)
			slices.Sort(all)
			next.byEndpoint[c.EndpointID] = slices.Compact(all)
		}
	}
	p.mu.Lock()
	p.names = next
	p.mu.Unlock()
	changed = before.byEndpoint == nil || !maps.EqualFunc(before.byEndpoint, next.byEndpoint, slices.Equal)
	if changed {
		p.called.Set(names.Called{ByEndpoint: next.byEndpoint, Containers: told, Known: true})
	}
	return complete, changed, nil
}

// Labels of containers that compose starts (docs.docker.com, "Compose file reference").
const (
	labelProject = "com.docker.compose.project"
	labelService = "com.docker.compose.service"
)

// container returns what the engine says of a container, with the aliases that it has
// in the network of an endpoint.
func (e *engine) container(ctx context.Context, id, endpoint string) (container, error) {
	var c struct {
		Config struct {
			Image  string
			Labels map[string]string
		}
		NetworkSettings struct {
			Networks map[string]struct {
				EndpointID string
				Aliases    []string
				DNSNames   []string // from version 25 on: with the container's own
			}
		}
	}
	if err := e.get(ctx, "/containers/"+url.PathEscape(id)+"/json", &c); err != nil {
		return container{}, err
	}
	is := container{Container: names.Container{Image: c.Config.Image}}
	if s := c.Config.Labels[labelService]; s != "" {
		is.Service = c.Config.Labels[labelProject] + "/" + s
	}
	for _, n := range c.NetworkSettings.Networks {
		if n.EndpointID == endpoint {
			is.aliases = slices.Concat(n.Aliases, n.DNSNames)
			return is, nil
		}
	}
	return container{}, fmt.Errorf("it has left endpoint %.12s", endpoint)
}

// follow calls changed now and whenever the name of some container may have
// changed, until the engine ends, or ctx.
func (e *engine) follow(ctx context.Context, changed func()) error {
	filters := url.QueryEscape(`{"type":["network","container"],"event":["connect","disconnect","rename"]}`)
	// Engines begin to answer before they listen to themselves: what comes in between is
	// told by "since".
	now := time.Now()
	since := fmt.Sprintf("&since=%d.%09d", now.Unix(), now.Nanosecond())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/events?filters="+filters+since, nil)
	if err != nil {
		return err
	}
	stream := http.Client{Transport: e.http.Transport} // without a limit of time
	resp, err := stream.Do(req)
	if err != nil {
		return fmt.Errorf("ask the engine: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answers %s", resp.Status)
	}
	events := json.NewDecoder(resp.Body)
	for {
		changed() // first of all: what was before is not told
		var event struct{}
		if err := events.Decode(&event); err != nil {
			return fmt.Errorf("the engine's events end: %w", err)
		}
	}
}
