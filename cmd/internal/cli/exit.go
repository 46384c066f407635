package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/baize-net/baize/topology"
)

// The exit codes of every command. Scripts rely on them.
const (
	ExitOK          = 0   // done
	ExitError       = 1   // anything that has no code of its own
	ExitUsage       = 2   // wrong usage, or an invalid value
	ExitNotFound    = 3   // the named item does not exist
	ExitConflict    = 4   // it exists already, is in use, or contradicts another item
	ExitUnavailable = 5   // etcd, the agent or OVS does not answer, or privileges are missing
	ExitFull        = 6   // nothing is left to allocate
	ExitInterrupted = 130 // ended by an interrupt, as a shell counts it
)

// ExitStatus is an error that carries its exit code, for a command that runs
// another one. Err may be nil: then there is nothing to say.
type ExitStatus struct {
	Code int
	Err  error
}

// Error returns the text of Err, or names the code.
func (e *ExitStatus) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitStatus) Unwrap() error { return e.Err }

// ExitCode returns the code an error ends the program with.
func ExitCode(err error) int {
	var status *ExitStatus
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &status):
		return status.Code
	case errors.Is(err, topology.ErrInvalid):
		return ExitUsage
	case errors.Is(err, topology.ErrNotFound):
		return ExitNotFound
	case errors.Is(err, topology.ErrExists), errors.Is(err, topology.ErrConflict), errors.Is(err, topology.ErrInUse):
		return ExitConflict
	case errors.Is(err, topology.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return ExitUnavailable
	case errors.Is(err, topology.ErrFull):
		return ExitFull
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	}
	return ExitError
}
