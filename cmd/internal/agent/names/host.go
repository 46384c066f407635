package names

import (
	"errors"
	"net"
	"net/netip"
	"strconv"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
)

// Settings are what an operator chooses.
type Settings struct {
	// Public says that names of the Internet are answered where a container has them.
	Public bool
	// Host is where processes of the host itself may ask for names of all networks; not
	// valid: nowhere.
	Host netip.AddrPort
}

// thisHost stands for the host's own network namespace among those of containers.
const thisHost = ""

const domainPort = 53

// ParseHost reads where the host's processes may ask: an address, or an address and a
// port; nothing is nowhere. It is a loopback address: what containers are called is
// nobody else's business.
func ParseHost(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		at, err = netip.ParseAddrPort(net.JoinHostPort(s, strconv.Itoa(domainPort)))
	}
	invalid := func(what string) (netip.AddrPort, error) {
		return netip.AddrPort{}, &topology.Error{
			Kind: topology.ErrInvalid, Item: "address " + s, What: what,
			Remedy: "give a loopback address, such as " + Address.String(),
		}
	}
	switch {
	case err != nil:
		return invalid("is neither an address nor one with a port")
	case !at.Addr().IsLoopback():
		return invalid("others than this host would be answered there")
	case at.Port() == 0:
		return invalid("has no port")
	}
	return at, nil
}

// listenHost opens the sockets of the host's own server.
func listenHost(at netip.AddrPort) (s hostnet.NameServer, err error) {
	fail := func(err error) error {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: "name server at " + at.String(), What: err.Error(),
			Remedy: "another program may listen there ('ss -lnp'): give another address with --host-names",
		}
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return s, fail(err)
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return s, fail(errors.Join(err, udp.Close()))
	}
	return hostnet.NameServer{UDP: udp, TCP: tcp}, nil
}
