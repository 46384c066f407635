package kernel

import "net/netip"

// Way is how the kernel sends packets to an address (ip route get).
type Way struct {
	Dev string
	// Via is the router; zero where the address is on-link.
	Via netip.Addr
	// Local: the address is the host's own.
	Local bool
	// Err: there is no way, or no answer.
	Err error
}

// Inside is what the kernel of an endpoint's own namespace does with packets.
type Inside struct {
	// Ifname is the endpoint's interface there; empty where it is gone.
	Ifname string
	Way    func(netip.Addr) Way
	// Ruleset is what 'nft -j list ruleset' prints there; empty where nothing is filtered.
	Ruleset []byte
}
