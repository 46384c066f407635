// Package event says what an event is: something that happened on a node or in the
// topology, when, and why. It is pure: events are made of two values, the one before
// and the one after, and chosen by a Query. The journal that keeps them is
// cmd/internal/agent/events.
package event

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/topology/fault"
)

// Event is something that happened. -o json prints it, and the journal has one a line.
type Event struct {
	// ID grows from one event of a node to the next, also over restarts; it is unique
	// on the node only. 0: not in a journal yet.
	ID int64 `json:"id"`
	// Time is when it happened, or when the node saw it.
	Time time.Time `json:"time"`
	// Node is the node whose journal has it.
	Node string `json:"node"`
	Kind Kind   `json:"kind"`
	// Subject is what it happened to: "node host2", "endpoint c1".
	Subject string `json:"subject"`
	// Network is that of the subject, where it has one.
	Network string `json:"network,omitempty"`
	// Container is what the engine of this node calls the endpoint's container.
	Container string `json:"container,omitempty"`
	// Text says what happened.
	Text string `json:"text"`
	// Cause says why: the record in etcd and its revision, or the request.
	Cause string `json:"cause,omitempty"`
	// Revision is etcd's revision of that record; 0 where there is none.
	Revision int64 `json:"revision,omitempty"`
	// Code is that of the fault, where the event is one.
	Code fault.Code `json:"code,omitempty"`
	// Boot tells the boots of the host apart, where the event is an agent's start.
	Boot string `json:"boot,omitempty"`
	// Version is the program's, where the event is an agent's start.
	Version string `json:"version,omitempty"`
}

// Kind is a stable word for what happened.
type Kind string

// The kinds.
const (
	AgentStarted Kind = "agent-started"
	AgentStopped Kind = "agent-stopped"

	EtcdLost Kind = "etcd-lost"
	EtcdBack Kind = "etcd-back"

	NetworkCreated  Kind = "network-created"
	NetworkChanged  Kind = "network-changed"
	NetworkDeleting Kind = "network-deleting"
	NetworkKept     Kind = "network-kept"
	NetworkDeleted  Kind = "network-deleted"

	NodeJoined  Kind = "node-joined"
	NodeChanged Kind = "node-changed"
	NodeLeft    Kind = "node-left"
	NodeLost    Kind = "node-lost"
	NodeBack    Kind = "node-back"

	SubnetLeased   Kind = "subnet-leased"
	SubnetChanged  Kind = "subnet-changed"
	SubnetReleased Kind = "subnet-released"

	PinCreated Kind = "pin-created"
	PinMoved   Kind = "pin-moved"
	PinRemoved Kind = "pin-removed"

	EndpointAttached Kind = "endpoint-attached"
	EndpointDetached Kind = "endpoint-detached"
	EndpointNamed    Kind = "endpoint-named"

	SwitchChanged  Kind = "switch-changed"
	SwitchRepaired Kind = "switch-repaired"
	SwitchLost     Kind = "switch-lost"
	SwitchBack     Kind = "switch-back"

	FaultFound Kind = "fault-found"
	FaultGone  Kind = "fault-gone"

	EventsLost Kind = "events-lost"
)

// Meaning is a kind with what it says.
type Meaning struct {
	Kind  Kind
	Means string
}

// Kinds lists all kinds, related ones together.
func Kinds() []Meaning {
	return []Meaning{
		{AgentStarted, "the agent of the node started: with which version, and how the one before it ended"},
		{AgentStopped, "the agent was told to stop; forwarding goes on"},
		{EtcdLost, "etcd stopped answering the agent"},
		{EtcdBack, "etcd answers the agent again"},
		{NetworkCreated, "a network is there that was not"},
		{NetworkChanged, "fields of a network's record changed"},
		{NetworkDeleting, "a network was marked for deletion"},
		{NetworkKept, "the deletion of a network was cancelled"},
		{NetworkDeleted, "a network's record is gone"},
		{NodeJoined, "a node is registered that was not"},
		{NodeChanged, "fields of a node's record changed: its VTEP, its version, a boot"},
		{NodeLeft, "a node's record is gone"},
		{NodeLost, "a node's agent is not alive any more; its forwarding may go on"},
		{NodeBack, "a node's agent is alive again"},
		{SubnetLeased, "a subnet was leased, or reserved"},
		{SubnetChanged, "a subnet has another owner, or a reservation changed"},
		{SubnetReleased, "a subnet was given back, or released"},
		{PinCreated, "an address was pinned to a node"},
		{PinMoved, "a pinned address lives on another node, or has another MAC"},
		{PinRemoved, "a pin is gone"},
		{EndpointAttached, "an endpoint of the node was attached: on whose request"},
		{EndpointDetached, "an endpoint of the node was detached: on whose request"},
		{EndpointNamed, "the engine told which container an endpoint is of"},
		{SwitchChanged, "ports or flows were changed as the topology or the endpoints ask for"},
		{SwitchRepaired, "ports or flows that somebody else removed or changed were restored"},
		{SwitchLost, "ovs-vswitchd ended, or the connection to it did"},
		{SwitchBack, "ovs-vswitchd answers again"},
		{FaultFound, "'baize status' shows a fault that it did not show before"},
		{FaultGone, "'baize status' does not show a fault any more"},
		{EventsLost, "events of the node were not written: too many at a time, or a full disk"},
	}
}

