package pipeline

import "fmt"

// What the agents' probes of each other are in the switch; docs/mesh.md says what
// they are for. They go through the tunnels of the networks with a key that no
// network has, so an endpoint, whose frames have its network's key, can neither
// send a probe nor get one, whatever EtherType it uses.
const (
	// ProbeKey is the tunnel key of probes: no VNI (topology.Network.VNI is 1 or
	// more).
	ProbeKey = 0
	// ProbeEtherType is the first of those that IEEE 802 leaves to local experiments.
	ProbeEtherType = 0x88b5
	// ProbeController is the controller ID that probes are sent to: those who watch
	// the bridge with other IDs do not get them.
	ProbeController = 0xba12
)

// probes gives the agent the probes that come out of tunnels. Nothing here sends
// one: the agent names the tunnel each time.
func (b *builder) probes() {
	b.flow(classProbe, TableTunnel, prioProbe, fmt.Sprintf("tun_id=0x%x,dl_type=0x%x", ProbeKey, ProbeEtherType),
		fmt.Sprintf("controller(max_len=65535,id=%d)", ProbeController))
}
