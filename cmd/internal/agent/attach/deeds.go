package attach

import (
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
)

// Deed is what became of an endpoint, for the journal of events.
type Deed struct {
	At       time.Time
	Endpoint ovs.Endpoint
	// What is Attached or Detached, By says on whose request, or why.
	What DeedKind
	By   string
}

// DeedKind is what a Deed did.
type DeedKind int

// What is done to endpoints.
const (
	Attached DeedKind = iota
	Detached
)

// Who asks for endpoints.
const (
	byRequest = "a request at the agent's socket"
	byEngine  = "a request of the container engine"
)

// maxDeeds is how many deeds wait until somebody takes them.
const maxDeeds = 4096

// Deeds is what was done to the endpoints, in order.
func (p *Part) Deeds() *part.Queue[Deed] { return p.deeds }

func (p *Part) note(e ovs.Endpoint, what DeedKind, by string) {
	p.deeds.Put(Deed{At: time.Now(), Endpoint: e, What: what, By: by})
}
