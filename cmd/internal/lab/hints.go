package lab

import (
	"fmt"
	"strings"
)

// Hint is a command to try in a new lab.
type Hint struct {
	// Target is what Exec takes: host1, host1/c1.
	Target string
	// Command is for a shell.
	Command string
}

// Hints are commands to try, in this order, in a lab with this status.
func (l *Lab) Hints(s *Status) []Hint {
	hosts := l.Hosts()
	if len(hosts) == 0 {
		return nil
	}
	first := hosts[0].Name()
	hints := []Hint{{first, "ovs-vsctl show"}, {first, "baize status"}}
	for _, e := range s.Endpoints {
		if here := s.Endpoints[0]; e.Node != here.Node && e.Network == here.Network && len(e.IPs) > 0 {
			hints = append(hints, Hint{here.String(), fmt.Sprintf("ping -c 3 %s", e.IPs[0])})
			break
		}
	}
	network := l.state.Networks[0].Name
	last := hosts[len(hosts)-1].Name()
	switch {
	case !l.state.Docker:
	case l.state.DockerBridge:
		hints = append(hints,
			Hint{last, "docker run -d --init --name web busybox sleep 1000"},
			Hint{first, "docker run --rm busybox ip addr show eth0"})
	default:
		const create = "docker network create -d baize --ipam-driver baize " +
			"-o baize.network=NET --ipam-opt baize.network=NETSUBNET NET"
		subnet := ""
		for _, p := range l.state.Networks[0].Prefixes {
			if p.Addr().Is4() {
				subnet = " --subnet " + p.String()
			}
		}
		for _, h := range hosts {
			hints = append(hints, Hint{h.Name(), strings.NewReplacer("SUBNET", subnet, "NET", network).Replace(create)})
		}
		hints = append(hints,
			Hint{last, "docker run -d --init --name web --network " + network + " busybox sleep 1000"},
			Hint{first, "docker run --rm --network " + network + " busybox ping -c 3 web"})
	}
	return hints
}
