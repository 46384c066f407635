//go:build system

package doctortest

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// A host whose clock is off is named. The hosts of a lab have one clock, so what answers in
// host2's place is not its agent: it says what host2's doctor says, a minute before or after.
func testClock(p *patient) {
	store, err := etcdstore.Open(p.T.Context(), etcdstore.Config{Endpoints: []string{p.EtcdEndpoint()}})
	require.NoError(p.T, err)
	p.T.Cleanup(func() { _ = store.Close() })
	report, _ := p.doctor("host2")
	snap, err := store.Snapshot(p.T.Context())
	require.NoError(p.T, err)
	alive := snap.Alive["host2"]
	require.NoError(p.T, p.Host("host2").StopService(p.T.Context(), lab.ServiceAgent))
	p.Must("fabric", "etcdctl", "--endpoints="+p.EtcdEndpoint(), "put", topology.DefaultPrefix+"/"+alive.Key(),
		string(topology.Encode(alive)))

	for off, named := range map[time.Duration]bool{0: false, time.Minute: true, -5 * time.Minute: true} {
		ctx, cancel := context.WithCancel(p.T.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = store.Questions(ctx, func(q topology.Question) {
				answer := doctor.Answer{Report: report, VXLANPort: 4789, GenevePort: 6081}
				answer.Report.At = time.Now().Add(off)
				body, err := json.Marshal(answer)
				if err == nil {
					_ = store.PutAnswer(ctx, q, topology.NodeAnswer{Node: "host2", Body: body})
				}
			})
		}()
		p.Await(fmt.Sprintf("what host1 says of a clock that is %s off", off), func() (bool, string) {
			r, saw := p.doctor("host1", "--all")
			return len(r.Findings()) == map[bool]int{true: 1}[named] && finding(r, fault.ClockSkew, "host2") == named, saw
		})
		cancel()
		<-done
	}
	p.Must("fabric", "etcdctl", "--endpoints="+p.EtcdEndpoint(), "del", topology.DefaultPrefix+"/"+alive.Key())
	require.NoError(p.T, p.Host("host2").StartService(p.T.Context(), lab.ServiceAgent))
	p.awaitHealthy()
}
