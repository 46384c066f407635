package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/baize-net/baize/topology/fault"
)

var storeChecks = []check{
	{"etcd", storeAnswers}, {"members", storeMembers}, {"certificates", storeCertificates}, {"records", storeRecords},
	{"subnets", storeSubnets},
}

// slowStore is what reading the topology may take: agents ask with a limit of 3 s.
const slowStore = time.Second

func storeAnswers(f *Facts, r *result) {
	s := f.Store
	switch {
	case s.Why != nil:
		r.found(of(*s.Why))
	case s.Skipped != "":
		r.unchecked(s.Skipped)
	case s.Write != nil:
		r.found(of(*s.Write))
	case s.Took > slowStore:
		r.found(Finding{
			Code: fault.StoreSlow, Item: "etcd at " + strings.Join(s.Endpoints, ", "),
			What:     fmt.Sprintf("takes %s to read the topology", s.Took.Round(time.Millisecond)),
			Evidence: "agents give up on a request after three seconds",
			Remedy:   "look at etcd's disk and at the way to it: 'etcdctl check perf', 'etcdctl endpoint status --cluster'",
		})
	default:
		r.ok(fmt.Sprintf("etcd answers in %s and takes writes, at revision %d", s.Took.Round(time.Millisecond), s.Revision))
	}
}

func storeMembers(f *Facts, r *result) {
	s := f.Store
	if len(s.Members) == 0 {
		r.unchecked("no member could be asked by itself")
		return
	}
	if !s.OK() {
		r.unchecked("etcd does not answer: see above")
		return
	}
	for _, m := range s.Members {
		item := "etcd member at " + m.Endpoint
		switch {
		case m.Error != "":
			r.found(Finding{
				Code: fault.StoreMemberDown, Item: item, What: "does not answer: " + m.Error,
				Remedy: "start it, or take it out of the cluster and of --etcd-endpoints; the others go on while they are more " +
					"than half",
			})
		case !m.Leader:
			r.found(Finding{
				Code: fault.StoreMemberDown, Severity: fault.Error, Item: item, What: "has no leader",
				Remedy: "see that it reaches the other members, and that more than half of them run",
			})
		case m.Quota > 0 && m.Size > m.Quota/10*9:
			r.found(Finding{
				Code: fault.StoreNearlyFull, Item: item,
				What:   fmt.Sprintf("its database has %d of %d MB", m.Size>>20, m.Quota>>20),
				Remedy: "compact and defragment it before it refuses writes: docs/production.md",
			})
		}
	}
	r.ok(fmt.Sprintf("%d of %d members answer", len(s.Members), len(s.Members)))
}

// certificateDays is how long before its end a certificate is reported.
const certificateDays = 30

func storeCertificates(f *Facts, r *result) {
	if len(f.Store.Certificates) == 0 {
		r.ok("etcd is reached without certificates")
		return
	}
	for _, c := range f.Store.Certificates {
		x := Finding{Code: fault.CertificateExpires, Item: c.File,
			Remedy: "replace the file: it is read again for every connection"}
		left := c.NotAfter.Sub(f.At)
		switch {
		case c.Error != "":
			x.Code, x.What = fault.CertificateUnusable, c.Error
			x.Severity = fault.Error
		case left < 0:
			x.Severity, x.What = fault.Error, "has expired at "+c.NotAfter.Format(time.RFC3339)
		case left < certificateDays*24*time.Hour:
			x.What = fmt.Sprintf("expires in %d days, at %s", int(left.Hours()/24), c.NotAfter.Format(time.RFC3339))
		default:
			continue
		}
		x.Evidence = c.Subject
		r.found(x)
	}
	r.ok(fmt.Sprintf("%s good for %d days and more",
		fault.Counted(len(f.Store.Certificates), "certificate"), certificateDays))
}

func storeRecords(f *Facts, r *result) {
	if !f.Store.OK() {
		r.unchecked("the topology could not be read")
		return
	}
	for _, p := range f.Store.Topology {
		r.found(of(p))
	}
	names := map[string]bool{}
	for _, n := range f.Store.Networks {
		names[n.Network] = true
	}
	r.ok(fmt.Sprintf("%s and %s, no record contradicts another",
		fault.Counted(len(names), "network"), fault.Counted(len(f.Store.Nodes), "node")))
}

func storeSubnets(f *Facts, r *result) {
	if !f.Store.OK() {
		r.unchecked("the topology could not be read")
		return
	}
	for _, n := range f.Store.Networks {
		// Four of five, where five are possible: of few, all but none.
		if n.Total == 0 || n.Used*5 < n.Total*4 {
			continue
		}
		x := Finding{
			Code: fault.NetworkNearlyFull, Item: "network " + n.Network,
			What:   fmt.Sprintf("%d of its %d %s subnets are leased or reserved", n.Used, n.Total, n.Family),
			Remedy: "nodes that join get none soon: release reservations that nobody needs, or make a network with more of them",
		}
		if len(n.Dead) > 0 {
			x.Evidence = "held by nodes whose agents do not run: " + strings.Join(n.Dead, ", ")
			x.Remedy = "give up the nodes that do not come back"
			for _, d := range n.Dead {
				x.Commands = append(x.Commands, "baize node remove "+arg(d))
			}
		}
		r.found(x)
	}
	r.ok("every network has subnets left")
}
