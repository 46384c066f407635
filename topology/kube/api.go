package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/pager"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// requestTimeout bounds a request that is no watch, watchFor is how long the API is
	// asked to serve one watch.
	requestTimeout = 30 * time.Second
	watchFor       = 10 * time.Minute
	// statusFalse is what a condition says that does not hold.
	statusFalse = "False"
)

// Node is what matters of a node here.
type Node struct {
	Name        string            `json:"-"`
	PodCIDRs    []string          `json:"podCIDRs,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// NetworkUnavailable is the status of the condition of that name; "" where the node
	// has none.
	NetworkUnavailable string `json:"networkUnavailable,omitempty"`
}

// Version is a resource version: what a listing or a change is as of.
type Version string

// number is the version for messages and comparisons with itself.
func (v Version) number() int64 {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return 0 // Kubernetes does not promise a number
	}
	return n
}

// Nodes are the nodes of a cluster; API implements it.
type Nodes interface {
	// Where is the API server's URL.
	Where() string
	// List lists all nodes.
	List(ctx context.Context) ([]Node, Version, error)
	// Watch calls apply for every change after a version, until the API breaks off, or
	// has dropped what it is asked for: then everything is to be listed anew. Without an
	// error nothing was wrong.
	Watch(ctx context.Context, from Version, apply func(n Node, gone bool, v Version)) error
	// Patch sets annotations of a node, and has its condition NetworkUnavailable say
	// that the network is available, if that is asked for.
	Patch(ctx context.Context, node string, annotations map[string]string, available bool) error
}

// API is the Kubernetes API.
type API struct {
	url    string
	client dynamic.ResourceInterface
}

var _ Nodes = (*API)(nil)

// LoadConfig finds the API as flannel does: by a kubeconfig file, the server's URL, or
// both; without either by the service account of the pod that this is run in.
func LoadConfig(url, kubeconfig string) (*rest.Config, error) {
	load := rest.InClusterConfig // the other does this too, after a warning
	if url != "" || kubeconfig != "" {
		load = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags(url, kubeconfig) }
	}
	cfg, err := load()
	if err != nil {
		return nil, &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.SourceUnavailable, Item: "Kubernetes API", What: err.Error(),
			Remedy: "name a kubeconfig with --kubeconfig-file, or run the agent in a pod with a service account",
		}
	}
	return cfg, nil
}

// NewAPI returns the API of a configuration. It connects when it is used.
func NewAPI(cfg *rest.Config, program string) (*API, error) {
	cfg = rest.AddUserAgent(rest.CopyConfig(cfg), program)
	cfg.WarningHandler = rest.NoWarnings{}
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("kubernetes API: %w", err)
	}
	return &API{url: cfg.Host, client: c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"})}, nil
}

// Where implements Nodes.
func (a *API) Where() string { return a.url }

// List implements Nodes.
func (a *API) List(ctx context.Context) (nodes []Node, version Version, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		list, err := a.client.List(ctx, o)
		if err != nil {
			return nil, err
		}
		version = Version(list.GetResourceVersion())
		return list, nil
	})
	err = pages.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		n, err := decodeNode(o)
		nodes = append(nodes, n)
		return err
	})
	return nodes, version, err
}

// Watch implements Nodes.
func (a *API) Watch(ctx context.Context, from Version, apply func(n Node, gone bool, v Version)) error {
	for ctx.Err() == nil {
		began := time.Now()
		last, err := a.watchOnce(ctx, from, apply)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if last == from && time.Since(began) < settled {
			return nil // broken off at once: whoever lists anew waits first
		}
		from = last
	}
	return nil
}

// watchOnce follows one watch until it ends, as each does, and returns the last
// version seen.
func (a *API) watchOnce(
	ctx context.Context, from Version, apply func(n Node, gone bool, v Version),
) (last Version, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seconds := int64(watchFor / time.Second)
	w, err := a.client.Watch(ctx, metav1.ListOptions{
		ResourceVersion: string(from), AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	})
	if err != nil {
		return from, err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			return from, apierrors.FromObject(e.Object)
		}
		if o, ok := e.Object.(*unstructured.Unstructured); ok {
			from = Version(o.GetResourceVersion())
		}
		if e.Type == watch.Bookmark {
			continue
		}
		n, err := decodeNode(e.Object)
		if err != nil {
			return from, err
		}
		apply(n, e.Type == watch.Deleted, from)
	}
	return from, nil
}

// Patch implements Nodes. The permission that it needs is flannel's, to patch
// nodes/status.
func (a *API) Patch(ctx context.Context, node string, annotations map[string]string, available bool) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	patch := map[string]any{}
	if len(annotations) > 0 {
		patch["metadata"] = map[string]any{"annotations": annotations}
	}
	if available {
		now := metav1.Now()
		patch["status"] = map[string]any{"conditions": []any{map[string]any{
			"type": networkUnavailable, "status": statusFalse, "reason": "BaizeIsUp",
			"message": "Baize is running on this node", "lastTransitionTime": now, "lastHeartbeatTime": now,
		}}}
	}
	b, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = a.client.Patch(ctx, node, types.StrategicMergePatchType, b, metav1.PatchOptions{}, "status")
	if err != nil {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.SourceUnavailable, Item: "Kubernetes node " + node,
			What:   "its annotations cannot be written: " + err.Error(),
			Remedy: "check the API server, and that the agent may patch nodes/status",
		}
	}
	return nil
}

// networkUnavailable is the condition that keeps pods from a node.
const networkUnavailable = "NetworkUnavailable"

// decodeNode takes of a node what matters here.
func decodeNode(o runtime.Object) (Node, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return Node{}, fmt.Errorf("the Kubernetes API sent a %T for a node", o)
	}
	n := Node{Name: u.GetName(), Annotations: u.GetAnnotations()}
	var err error
	if n.PodCIDRs, _, err = unstructured.NestedStringSlice(u.Object, "spec", "podCIDRs"); err != nil {
		return n, malformed(n.Name, err.Error())
	}
	if one, _, _ := unstructured.NestedString(u.Object, "spec", "podCIDR"); len(n.PodCIDRs) == 0 && one != "" {
		n.PodCIDRs = []string{one}
	}
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return n, malformed(n.Name, err.Error())
	}
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == networkUnavailable {
			n.NetworkUnavailable, _ = m["status"].(string)
		}
	}
	return n, nil
}
