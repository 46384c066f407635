package topology

import (
	"errors"
	"fmt"

	"github.com/baize-net/baize/topology/fault"
)

// The kinds of refusal. Test with errors.Is.
var (
	// ErrInvalid: the value itself is wrong.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: the named item does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: the named item exists already.
	ErrExists = errors.New("already exists")
	// ErrConflict: it contradicts another item.
	ErrConflict = errors.New("conflict")
	// ErrInUse: something still depends on it.
	ErrInUse = errors.New("in use")
	// ErrFull: nothing is left to allocate.
	ErrFull = errors.New("full")
	// ErrUnavailable: etcd (or the agent, or OVS) does not answer.
	ErrUnavailable = errors.New("unavailable")
	// ErrDenied: etcd's user may not; it is ErrUnavailable as well.
	ErrDenied = fmt.Errorf("denied: %w", ErrUnavailable)
	// ErrUnclaimed: the address's owner has to be asked first.
	ErrUnclaimed = errors.New("not claimed")
)

// Error is a refusal that names the item, what is wrong with it and what to
// do. Kind is one of the errors above.
type Error struct {
	Kind   error
	Code   fault.Code // of the fault that it is while it lasts; may be empty
	Item   string     // "network blue", "subnets/blue/10.1.5.0-24"
	What   string     // "VNI 100 is used by network red"
	Remedy string     // "choose another with --vni"; may be empty
}

// Error formats as "item: what (remedy)".
func (e *Error) Error() string { return e.Fault().String() }

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// Fault implements fault.Coded.
func (e *Error) Fault() fault.Fault {
	return fault.Fault{Code: e.Code, Severity: fault.Error, Item: e.Item, What: e.What, Remedy: e.Remedy}
}
