package ovs

import (
	"maps"
	"slices"
	"strconv"

	"github.com/baize-net/baize/topology/fault"
)

// CollectorSet says where the packets go that flows give to it (Sample): rows of
// Flow_Sample_Collector_Set and IPFIX (ovs-vswitchd.conf.db(5)).
type CollectorSet struct {
	// ID is what flows name it by.
	ID uint32
	// Targets are "ADDRESS:PORT", sorted.
	Targets []string
	// Timeout is for how many seconds, Flows for how many flows records are
	// collected; 0: each packet is a record.
	Timeout, Flows int
	// Node is in every record (the element virtualObsID).
	Node string
}

// ObservedCollectorSet is a CollectorSet as the database has it.
type ObservedCollectorSet struct {
	CollectorSet
	// Owned: Baize made it.
	Owned bool
}

// SFlow is how a bridge tells of its packets by sFlow (table sFlow).
type SFlow struct {
	// Targets are "ADDRESS:PORT", sorted.
	Targets []string
	// Sampling: one of so many packets; Header is how many bytes of it; Polling is the
	// seconds between two reports of the ports' counters.
	Sampling, Header, Polling int
}

// NewSFlow returns how a bridge tells collectors of one of so many packets.
func NewSFlow(targets []string, sampling int) *SFlow {
	// The headers of IP and TCP fit, also behind those of a tunnel.
	return &SFlow{Targets: slices.Sorted(slices.Values(targets)), Sampling: sampling, Header: 128, Polling: 30}
}

// ObservedSFlow is an SFlow as the database has it.
type ObservedSFlow struct {
	SFlow
	// Owned: Baize made it.
	Owned bool
}

// Sample gives one of so many packets to a set of collectors (ovs-actions(7),
// "sample"). domain and point are in every record.
func Sample(set, domain, point uint32, oneOf int) string {
	const always = 65535
	probability := max((always+oneOf/2)/max(oneOf, 1), 1)
	return "sample(probability=" + strconv.Itoa(probability) + ",collector_set_id=" + strconv.FormatUint(uint64(set), 10) +
		",obs_domain_id=" + strconv.FormatUint(uint64(domain), 10) +
		",obs_point_id=" + strconv.FormatUint(uint64(point), 10) + ")"
}

func (c CollectorSet) same(o CollectorSet) bool {
	return c.ID == o.ID && slices.Equal(c.Targets, o.Targets) && c.Timeout == o.Timeout && c.Flows == o.Flows &&
		c.Node == o.Node
}

func (s SFlow) same(o SFlow) bool {
	return slices.Equal(s.Targets, o.Targets) && s.Sampling == o.Sampling && s.Header == o.Header && s.Polling == o.Polling
}

// diffSampling adds what differs in collectors. Sets that go, go after the flows
// that use them.
func (s State) diffSampling(have Observed, change, stale *DBChange) (problems []fault.Fault) {
	foreign := func(item, what, remedy string) {
		problems = append(problems, fault.Fault{
			Code: fault.SamplingForeign, Severity: fault.Error, Item: item, What: what, Remedy: remedy,
		})
	}
	wanted := map[uint32]bool{}
	for _, c := range s.Collectors {
		wanted[c.ID] = true
		id := strconv.FormatUint(uint64(c.ID), 10)
		switch old, there := have.Collectors[c.ID]; {
		case there && !old.Owned:
			foreign("collector set "+id,
				"somebody else made one of this number for the bridge: the records of the network's flows go there",
				"remove it with 'ovs-vsctl destroy Flow_Sample_Collector_Set UUID', or take --ipfix from the network")
		case !there || !old.same(c):
			change.SetCollectors = append(change.SetCollectors, c)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(have.Collectors)) {
		if have.Collectors[id].Owned && !wanted[id] {
			stale.RemoveCollectors = append(stale.RemoveCollectors, id)
		}
	}
	switch {
	case s.SFlow == nil:
		change.RemoveSFlow = have.SFlow != nil && have.SFlow.Owned
	case have.SFlow == nil || have.SFlow.Owned && !have.SFlow.same(*s.SFlow):
		change.SetSFlow = s.SFlow
	case !have.SFlow.Owned:
		foreign("sFlow of bridge "+s.Bridge.Name, "somebody else has set it: it is left alone",
			"remove it with 'ovs-vsctl clear bridge "+s.Bridge.Name+" sflow', or take --sflow from the agent")
	}
	return problems
}
