package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The messages of libnetwork's remote drivers: github.com/moby/moby,
// libnetwork/docs/remote.md and ipam.md; field names are theirs. Fields that
// nothing here needs are left out. An answer with Err is a refusal.

type activation struct{ Implements []string }

type capabilities struct {
	Scope             string
	ConnectivityScope string
}

type ipamCapabilities struct {
	RequiresMACAddress    bool
	RequiresRequestReplay bool
}

type addressSpaces struct {
	LocalDefaultAddressSpace  string
	GlobalDefaultAddressSpace string
}

type poolRequest struct {
	AddressSpace string
	Pool         string
	SubPool      string
	Options      map[string]string
	V6           bool
}

type poolAnswer struct {
	PoolID string
	Pool   string
	Data   map[string]string
}

type poolRelease struct{ PoolID string }

type addressRequest struct {
	PoolID  string
	Address string
	Options map[string]string
}

type addressAnswer struct {
	Address string
	Data    map[string]string
}

type addressRelease struct{ PoolID, Address string }

// ipamData is one pool of a network.
type ipamData struct {
	AddressSpace string
	Pool         string
	Gateway      string
	AuxAddresses map[string]string
}

type networkCreation struct {
	NetworkID string
	Options   map[string]any
	IPv4Data  []ipamData
	IPv6Data  []ipamData
}

type networkDeletion struct{ NetworkID string }

type endpointInterface struct {
	Address     string
	AddressIPv6 string
	MacAddress  string
}

type endpointCreation struct {
	NetworkID  string
	EndpointID string
	Interface  *endpointInterface
	Options    map[string]any
}

// endpointAnswer has what the request left open, and nothing else: to repeat
// what was given is an error.
type endpointAnswer struct{ Interface *endpointInterface }

type endpointName struct{ NetworkID, EndpointID string }

type operInfo struct{ Value map[string]any }

type joinRequest struct {
	NetworkID  string
	EndpointID string
	SandboxKey string
	Options    map[string]any
}

// interfaceName tells which device to move into the sandbox and how its name
// there begins. DstName, known to engines from 28 on, is the whole name.
type interfaceName struct {
	SrcName   string
	DstPrefix string
	DstName   string `json:",omitempty"`
}

type joinAnswer struct {
	InterfaceName interfaceName
	Gateway       string `json:",omitempty"`
	GatewayIPv6   string `json:",omitempty"`
	// DisableGatewayService keeps the engine from adding docker_gwbridge.
	DisableGatewayService bool `json:",omitempty"`
}

type refusal struct{ Err string }

// Keys in Options and Data (moby, libnetwork/netlabel).
const (
	keyGeneric  = "com.docker.network.generic"
	keyInternal = "com.docker.network.internal"
	keyMTU      = "com.docker.network.driver.mtu"
	keyPortMap  = "com.docker.network.portmap"
	keyIfname   = "com.docker.network.endpoint.ifname"
	keyGateway  = "com.docker.network.gateway"
	// keyAddressType says what an address is asked for.
	keyAddressType = "RequestAddressType"
)

// generic returns the options that people gave with -o.
func generic(options map[string]any) (map[string]string, error) {
	raw, ok := options[keyGeneric].(map[string]any)
	if !ok {
		return nil, nil
	}
	out := map[string]string{}
	for k, v := range raw {
		switch v := v.(type) {
		case string:
			out[k] = v
		case bool, float64:
			out[k] = fmt.Sprint(v)
		default:
			b, err := json.Marshal(v)
			return nil, fmt.Errorf("option %s: %s is no text: %w", k, b, err)
		}
	}
	return out, nil
}

// unknownOptions are those that begin like ours and are none: misspelt.
func unknownOptions(given map[string]string, known ...string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(given)) {
		if strings.HasPrefix(k, optionPrefix) && !slices.Contains(known, k) {
			out = append(out, k)
		}
	}
	return out
}
