package topology

import (
	"fmt"

	"github.com/baize-net/baize/topology/fault"
)

// Down reports the nodes whose agent is not alive. A host that runs another program
// than Baize's agent has no liveness.
func (s *Snapshot) Down() []fault.Fault {
	var out []fault.Fault
	for _, n := range s.SortedNodes() {
		if _, alive := s.Alive[n.Name]; alive || n.Router != nil {
			continue
		}
		out = append(out, fault.Fault{
			Code: fault.NodeDown, Severity: fault.Warning,
			Item: "node " + n.Name, What: "its agent is not alive; its forwarding may go on",
			Remedy: fmt.Sprintf("look at the host and its agent, or give the node up with 'baize node remove %s'", n.Name),
		})
	}
	return out
}
