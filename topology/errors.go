package topology

import "errors"

// The kinds of refusal. Test with errors.Is.
var (
	// ErrInvalid: the value itself makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: the named thing is not there.
	ErrNotFound = errors.New("not found")
	// ErrExists: the named thing is there already.
	ErrExists = errors.New("already exists")
	// ErrConflict: it contradicts something else that is there.
	ErrConflict = errors.New("conflict")
	// ErrInUse: something still depends on it.
	ErrInUse = errors.New("in use")
	// ErrFull: nothing is left to allocate.
	ErrFull = errors.New("full")
	// ErrUnavailable: etcd (or the agent, or OVS) does not answer.
	ErrUnavailable = errors.New("unavailable")
)

// Error is a refusal that names the item, what is wrong with it and what to
// do. Kind is one of the errors above.
type Error struct {
	Kind   error
	Item   string // "network blue", "subnets/blue/10.1.5.0-24"
	What   string // "VNI 100 is used by network red"
	Remedy string // "choose another with --vni"; may be empty
}

// Error formats as "item: what (remedy)".
func (e *Error) Error() string {
	s := e.Item
	if s != "" {
		s += ": "
	}
	s += e.What
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// Problem is something wrong that was found and worked around: the rest goes
// on. Problems are shown by baize status.
type Problem struct {
	// Item names the key, node, port or flow.
	Item string `json:"item"`
	// What says what is wrong with it.
	What string `json:"what"`
	// Remedy says what a person can do.
	Remedy string `json:"remedy,omitempty"`
}

// String formats like Error.
func (p Problem) String() string {
	return (&Error{Item: p.Item, What: p.What, Remedy: p.Remedy}).Error()
}

// AsProblem turns an error into a problem to be shown.
func AsProblem(err error) Problem {
	var e *Error
	if errors.As(err, &e) {
		return Problem{Item: e.Item, What: e.What, Remedy: e.Remedy}
	}
	return Problem{What: err.Error()}
}