// Query chooses events.
type Query struct {
	// Since and Until bound the time; zero: they do not.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// After is the ID that events must be above.
	After int64 `json:"after,omitempty"`
	// Kinds are those wanted; "fault-*" is every kind that begins so. Empty: all.
	Kinds []string `json:"kinds,omitempty"`
	// Subject is a part of the subject, in any case. Empty: all.
	Subject string `json:"subject,omitempty"`
	// Endpoint is the name of an endpoint or of a container. Empty: all.
	Endpoint string `json:"endpoint,omitempty"`
	// Network is the name of one. Empty: all.
	Network string `json:"network,omitempty"`
}

// Chooser chooses events one after the other, from the oldest to the newest.
type Chooser struct {
	q Query
	// endpoints are the subjects that Query.Endpoint is a container of.
	endpoints map[string]bool
}

// Chooser returns what chooses by the query.
func (q Query) Chooser() *Chooser { return &Chooser{q: q, endpoints: map[string]bool{}} }

// Chooses reports whether an event is wanted. It looks at each event, in order: an
// endpoint whose container is wanted is known from its events.
func (c *Chooser) Chooses(e Event) bool {
	q := c.q
	subject := endpointKey(e)
	if q.Endpoint != "" && e.Container == q.Endpoint {
		c.endpoints[subject] = true
	}
	switch {
	case !q.Since.IsZero() && e.Time.Before(q.Since),
		!q.Until.IsZero() && e.Time.After(q.Until),
		e.ID != 0 && e.ID <= q.After,
		len(q.Kinds) > 0 && !slices.ContainsFunc(q.Kinds, e.Kind.Matches),
		q.Subject != "" && !strings.Contains(strings.ToLower(e.Subject), strings.ToLower(q.Subject)),
		q.Network != "" && e.Network != q.Network:
		return false
	}
	return q.Endpoint == "" || e.Subject == "endpoint "+q.Endpoint || c.endpoints[subject]
}

// endpointKey is what is the same in all events of one endpoint.
func endpointKey(e Event) string { return e.Network + " " + e.Subject }

// Matches reports whether the kind is the one that is named, or begins as "fault-*" does.
func (k Kind) Matches(pattern string) bool {
	if begin, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(string(k), begin)
	}
	return string(k) == pattern
}

// Choose returns those of events that a query chooses. They are in order of time,
// as they come. Events of a container from before its name was known are among them.
func (q Query) Choose(events []Event) []Event {
	c := q.Chooser()
	if q.Endpoint != "" {
		for _, e := range events {
			c.Chooses(e) // which endpoints the container has
		}
	}
	out := []Event{}
	for _, e := range events {
		if c.Chooses(e) {
			out = append(out, e)
		}
	}
	return out
}

// Sort orders events by time, those of one moment as they come.
func Sort(events []Event) {
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
}

// record says which record at which revision something is caused by.
func record(key string, revision int64) string {
	return key + " at revision " + strconv.FormatInt(revision, 10)
}

// QuestionKind is what a Query is called where other nodes are asked by way of etcd
// (topology.Question); the answer is a list of events.
const QuestionKind = "events"

// Newest leaves out the oldest of a list until it has no more than size bytes as JSON.
func Newest(list []Event, size int) []Event {
	size -= len("[]")
	first := len(list)
	for ; first > 0; first-- {
		b, err := json.Marshal(list[first-1])
		if size -= len(b) + len(","); err != nil || size < 0 {
			break
		}
	}
	return append([]Event{}, list[first:]...)
}
