package member

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// initFile is below a member's directory and has all that its pid 1 reads when
// it starts. What is peculiar to the fabric or to an engine stands beside the
// identity, in the same JSON object.
const initFile = "init.json"

// Identity says which member this is and where it lives.
type Identity struct {
	Lab    string `json:"lab"`
	Member string `json:"member"`
	// Dir is the member's directory: logs, databases. Same path inside.
	Dir string `json:"dir"`
	// Binary is the baize executable.
	Binary string `json:"binary"`
	// Env is the environment of what runs inside.
	Env []string `json:"env"`
	// HostsFile becomes /etc/hosts.
	HostsFile string `json:"hostsFile"`
	// Share is a directory that stays visible at its path; "" where Dir is all.
	Share string `json:"share,omitempty"`
}

// ReadConfig reads what a member was started with into an Identity, or
// into a struct that has one.
func ReadConfig(dir string, into any) error {
	b, err := os.ReadFile(filepath.Join(dir, initFile))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// IsFabric reports whether this is the fabric.
func (id Identity) IsFabric() bool { return id.Member == Fabric }

// IsRouter reports whether this is the router between segments.
func (id Identity) IsRouter() bool { return id.Member == Router }

// Log is the file with what a service printed; "init" is pid 1 itself.
func (id Identity) Log(service string) string { return logFile(id.Dir, service) }
