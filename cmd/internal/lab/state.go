package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
)

const stateFile = "lab.json"

// state is what a lab is wanted to be, kept in lab.json. What it is shows in
// /proc.
type state struct {
	Hosts        []string           `json:"hosts"` // by number
	Transport    topology.Transport `json:"transport"`
	Networks     []NetworkSpec      `json:"networks"`
	Endpoints    int                `json:"endpoints"`
	IPv6Underlay bool               `json:"ipv6Underlay,omitempty"`
	Docker       bool               `json:"docker,omitempty"`
	DockerBridge bool               `json:"dockerBridge,omitempty"`
	Segments     int                `json:"segments,omitempty"` // 0 is 1
	FRR          bool               `json:"frr,omitempty"`
	foreignState
	Engines   map[string]string `json:"engines,omitempty"`
	AgentArgs []string          `json:"agentArgs,omitempty"`
	Env       []string          `json:"env,omitempty"`
}

// readState returns a wrapped fs.ErrNotExist where there is no lab.
func readState(dir string) (state, error) {
	var s state
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, &topology.Error{
			Kind: topology.ErrInvalid, Item: filepath.Join(dir, stateFile), What: err.Error(),
			Remedy: "remove the lab with '" + CommandLine(filepath.Base(dir), "down") + "' and make it anew",
		}
	}
	return s, nil
}

func (s state) write(dir string) error {
	return atomicfile.WriteJSON(filepath.Join(dir, stateFile), s, 0o600)
}

// endpointNames are the namespaces of a network on every host.
func (s state) endpointNames(i int) []string {
	n := s.Networks[i].Endpoints
	if n == 0 {
		n = s.Endpoints
	}
	var names []string
	for j := 1; j <= n; j++ {
		name := fmt.Sprintf("c%d", j)
		if i > 0 {
			name = s.Networks[i].Name + "-" + name
		}
		names = append(names, name)
	}
	return names
}

// transport is that of a network.
func (s state) transport(n NetworkSpec) topology.Transport {
	if n.Transport != "" {
		return n.Transport
	}
	return s.Transport
}
