// Package supervisor keeps services running in a member of a lab, as init(8)
// does on a machine: it starts them in order, starts them again when they end,
// reaps orphans, and writes down what became of each.
//
// It runs inside, in the member's pid 1. Who is outside reads StatusFile, and
// makes and removes markers (StoppedFile) to have services stopped and started:
// there is no connection between the two that could break.
package supervisor

import (
	"context"
	"encoding/json"
	"os"
	"time"
)

// Service is a daemon that pid 1 keeps running.
type Service struct {
	Name string
	// Argv is its command line; it stays in the foreground.
	Argv []string
	Env  []string
	// Needs are services that have to be ready before its first start.
	Needs []string
	// Prepare runs before every start, Ready after it and returns once the
	// service can be used. Either may be nil.
	Prepare, Ready func(context.Context) error
	// Notifies says that it tells when it is ready, by sd_notify(3).
	Notifies bool
	// Grace is how long it may take to end when asked to, Patience how long
	// until it is ready; 0: stopGrace and readyTimeout.
	Grace, Patience time.Duration
}

// Status is what became of a service.
type Status struct {
	Name string `json:"name"`
	// State is "running", "ready", "stopped" (on request), "failed" or
	// "waiting" (for another service, or before a restart).
	State string `json:"state"`
	// PID is its number inside the host.
	PID int `json:"pid,omitempty"`
	// Starts counts how often it was started.
	Starts int `json:"starts"`
	// Last says how it ended last or why it could not start.
	Last  string    `json:"last,omitempty"`
	Since time.Time `json:"since"`
}

// States of a service.
const (
	StateWaiting = "waiting"
	StateRunning = "running"
	StateReady   = "ready"
	StateStopped = "stopped"
	StateFailed  = "failed"
)

// Dir is where a member keeps, on its private /run, what concerns its
// life: the executable (bin/baize), services.json, stopped.SERVICE for those
// that are not to run.
const Dir = "/run/baize-lab"

// Executable is baize, as the lab was made with.
const Executable = Dir + "/bin/baize"

// StatusFile is where a supervisor writes the Status of every service, at every
// change; ReadStatus reads it.
const StatusFile = Dir + "/services.json"

// StoppedFile is a service's marker: while it exists the service does not run.
func StoppedFile(service string) string { return Dir + "/stopped." + service }

// ReadStatus reads what a supervisor wrote.
func ReadStatus(file string) ([]Status, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []Status
	err = json.Unmarshal(b, &all)
	return all, err
}
