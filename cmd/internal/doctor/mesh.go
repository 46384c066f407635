package doctor

import (
	"github.com/baize-net/baize/topology/fault"
)

// meshChecks are the probes through the tunnels themselves, which the agents make. What
// they find comes as faults of the agent; here is said whether they were made.
var meshChecks = []check{
	{tunnelsCheck, func(f *Facts, r *result) {
		if !f.Mesh.OK() {
			r.unchecked(f.Mesh.Reason())
			return
		}
		r.ok(fault.Counted(f.Mesh.Ways, "way") + " to other nodes probed through their tunnels")
	}},
}

// tunnelsCheck is the check that takes the probes' faults.
const tunnelsCheck = "tunnels"

// meshCodes are the codes of the faults that probes find; all others of the underlay
// belong to its device.
var meshCodes = map[fault.Code]bool{
	fault.PeerSilent: true, fault.PeerDeaf: true, fault.PeerLossy: true, fault.PathMTU: true, fault.PeerSlow: true,
	fault.PeerMisled: true,
}
