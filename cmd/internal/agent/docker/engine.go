package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
)

// engine asks a Docker engine, by its API (version 1.24 on), what it has.
type engine struct {
	http http.Client
}

// engineTimeout is short: an engine that waits for the plugin may not answer.
const engineTimeout = 3 * time.Second

func newEngine(socket string) *engine {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	return &engine{http.Client{Timeout: engineTimeout, Transport: whereThere{socket, transport}}}
}

// whereThere makes no connection where there is no socket: a host without an engine is
// looked at every other second all the same.
type whereThere struct {
	socket string
	http.RoundTripper
}

func (t whereThere) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := os.Stat(t.socket); err != nil {
		return nil, err
	}
	return t.RoundTripper.RoundTrip(r)
}

// engineNetwork is a network as GET /networks/ID describes it.
type engineNetwork struct {
	ID       string `json:"Id"`
	Driver   string
	Internal bool
	Options  map[string]string
	IPAM     struct {
		Driver  string
		Options map[string]string
		Config  []struct {
			Subnet             string
			AuxiliaryAddresses map[string]string
		}
	}
	Containers map[string]struct{ Name, EndpointID string }
}

type engineNetworks []engineNetwork

func (all engineNetworks) hasEndpoint(id string) bool {
	return slices.ContainsFunc(all, func(n engineNetwork) bool {
		for _, c := range n.Containers {
			if c.EndpointID == id {
				return true
			}
		}
		return false
	})
}

func (e *engine) get(ctx context.Context, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the engine: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		if resp.StatusCode == http.StatusNotFound {
			return fmt.Errorf("%w: the engine answers %s: %s", topology.ErrNotFound, resp.Status, b)
		}
		return fmt.Errorf("the engine answers %s: %s", resp.Status, b)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// networks lists the engine's networks of our driver with their endpoints.
func (e *engine) networks(ctx context.Context) (engineNetworks, error) {
	var list engineNetworks
	if err := e.get(ctx, "/networks?filters="+url.QueryEscape(`{"driver":["`+DriverName+`"]}`), &list); err != nil {
		return nil, err
	}
	out := make(engineNetworks, 0, len(list))
	for _, n := range list {
		// The listing has no endpoints.
		var whole engineNetwork
		if err := e.get(ctx, "/networks/"+url.PathEscape(n.ID), &whole); errors.Is(err, topology.ErrNotFound) {
			continue // removed since
		} else if err != nil {
			return nil, err
		}
		out = append(out, whole)
	}
	return out, nil
}

// endpointName returns what an endpoint of a network is called.
func (e *engine) endpointName(ctx context.Context, network, endpoint string) (string, error) {
	var n engineNetwork
	if err := e.get(ctx, "/networks/"+url.PathEscape(network), &n); err != nil {
		return "", err
	}
	for _, c := range n.Containers {
		if c.EndpointID == endpoint {
			return c.Name, nil
		}
	}
	return "", errors.New("the engine does not list it")
}

// record makes of what the engine says what CreateNetwork would have said.
func (n engineNetwork) record(all []topology.Network) (network, error) {
	raw := map[string]any{}
	for k, v := range n.Options {
		raw[k] = v
	}
	r := networkCreation{NetworkID: n.ID, Options: map[string]any{keyGeneric: raw, keyInternal: n.Internal}}
	for _, c := range n.IPAM.Config {
		d := ipamData{AddressSpace: addressSpace, Pool: c.Subnet, AuxAddresses: c.AuxiliaryAddresses}
		if p, err := netip.ParsePrefix(c.Subnet); err == nil && p.Addr().Is6() {
			r.IPv6Data = append(r.IPv6Data, d)
		} else {
			r.IPv4Data = append(r.IPv4Data, d)
		}
	}
	w, err := parseNetwork(r)
	if err != nil || len(w.Pools) == 0 {
		return network{}, errors.Join(err, fmt.Errorf("network %.12s of the engine has no subnet", n.ID))
	}
	w.Unnamed = true
	if name := n.IPAM.Options[OptionNetwork]; name != "" {
		w.Name, w.network.Network, w.Unnamed = name, name, false
	}
	err = w.choose(all)
	return w.network, err
}

// adopt makes the networks on record those that the engine has. Those that are
// on record stay as they are.
func (p *Plugin) adopt(ctx context.Context, known engineNetworks) error {
	p.mu.Lock()
	missing := slices.DeleteFunc(slices.Clone(known), func(n engineNetwork) bool { _, ok := p.networks[n.ID]; return ok })
	p.mu.Unlock()
	add := map[string]network{}
	var errs []error
	if len(missing) > 0 {
		all, err := p.node.Networks(ctx)
		if err != nil {
			return err
		}
		for _, n := range missing {
			r, err := n.record(all)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			add[n.ID] = r
			p.log.Infof("Docker network %.12s is network %s, as the engine says", n.ID, r.Network)
		}
	}
	if len(add) == 0 {
		return errors.Join(errs...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.Copy(p.networks, add)
	return errors.Join(append(errs, p.save())...)
}

// load reads the file. One that cannot be read is as good as none: the engine
// is asked.
func (p *Plugin) load() {
	b, err := os.ReadFile(p.file)
	read := map[string]network{}
	if err == nil {
		err = json.Unmarshal(b, &read)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		p.log.Warnf("%s: %v: Docker is asked for its networks", p.file, err)
		return // so it is not known what is in use
	}
	maps.Copy(p.networks, read)
	p.tellUsed()
}

// save writes the file, whole or not at all, and says what is in use. p.mu is
// held.
func (p *Plugin) save() error {
	defer p.tellUsed()
	b, err := json.MarshalIndent(p.networks, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(p.file, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep Docker's networks: %w", err)
	}
	return nil
}
