package cni

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
)

// config is the configuration of one call (CNI specification, section 3, "Deriving
// request configuration").
type config struct {
	types.PluginConf
	// Network is Baize's network; that of the configuration's own name where it is empty.
	Network string `json:"network"`
	// Socket is the agent's.
	Socket string `json:"socket"`
	// SubnetFile says which subnet this host routes to its containers (package
	// subnetenv). With it a container is no endpoint of a network: see routed.go.
	SubnetFile string `json:"subnetFile"`
	// NetworksAnnotation is the annotation that says in which networks a pod is beside, with
	// SubnetFile; empty: DefaultNetworksAnnotation.
	NetworksAnnotation string `json:"networksAnnotation"`
	// Allow are prefixes that containers may send from beside their own addresses.
	Allow []string `json:"allow"`
	// IPMasq is a well-known key that is refused.
	IPMasq  bool `json:"ipMasq"`
	Runtime struct {
		IPs       []string        `json:"ips"`
		MAC       string          `json:"mac"`
		Aliases   aliases         `json:"aliases"`
		Bandwidth bandwidth       `json:"bandwidth"`
		IPRanges  json.RawMessage `json:"ipRanges"`
		// PodAnnotations are nil where the runtime does not hand them on.
		PodAnnotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
		DNS            struct {
			Servers  []string `json:"servers"`
			Searches []string `json:"searches"`
			Options  []string `json:"options"`
		} `json:"dns"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
			MAC string   `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
	// env are the arguments of CNI_ARGS.
	env envArgs
}

// bandwidth is the capability of that name, in bits a second and bits (CONVENTIONS.md).
type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

func (b bandwidth) rates() (receives, sends hostnet.Rate) {
	return hostnet.Rate{Bits: b.IngressRate, Burst: b.IngressBurst}, hostnet.Rate{Bits: b.EgressRate, Burst: b.EgressBurst}
}

// aliases are a list (CONVENTIONS.md), or, as Podman has it, a list for each network.
type aliases struct {
	list      []string
	byNetwork map[string][]string
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *aliases) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &a.list) == nil {
		return nil
	}
	return json.Unmarshal(b, &a.byNetwork)
}

func (a aliases) of(network string) []string {
	all := slices.Concat(a.list, a.byNetwork[network])
	slices.Sort(all)
	return slices.Compact(all)
}

// envArgs are the keys of CNI_ARGS that are known; others need IgnoreUnknown=true.
type envArgs struct {
	types.CommonArgs
	IP                         types.UnmarshallableString
	MAC                        types.UnmarshallableString
	K8S_POD_NAME               types.UnmarshallableString
	K8S_POD_NAMESPACE          types.UnmarshallableString
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
	K8S_POD_UID                types.UnmarshallableString
}

// container is what people call the container; "" where the runtime does not say.
func (e envArgs) container() string {
	name, namespace := string(e.K8S_POD_NAME), string(e.K8S_POD_NAMESPACE)
	if namespace == "" || namespace == name { // Podman has no namespaces
		return name
	}
	return namespace + "/" + name
}

// keys are those that a configuration may have beside those of the protocol.
var keys = []string{
	"cniVersion", "cniVersions", "name", "type", "capabilities", "ipam", "dns", "prevResult", "runtimeConfig", "args",
	"disableCheck", "disableGC", "loadOnlyInlinedPlugins", "network", "socket", "allow", "ipMasq",
	"subnetFile", "networksAnnotation",
}

// parse reads a call's configuration. strict refuses what would be ignored otherwise:
// whoever removes something must not fail at it.
func parse(args *skel.CmdArgs, strict bool) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(args.StdinData, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration cannot be read", err.Error())
	}
	c.Network = cmp.Or(c.Network, c.Name)
	c.Socket = cmp.Or(c.Socket, api.DefaultSocket)
	if !strict {
		return c, nil
	}
	if err := c.checkKeys(args.StdinData); err != nil {
		return nil, err
	}
	if err := types.LoadArgs(args.Args, &c.env); err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+err.Error(),
			"known are IP, MAC and K8S_POD_…; others are ignored with IgnoreUnknown=true")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	return c, nil
}

