// Package kubefake is the part of a Kubernetes API server that package kube speaks
// to, in memory, for tests: nodes, which are listed in pages, watched with bookmarks,
// and patched. It is as strict as the real one where a client may be careless: versions
// that were compacted, pages of a listing that is gone, permissions, the patch's type.
//
// Clients are client-go's own and speak HTTP to it, by connections in memory, so all of
// it runs in a bubble of testing/synctest.
package kubefake

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"k8s.io/client-go/rest"
)

// token is what clients have to know.
const token = "a-service-account"

// Object is a node as it goes over the wire.
type Object = map[string]any

// Cluster is an API server with its nodes. Its methods may be called concurrently.
type Cluster struct {
	server   *http.Server
	mu       sync.Mutex
	listener *listener // nil while it is stopped
	version  int64
	// compacted is the oldest version that a watch may start from.
	compacted int64
	nodes     map[string]Object
	events    []event
	// pages are listings of which a client has not seen all, by what it is to say.
	pages  map[string][]Object
	denied map[string]bool
	// requests count by verb.
	requests map[string]int
	patches  []string
	changed  chan struct{}
}

type event struct {
	version int64
	kind    string
	object  Object
}

// New returns a cluster without nodes that serves until Close.
func New() *Cluster {
	c := &Cluster{
		version: 1, nodes: map[string]Object{}, pages: map[string][]Object{}, denied: map[string]bool{},
		requests: map[string]int{}, changed: make(chan struct{}),
	}
	c.Start()
	return c
}

// Start serves, again after Stop with all that was there.
func (c *Cluster) Start() {
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := &http.Server{Handler: http.HandlerFunc(c.serve)} //nolint:gosec // a test's, in memory
	c.mu.Lock()
	c.listener, c.server = l, s
	c.mu.Unlock()
	go func() { _ = s.Serve(l) }()
}

// Stop breaks all connections off and refuses new ones.
func (c *Cluster) Stop() {
	c.mu.Lock()
	s := c.server
	c.listener = nil
	c.mu.Unlock()
	_ = s.Close()
}

// Config is how a client finds it.
func (c *Cluster) Config() *rest.Config {
	return &rest.Config{Host: "http://kube.example", BearerToken: token, Dial: c.dial}
}

var errRefused = errors.New("connection refused")

func (c *Cluster) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	c.mu.Lock()
	l := c.listener
	c.mu.Unlock()
	if l == nil {
		return nil, errRefused
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Put makes or replaces a node: its podCIDRs, and annotations by their whole names.
func (c *Cluster) Put(name string, podCIDRs []string, annotations map[string]string) {
	spec := Object{}
	if len(podCIDRs) > 0 {
		list := make([]any, len(podCIDRs))
		for i, p := range podCIDRs {
			list[i] = p
		}
		spec = Object{"podCIDR": podCIDRs[0], "podCIDRs": list}
	}
	c.change(name, func(n Object) {
		n["spec"] = spec
		meta := n["metadata"].(Object)
		meta["annotations"] = toAny(annotations)
	})
}

// SetCondition sets a condition of a node, as its kubelet or a cloud does.
func (c *Cluster) SetCondition(name, condition, status string) {
	c.change(name, func(n Object) { setCondition(n, Object{"type": condition, "status": status}) })
}

// Annotations are those of a node; nil where it is not there.
func (c *Cluster) Annotations(name string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[name]
	if !ok {
		return nil
	}
	out := map[string]string{}
	if all, ok := n["metadata"].(Object)["annotations"].(Object); ok {
		for k, v := range all {
			out[k], _ = v.(string)
		}
	}
	return out
}

// Condition is the status of a condition of a node; "" where it has none.
func (c *Cluster) Condition(name, condition string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range conditions(c.nodes[name]) {
		if m := x.(Object); m["type"] == condition {
			s, _ := m["status"].(string)
			return s
		}
	}
	return ""
}

// Delete deletes a node.
func (c *Cluster) Delete(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[name]
	if !ok {
		return
	}
	delete(c.nodes, name)
	c.record("DELETED", deepCopy(n))
}

// Compact forgets all that was: watches from before end with "410 Gone", as do
// listings that were begun.
func (c *Cluster) Compact() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++ // so that what everybody knows is old
	c.compacted = c.version
	c.events = nil
	clear(c.pages)
	c.wake()
}

// Deny says whether a verb is forbidden: list, watch or patch.
func (c *Cluster) Deny(verb string, denied bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.denied[verb] = denied
}

// Requests is how many requests of a verb there were.
func (c *Cluster) Requests(verb string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests[verb]
}

// Patches are the bodies of the patches that were accepted.
func (c *Cluster) Patches() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.patches)
}

func (c *Cluster) change(name string, f func(Object)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changeLocked(name, f)
}

func (c *Cluster) changeLocked(name string, f func(Object)) Object {
	n, there := c.nodes[name]
	kind := "MODIFIED"
	if !there {
		kind = "ADDED"
		n = Object{"kind": "Node", "apiVersion": "v1", "metadata": Object{"name": name, "uid": "uid-of-" + name}}
	}
	n = deepCopy(n)
	f(n)
	c.nodes[name] = n
	return c.record(kind, n)
}

// record needs c.mu.
func (c *Cluster) record(kind string, n Object) Object {
	c.version++
	n["metadata"].(Object)["resourceVersion"] = strconv.FormatInt(c.version, 10)
	c.events = append(c.events, event{c.version, kind, deepCopy(n)})
	c.wake()
	return n
}

func (c *Cluster) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// sorted are copies of all nodes. It needs c.mu.
func (c *Cluster) sorted() []Object {
	out := make([]Object, 0, len(c.nodes))
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		out = append(out, deepCopy(c.nodes[name]))
	}
	return out
}

// listener accepts connections in memory.
type listener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

var _ net.Listener = (*listener)(nil)

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "kubefake"} }
