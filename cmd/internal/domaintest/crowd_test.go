//go:build system

package domaintest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// What many endpoints and many networks leave behind on real switches and kernels: nothing.
func TestCrowd(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{NoProof: true, Networks: []lab.NetworkSpec{
		{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")}},
	}})
	t.Run("endpoints come and go", func(t *testing.T) { testEndpointsComeAndGo(d.in(t)) })
	t.Run("many networks", func(t *testing.T) { testManyNetworks(d.in(t)) })
}

// 1000 endpoints come and go on each of three hosts, 50 at a time: no address is there
// twice, nothing is left of them, and etcd hears nothing.
func testEndpointsComeAndGo(d *domain) {
	const atOnce = 50
	hosts := []string{"host1", "host2", "host3"}
	for _, h := range hosts {
		d.Must(h, "sh", "-ec", fmt.Sprintf("for i in $(seq 0 %d); do ip netns add many$i; done", atOnce-1))
	}
	revision := 0
	d.Await("etcd is quiet", func() (bool, string) {
		before := revision
		time.Sleep(time.Second)
		revision = d.revision()
		return revision == before, fmt.Sprint(revision)
	})
	left := map[string]string{}
	for _, h := range hosts {
		left[h] = d.belongings(h)
	}
	each := func(what func(agent *api.Client, i int) error) {
		var all errgroup.Group
		for _, h := range hosts {
			agent := d.Agent(h)
			for i := range atOnce {
				all.Go(func() error { return what(agent, i) })
			}
		}
		require.NoError(d.T, all.Wait())
	}
	began := time.Now()
	rounds := testkit.Some(1000/atOnce, 10)
	for round := range rounds {
		var mu sync.Mutex
		seen := map[netip.Addr]string{}
		each(func(agent *api.Client, i int) error {
			e, err := agent.AddEndpoint(d.T.Context(), api.EndpointRequest{
				Name: fmt.Sprintf("e%d-%d", round, i), Network: "blue", Netns: fmt.Sprint("many", i),
			})
			mu.Lock()
			defer mu.Unlock()
			for _, ip := range e.IPs {
				assert.Empty(d.T, seen[ip], "%s is %s's, too", ip, e.Name)
				seen[ip] = e.Node + "/" + e.Name
			}
			return err
		})
		require.Len(d.T, seen, 2*len(hosts)*atOnce)
		last := fmt.Sprintf("e%d-%d", round, atOnce-1)
		d.Reaches("host1/c1", d.Endpoint("host2/"+last))
		each(func(agent *api.Client, i int) error {
			return agent.RemoveEndpoint(d.T.Context(), fmt.Sprintf("e%d-%d", round, i))
		})
	}
	d.T.Logf("%d endpoints came and went in %v", rounds*len(hosts)*atOnce, time.Since(began).Round(time.Millisecond))
	for _, h := range hosts {
		d.Await(h+" is as it was", func() (bool, string) {
			now := d.belongings(h)
			return now == left[h], now
		})
	}
	assert.Equal(d.T, revision, d.revision(), "etcd was written")
}

// Sixty networks are made, used on two hosts, and deleted.
func testManyNetworks(d *domain) {
	before := map[string]string{"host1": d.belongings("host1"), "host2": d.belongings("host2")}
	for h := range before {
		d.Must(h, "ip", "netns", "add", "all")
	}
	many := testkit.Some(60, 10)
	name := func(i int) string { return fmt.Sprint("net", i) }
	for i := range many {
		d.Must("host1", "baize", "network", "create", name(i), "--subnet", fmt.Sprintf("10.%d.0.0/16", 100+i))
		for h := range before {
			d.Must(h, "baize", "endpoint", "add", name(i), "--network", name(i), "--netns", "all", "--ifname", name(i))
		}
	}
	for i := range many {
		to := d.Endpoint("host2/" + name(i))
		d.AwaitRun("it is reached in "+name(i), "host1", "ip", "netns", "exec", "all",
			"ping", "-c", "1", "-W", "1", "-I", name(i), to.IPs[0].String())
	}
	for i := range many {
		for h := range before {
			d.Must(h, "baize", "endpoint", "remove", name(i))
		}
		d.Must("host1", "baize", "network", "delete", name(i))
	}
	for h, was := range before {
		d.Await(h+" is as it was", func() (bool, string) {
			now := d.belongings(h)
			return now == was, now
		})
	}
	require.NotContains(d.T, d.Must("fabric", "etcdctl", "--endpoints", d.EtcdEndpoint(), "get", "--prefix", "--keys-only", "/baize/"), "net1")
}

// belongings are what there is of Baize on a host: ports, devices, flows, meters, records.
func (d *domain) belongings(host string) string {
	d.T.Helper()
	out, _ := d.Run(host, "sh", "-c", `
ovs-vsctl --timeout=5 list-ports br-baize
ip -o link show | grep -c . || true
ovs-ofctl -O OpenFlow14 --names --no-stats dump-flows br-baize | grep -c . || true
ovs-ofctl -O OpenFlow14 dump-meters br-baize | grep -c meter= || true
baize endpoint list --no-headers
`)
	return out
}

// revision is etcd's: every write has another.
func (d *domain) revision() int {
	d.T.Helper()
	var answer struct {
		Header struct {
			Revision int `json:"revision"`
		} `json:"header"`
	}
	out := d.Must("fabric", "etcdctl", "--endpoints", d.EtcdEndpoint(), "get", "-w", "json", "/baize/")
	require.NoError(d.T, json.Unmarshal([]byte(strings.TrimSpace(out)), &answer))
	return answer.Header.Revision
}