// checkKeys refuses keys that are not known: a typing error would be ignored otherwise.
func (c *config) checkKeys(stdin []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &all); err != nil {
		return types.NewError(types.ErrDecodingFailure, "the network configuration cannot be read", err.Error())
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(keys, k) && !strings.HasPrefix(k, "cni.dev/") {
			return unsupported(k, all[k], "known are network, socket, allow, subnetFile, ipam and dns; see docs/cni.md")
		}
	}
	for _, k := range []string{"network", "allow"} {
		if c.SubnetFile != "" && all[k] != nil {
			return unsupported(k, all[k], "with subnetFile a container's first interface is routed by its host, and in no "+
				"network of Baize's")
		}
	}
	if k := "networksAnnotation"; c.SubnetFile == "" && all[k] != nil {
		return unsupported(k, all[k], "it goes with subnetFile")
	}
	if c.IPMasq {
		return unsupported("ipMasq", all["ipMasq"],
			"a network's way out is its gateway: 'baize network create --router', 'baize agent --masquerade'")
	}
	if len(c.Runtime.IPRanges) > 0 && c.IPAM.Type == "" && c.SubnetFile == "" {
		return unsupported("runtimeConfig.ipRanges", c.Runtime.IPRanges,
			"addresses are those of the node's subnet; ranges are for an ipam plugin such as host-local")
	}
	return nil
}

// unsupported is error 2: it names the key and the value.
func unsupported(key string, value []byte, remedy string) error {
	var compact bytes.Buffer
	if json.Compact(&compact, value) != nil {
		compact.Reset()
		compact.Write(value)
	}
	return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("key %q with value %s is not supported", key, &compact),
		remedy)
}

// attachment is what a call is about.
func (c *config) attachment(args *skel.CmdArgs) api.Attachment {
	return api.Attachment{
		Engine: api.EngineCNI, Network: c.Name, Container: args.ContainerID, Ifname: args.IfName,
	}
}

// request is what the agent is asked for. Addresses are those of the ipam plugin where
// there is one, and those that the runtime wants otherwise.
func (c *config) request(args *skel.CmdArgs, assigned []netip.Addr) (api.EndpointRequest, error) {
	a := c.attachment(args)
	req := api.EndpointRequest{
		Network: c.Network, Netns: args.Netns, Attachment: &a, IPs: assigned, Container: c.env.container(),
		Aliases: c.Runtime.Aliases.of(c.Name),
		MAC:     c.wantedMAC(),
	}
	var err error
	if c.IPAM.Type == "" {
		if req.IPs, err = c.wanted(); err != nil {
			return req, err
		}
	}
	if req.MAC != "" {
		mac, err := topology.ParseMAC(req.MAC)
		if err != nil {
			return req, invalidConfig("the link address "+req.MAC, err.Error())
		}
		req.MAC = mac.String()
	}
	if req.Allow, err = topology.ParseAllowed("allow", c.Allow); err != nil {
		return req, invalidConfig("allow", err.Error())
	}
	for _, alias := range req.Aliases {
		if strings.ContainsAny(alias, ", ") {
			return req, invalidConfig("the alias "+alias, "it has a comma or white space")
		}
	}
	return req, nil
}

// wantedMAC is the link address that the runtime wants, in the order of wanted.
func (c *config) wantedMAC() string { return cmp.Or(c.Runtime.MAC, c.Args.CNI.MAC, string(c.env.MAC)) }

// wanted are the addresses that the runtime wants: of the capability, of args, or of
// CNI_ARGS, which is the order of CONVENTIONS.md. Their prefix lengths are the
// network's business.
func (c *config) wanted() ([]netip.Addr, error) {
	list := c.Runtime.IPs
	if len(list) == 0 {
		list = c.Args.CNI.IPs
	}
	if len(list) == 0 && c.env.IP != "" {
		list = strings.Split(string(c.env.IP), ",")
	}
	return parseAddresses(list)
}

// parseAddresses reads addresses, with prefix lengths or without.
func parseAddresses(list []string) (out []netip.Addr, err error) {
	for _, s := range list {
		addr, _, _ := strings.Cut(strings.TrimSpace(s), "/")
		a, err := netip.ParseAddr(addr)
		if err != nil {
			return nil, invalidConfig("the address "+s, err.Error())
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

// dns is what the result says of names: what the runtime wants, or what is configured.
func (c *config) dns() types.DNS {
	d := *c.DNS.Copy()
	r := c.Runtime.DNS
	if len(r.Servers) > 0 {
		d.Nameservers = r.Servers
	}
	if len(r.Searches) > 0 {
		d.Search = r.Searches
	}
	if len(r.Options) > 0 {
		d.Options = r.Options
	}
	return d
}
