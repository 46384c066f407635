package cni

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/plugin"
	"github.com/baize-net/baize/topology"
)

// A pod that is routed by its host has further interfaces in networks of Baize's, where an
// annotation of it says so. The runtime hands the pod's annotations on as the kubelet has
// told it, by the capability io.kubernetes.cri.pod-annotations, which containerd and CRI-O
// have: neither the plugin nor the agent asks the Kubernetes API, and a pod without the
// annotation needs no agent.
//
// The result of ADD is that of the first interface alone, as it is with Multus: plugins
// behind this one (portmap), and some runtimes, take all of its addresses for the pod's.

// DefaultNetworksAnnotation is the annotation unless the configuration says otherwise.
const DefaultNetworksAnnotation = "baize.network/networks"

const (
	// maxOrdinal bounds the numbers of a StatefulSet's pods here.
	maxOrdinal = 1 << 16
	// listTimeout bounds the question for what a pod has, where it does not say so.
	listTimeout = 2 * time.Second
)

// podNetwork is an interface that a pod has beside its first one. The keys are those of
// Multus' network selection, and IPsFrom.
type podNetwork struct {
	// Name is the network's, Interface the interface's; empty: net1, net2, by its place.
	Name      string `json:"name"`
	Interface string `json:"interface"`
	// IPs are its addresses, at most one of each family; a family that is left out is
	// assigned.
	IPs []string `json:"ips"`
	// IPsFrom are those of a StatefulSet's first pod. The others have those that follow,
	// by their ordinals.
	IPsFrom []string `json:"ips-from"`
	MAC     string   `json:"mac"`
}

// annotation is the name of the one that says which networks a pod is in.
func (c *config) annotation() string { return cmp.Or(c.NetworksAnnotation, DefaultNetworksAnnotation) }

// podNetworks are those that the pod's annotation names.
func (c *config) podNetworks(args *skel.CmdArgs) ([]podNetwork, error) {
	text := strings.TrimSpace(c.Runtime.PodAnnotations[c.annotation()])
	if text == "" {
		return nil, nil
	}
	out, err := parsePodNetworks(text)
	if err != nil {
		return nil, invalidConfig("the annotation "+c.annotation(), err.Error())
	}
	used := map[string]bool{args.IfName: true}
	for i, n := range out {
		n.Interface = cmp.Or(n.Interface, fmt.Sprintf("net%d", i+1))
		if err := n.check(); err != nil {
			return nil, invalidConfig("the annotation "+c.annotation(), err.Error())
		}
		if used[n.Interface] {
			return nil, invalidConfig("the annotation "+c.annotation(), "the pod would have two interfaces "+n.Interface)
		}
		used[n.Interface], out[i] = true, n
	}
	return out, nil
}

// parsePodNetworks reads "blue, green@net7", or a list of objects in JSON, as Multus does.
func parsePodNetworks(text string) (out []podNetwork, err error) {
	if strings.HasPrefix(text, "[") {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.DisallowUnknownFields()
		err = d.Decode(&out)
		return out, err
	}
	for _, item := range strings.Split(text, ",") {
		name, ifname, at := strings.Cut(strings.TrimSpace(item), "@")
		if at && ifname == "" {
			return nil, fmt.Errorf("%q has no interface behind the @", item)
		}
		out = append(out, podNetwork{Name: name, Interface: ifname})
	}
	return out, nil
}

func (n podNetwork) check() error {
	if strings.Contains(n.Name, "/") {
		return fmt.Errorf("%q: networks of Baize's are in no namespace: leave what is before the / out", n.Name)
	}
	if err := topology.CheckName("network", n.Name); err != nil {
		return err
	}
	if err := utils.ValidateInterfaceName(n.Interface); err != nil {
		return fmt.Errorf("interface %q: %s", n.Interface, err.Msg)
	}
	if len(n.IPs) > 0 && len(n.IPsFrom) > 0 {
		return fmt.Errorf("network %s: use either ips or ips-from", n.Name)
	}
	return nil
}

// addresses are those that the pod asks for.
func (n podNetwork) addresses(pod string) ([]netip.Addr, error) {
	out, err := parseAddresses(slices.Concat(n.IPs, n.IPsFrom))
	if err != nil || len(n.IPsFrom) == 0 {
		return out, err
	}
	number := pod[strings.LastIndex(pod, "-")+1:]
	ordinal, err := strconv.ParseUint(number, 10, 31)
	if err != nil || ordinal >= maxOrdinal || number == pod {
		return nil, invalidConfig("ips-from", fmt.Sprintf("pod %q is none of a StatefulSet: its name has no ordinal", pod))
	}
	for i := range out {
		for range ordinal {
			out[i] = out[i].Next()
		}
	}
	return out, nil
}

// podAttachment is what the agent knows an interface by.
func (c *config) podAttachment(container, ifname string) api.Attachment {
	return api.Attachment{Engine: api.EngineCNI, Network: c.Name, Container: container, Ifname: ifname}
}

// podRequest is what the agent is asked for.
func (c *config) podRequest(args *skel.CmdArgs, n podNetwork) (api.EndpointRequest, error) {
	a := c.podAttachment(args.ContainerID, n.Interface)
	req := api.EndpointRequest{
		Network: n.Name, Netns: args.Netns, Attachment: &a, Container: c.env.container(),
	}
	var err error
	if req.IPs, err = n.addresses(string(c.env.K8S_POD_NAME)); err != nil || n.MAC == "" {
		return req, err
	}
	mac, err := topology.ParseMAC(n.MAC)
	if err != nil {
		return req, invalidConfig("the link address "+n.MAC, err.Error())
	}
	req.MAC = mac.String()
	return req, nil
}

