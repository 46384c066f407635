package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/baize-net/baize/ovs"
)

// Attachments is what the agent does for the plugins of engines that call their
// containers by IDs: CNI, netavark. All of it may be repeated.
type Attachments interface {
	// Availability tells whether an endpoint can be added to a network now.
	Availability(ctx context.Context, network string) (Availability, error)
	// CheckAttachment returns the endpoint of an attachment, once the switch forwards for
	// it; ErrNotFound where there is none, ErrUnavailable where it is broken.
	CheckAttachment(ctx context.Context, a Attachment) (Endpoint, error)
	// Detach removes the endpoint of an attachment; one that is gone is fine.
	Detach(ctx context.Context, d Detachment) error
	// Retain removes the endpoints of an engine's network that are not among those given.
	Retain(ctx context.Context, r Retention) error
}

// Attachment is an interface of a container, as its engine names it. A node has at most
// one endpoint of it.
type Attachment struct {
	// Engine is EngineCNI or EngineNetavark.
	Engine string `json:"engine"`
	// Network is the engine's name of the network, which need not be Baize's.
	Network string `json:"network"`
	// Container is the engine's ID of the container (CNI_CONTAINERID), Ifname the name of
	// the interface in it (CNI_IFNAME).
	Container string `json:"container"`
	Ifname    string `json:"ifname"`
}

// Engines whose plugins make endpoints of attachments.
const (
	EngineCNI      = "cni"
	EngineNetavark = "netavark"
)

// EndpointName is the name of an attachment's endpoint: the engine's and 48 bits of
// SHA-256 over the rest, in hex digits. Containers' IDs are too long, and may have
// characters that a name cannot.
func (a Attachment) EndpointName() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{a.Network, a.Container, a.Ifname}, "\x00")))
	return a.Engine + "-" + hex.EncodeToString(sum[:])[:12]
}

// Check refuses an attachment that lacks something.
func (a Attachment) Check() error {
	for _, part := range []struct{ name, value string }{
		{"engine", a.Engine}, {"network", a.Network}, {"container", a.Container}, {"ifname", a.Ifname},
	} {
		if part.value == "" {
			return invalid("the attachment has no " + part.name)
		}
	}
	if a.Engine != EngineCNI && a.Engine != EngineNetavark {
		return invalid("attachments of engine " + a.Engine + " are not known")
	}
	return nil
}

// Detachment asks for the end of an attachment.
type Detachment struct {
	Attachment Attachment `json:"attachment"`
	// Baize is the network that the endpoint is in. A device is found by it that an agent
	// left when it was killed.
	Baize string `json:"baizeNetwork"`
	// Began is when the engine's request began, as in EndpointRequest.
	Began int64 `json:"began"`
}

// Retention are the attachments of an engine's network that are left.
type Retention struct {
	Engine      string       `json:"engine"`
	Network     string       `json:"network"`
	Attachments []Attachment `json:"attachments"`
}

// Availability is whether endpoints can be added to a network.
type Availability struct {
	// Attach: they can. Forward: those that are there are forwarded for.
	Attach  bool `json:"attach"`
	Forward bool `json:"forward"`
	// Why says what is wrong.
	Why string `json:"why,omitempty"`
	// Prefixes are the network's, Gateways those of its endpoints' default routes; empty
	// where the network is not known.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	Gateways []netip.Addr   `json:"gateways,omitempty"`
}

// Labels of the endpoints of attachments.
const (
	LabelEngine    = "engine"
	LabelNetwork   = "engine-network"
	LabelID        = "container-id"
	LabelContainer = "container" // what people call it
	LabelAliases   = "aliases"   // further names of it, with commas between them
	LabelBegan     = "began"     // of the request that made it, as in EndpointRequest
)

// AttachmentOf returns the attachment that an endpoint is of.
func AttachmentOf(e ovs.Endpoint) (a Attachment, ok bool) {
	a = Attachment{
		Engine: e.Labels[LabelEngine], Network: e.Labels[LabelNetwork], Container: e.Labels[LabelID], Ifname: e.Ifname,
	}
	return a, a.Engine != ""
}

// Availability implements Attachments.
func (c *Client) Availability(ctx context.Context, network string) (Availability, error) {
	var out Availability
	err := c.do(ctx, http.MethodGet, "/v1/attachments/availability?network="+url.QueryEscape(network), nil, &out)
	return out, err
}

// CheckAttachment implements Attachments.
func (c *Client) CheckAttachment(ctx context.Context, a Attachment) (Endpoint, error) {
	var e Endpoint
	err := c.do(ctx, http.MethodPost, "/v1/attachments/check", a, &e)
	return e, err
}

// Detach implements Attachments.
func (c *Client) Detach(ctx context.Context, d Detachment) error {
	return c.do(ctx, http.MethodPost, "/v1/attachments/detach", d, nil)
}

// Retain implements Attachments.
func (c *Client) Retain(ctx context.Context, r Retention) error {
	return c.do(ctx, http.MethodPost, "/v1/attachments/retain", r, nil)
}

// handler is what answers a request.
type handler func(r *http.Request) (any, error)

// attachmentRoutes are the routes of Attachments.
func attachmentRoutes(svc Attachments, handle func(pattern string, f handler)) {
	handle("GET /v1/attachments/availability", func(r *http.Request) (any, error) {
		return svc.Availability(r.Context(), r.URL.Query().Get("network"))
	})
	handle("POST /v1/attachments/check", func(r *http.Request) (any, error) {
		var a Attachment
		if err := decode(r, &a); err != nil {
			return nil, err
		}
		return svc.CheckAttachment(r.Context(), a)
	})
	handle("POST /v1/attachments/detach", func(r *http.Request) (any, error) {
		var d Detachment
		if err := decode(r, &d); err != nil {
			return nil, err
		}
		if err := d.Attachment.Check(); err != nil {
			return nil, err
		}
		return struct{}{}, svc.Detach(r.Context(), d)
	})
	handle("POST /v1/attachments/retain", func(r *http.Request) (any, error) {
		var x Retention
		if err := decode(r, &x); err != nil {
			return nil, err
		}
		if x.Engine == "" || x.Network == "" {
			return nil, invalid("the engine or its network is missing")
		}
		return struct{}{}, svc.Retain(r.Context(), x)
	})
}
