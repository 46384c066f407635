// Package subnetenv reads and writes subnet.env: the file that says which subnet
// the containers of a host have, for the scripts and service managers that start
// a container engine. Its format is flannel's (Documentation/running.md, "Docker
// integration"), whoever writes it, and so are the names in it.
package subnetenv

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
)

// Where it is: what 'baize agent --flannel' writes in place of flanneld, and what
// 'baize agent --docker-bridge' writes.
const (
	FlannelFile = "/run/flannel/subnet.env"
	BaizeFile   = "/run/baize/subnet.env"
)

// The names in the file.
const (
	keyNetwork     = "FLANNEL_NETWORK"
	keySubnet      = "FLANNEL_SUBNET"
	keyIPv6Network = "FLANNEL_IPV6_NETWORK"
	keyIPv6Subnet  = "FLANNEL_IPV6_SUBNET"
	keyMTU         = "FLANNEL_MTU"
	keyIPMasq      = "FLANNEL_IPMASQ"
	keyL2          = "BAIZE_L2"
)

// Env is what the file says. At least one family is set; a family has both its
// network and its subnet.
type Env struct {
	// Network and IPv6Network are the whole networks.
	Network, IPv6Network netip.Prefix
	// Subnet and IPv6Subnet are this host's parts of them, masked: 10.1.5.0/24.
	// The file has the first address in it: FLANNEL_SUBNET=10.1.5.1/24.
	Subnet, IPv6Subnet netip.Prefix
	// MTU is that of containers, in bytes of IP packet.
	MTU int
	// IPMasq says that whoever wrote the file masquerades, so Docker must not.
	IPMasq bool
	// L2 says that the whole network is one Ethernet: containers are to carry
	// the network's mask, and addresses are to come from the subnet. The line
	// is Baize's own, after flannel's; without it the file is flannel's, byte
	// for byte.
	L2 bool
}

// check says what keeps e from being written.
func (e Env) check() error {
	if !e.Subnet.IsValid() && !e.IPv6Subnet.IsValid() {
		return fmt.Errorf("no subnet of either family")
	}
	for _, x := range []struct {
		network, subnet netip.Prefix
		is4             bool
		name            string
	}{{e.Network, e.Subnet, true, "IPv4"}, {e.IPv6Network, e.IPv6Subnet, false, "IPv6"}} {
		switch {
		case !x.network.IsValid() && !x.subnet.IsValid():
		case !x.network.IsValid() || !x.subnet.IsValid():
			return fmt.Errorf("of %s there is only one of network and subnet", x.name)
		case x.network.Addr().Is4() != x.is4 || x.subnet.Addr().Is4() != x.is4:
			return fmt.Errorf("%s and %s are not %s", x.network, x.subnet, x.name)
		case !x.network.Contains(x.subnet.Addr()) || x.subnet.Bits() < x.network.Bits():
			return fmt.Errorf("subnet %s is not in network %s", x.subnet, x.network)
		case !x.subnet.Contains(topology.NodeAddr(x.subnet)):
			return fmt.Errorf("subnet %s has no address for the host", x.subnet)
		}
	}
	// What IPv4 asks of every link (RFC 791 section 3.2), and the kernel's own limit.
	if e.MTU < 68 || e.MTU > 65535 {
		return fmt.Errorf("MTU %d is out of range", e.MTU)
	}
	return nil
}

// Format returns the file's contents. The error says what e lacks.
func (e Env) Format() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, x := range []struct {
		network, subnet       netip.Prefix
		networkKey, subnetKey string
	}{{e.Network, e.Subnet, keyNetwork, keySubnet}, {e.IPv6Network, e.IPv6Subnet, keyIPv6Network, keyIPv6Subnet}} {
		if x.subnet.IsValid() {
			host := netip.PrefixFrom(topology.NodeAddr(x.subnet), x.subnet.Bits())
			fmt.Fprintf(&b, "%s=%s\n%s=%s\n", x.networkKey, x.network.Masked(), x.subnetKey, host)
		}
	}
	fmt.Fprintf(&b, "%s=%d\n%s=%t\n", keyMTU, e.MTU, keyIPMasq, e.IPMasq)
	if e.L2 {
		fmt.Fprintf(&b, "%s=true\n", keyL2)
	}
	return b.Bytes(), nil
}

// Write replaces the file in one step and makes its directory; a file that
// says the same already is left alone. Everybody may read it (mode 0644).
func Write(file string, e Env) error {
	b, err := e.Format()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, b, 0o644)
}

// Parse reads what Format, or flannel, wrote: NAME=value lines, the value
// perhaps in quotes, comments and empty lines. Names it does not know are passed
// over. A file that lacks something (cut off, for example) is an error, and
// errors name the line.
func Parse(b []byte) (Env, error) {
	var e Env
	seen := map[string]bool{}
	lines := strings.Split(string(b), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return e, fmt.Errorf("line %d has no end: the file is cut off", len(lines))
	}
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			return e, fmt.Errorf("line %d: %q is not NAME=value", i+1, line)
		}
		if n := len(value); n > 1 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
			value = value[1 : n-1]
		}
		if err := e.set(name, value); err != nil {
			return e, fmt.Errorf("line %d: %s=%q: %w", i+1, name, value, err)
		}
		seen[name] = true
	}
	for _, name := range []string{keyMTU, keyIPMasq} {
		if !seen[name] {
			return e, fmt.Errorf("%s is missing", name)
		}
	}
	return e, e.check()
}

func (e *Env) set(name, value string) (err error) {
	prefix := func(to *netip.Prefix) {
		*to, err = netip.ParsePrefix(value)
		*to = to.Masked()
	}
	switch name {
	case keyNetwork:
		prefix(&e.Network)
	case keySubnet:
		prefix(&e.Subnet)
	case keyIPv6Network:
		prefix(&e.IPv6Network)
	case keyIPv6Subnet:
		prefix(&e.IPv6Subnet)
	case keyMTU:
		e.MTU, err = strconv.Atoi(value)
	case keyIPMasq:
		e.IPMasq, err = strconv.ParseBool(value)
	case keyL2:
		e.L2, err = strconv.ParseBool(value)
	}
	return err
}

// Read reads a file. A file that is not there is fs.ErrNotExist.
func Read(file string) (Env, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Env{}, err
	}
	e, err := Parse(b)
	if err != nil {
		return Env{}, fmt.Errorf("%s: %w", file, err)
	}
	return e, nil
}