// podRequests are those of all of a pod's further interfaces: what makes no sense is
// refused before there is any.
func (c *config) podRequests(args *skel.CmdArgs) (out []api.EndpointRequest, err error) {
	all, err := c.podNetworks(args)
	for _, n := range all {
		req, err := c.podRequest(args, n)
		if err != nil {
			return nil, c.ofAnnotation(n.Interface, err)
		}
		out = append(out, req)
	}
	return out, err
}

// addPodNetworks makes a pod's further interfaces: all of them or none.
func (c *config) addPodNetworks(ctx context.Context, all []api.EndpointRequest) error {
	for i, req := range all {
		_, err := plugin.Add(ctx, c.Socket, req)
		if err == nil {
			continue
		}
		// The one that failed as well: the agent may have had it when it was not heard of.
		c.undoPodNetworks(ctx, all[:i+1])
		return c.ofAnnotation(req.Attachment.Ifname, err)
	}
	return nil
}

// undoPodNetworks takes interfaces back of an ADD that failed.
func (c *config) undoPodNetworks(ctx context.Context, all []api.EndpointRequest) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if err := c.removePodNetworks(ctx, all); err != nil {
		fmt.Fprintln(os.Stderr, "baize-cni: undoing ADD:", err)
	}
}

// ofAnnotation says of an error where the wish comes from that failed.
func (c *config) ofAnnotation(ifname string, err error) error {
	var e *types.Error
	if !errors.As(errorOf(err), &e) {
		return err
	}
	return types.NewError(e.Code, fmt.Sprintf("interface %s, by the annotation %s: %s", ifname, c.annotation(), e.Msg),
		e.Details)
}

func (c *config) removePodNetworks(ctx context.Context, all []api.EndpointRequest) error {
	var errs []error
	for _, req := range all {
		errs = append(errs, errorOf(plugin.Remove(ctx, c.Socket, *req.Attachment, req.Network)))
	}
	return errors.Join(errs...)
}

// delPodNetworks removes a pod's further interfaces. Where the runtime does not say what
// the pod's annotations are, the agent is asked; without one, it removes them by itself
// when it starts and their namespace is gone.
func (c *config) delPodNetworks(ctx context.Context, args *skel.CmdArgs) error {
	if c.Runtime.PodAnnotations == nil {
		return c.removeEndpoints(ctx, func(container string) bool { return container == args.ContainerID })
	}
	all, err := c.podNetworks(args)
	if err != nil {
		return nil // then ADD has made none
	}
	var reqs []api.EndpointRequest
	for _, n := range all {
		a := c.podAttachment(args.ContainerID, n.Interface)
		reqs = append(reqs, api.EndpointRequest{Network: n.Name, Attachment: &a})
	}
	return c.removePodNetworks(ctx, reqs)
}

// removeEndpoints removes the further interfaces of containers that the agent knows of.
// Without an agent there is nothing to do: see delPodNetworks.
func (c *config) removeEndpoints(ctx context.Context, of func(container string) bool) error {
	limited, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	all, err := api.NewClient(c.Socket).Endpoints(limited)
	if err != nil {
		return nil
	}
	var reqs []api.EndpointRequest
	for _, e := range all {
		if e.Engine == api.EngineCNI && e.EngineNetwork == c.Name && of(e.ContainerID) {
			a := c.podAttachment(e.ContainerID, e.Ifname)
			reqs = append(reqs, api.EndpointRequest{Network: e.Network, Attachment: &a})
		}
	}
	return c.removePodNetworks(ctx, reqs)
}

// checkPodNetworks is CHECK of a pod's further interfaces.
func (c *config) checkPodNetworks(ctx context.Context, args *skel.CmdArgs) error {
	all, err := c.podNetworks(args)
	if err != nil {
		return err
	}
	for _, n := range all {
		if err := c.checkPodNetwork(ctx, args, n); err != nil {
			return c.ofAnnotation(n.Interface, err)
		}
	}
	return nil
}

func (c *config) checkPodNetwork(ctx context.Context, args *skel.CmdArgs, n podNetwork) error {
	e, err := api.NewClient(c.Socket).CheckAttachment(ctx, c.podAttachment(args.ContainerID, n.Interface))
	switch {
	case errors.Is(err, topology.ErrNotFound):
		return broken("%v", err)
	case err != nil:
		return err
	case e.Network != n.Name:
		return broken("it is in network %s, not %s", e.Network, n.Name)
	}
	in, err := hostnet.Inspect(args.Netns, n.Interface)
	switch {
	case errors.Is(err, topology.ErrNotFound):
		return broken("it is gone from %s", args.Netns)
	case err != nil:
		return err
	case in.MAC.String() != e.MAC:
		return broken("its link address is %s, not %s", in.MAC, e.MAC)
	}
	for _, ip := range e.IPs {
		if !slices.ContainsFunc(in.Addrs, func(p netip.Prefix) bool { return p.Addr() == ip }) {
			return broken("it has lost its address %s", ip)
		}
	}
	return nil
}
