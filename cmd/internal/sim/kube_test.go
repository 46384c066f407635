package sim_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
	"github.com/baize-net/baize/topology/kube"
	"github.com/baize-net/baize/topology/kube/kubefake"
	"github.com/baize-net/baize/topology/source"
)

// cluster is a Kubernetes cluster of simulated hosts whose agents have no etcd.
type cluster struct {
	*sim.World
	api *kubefake.Cluster

	mu  sync.Mutex
	env map[string]flannel.Env // by node
}

// newCluster returns a cluster whose agents do not run yet.
func newCluster(t *testing.T, nodes int) *cluster {
	t.Helper()
	c := &cluster{World: sim.New(t, 1, nodes), api: kubefake.New(), env: map[string]flannel.Env{}}
	t.Cleanup(func() { c.api.Stop(); c.Pass(time.Minute) })
	for i, n := range c.Nodes {
		c.api.Put(n.Name, []string{fmt.Sprintf("10.244.%d.0/24", i)}, nil)
		n.Configure = func(cfg *agent.Config) {
			cfg.WithoutEtcd, cfg.Etcd.Endpoints = true, nil
			cfg.Sources = []agent.SourceMaker{func(d agent.SourceDeps) (source.Source, error) { return c.source(d) }}
		}
	}
	return c
}

func (c *cluster) source(d agent.SourceDeps) (source.Source, error) {
	api, err := kube.NewAPI(c.api.Config(), "sim")
	if err != nil {
		return nil, err
	}
	return kube.NewSource(kube.Options{
		Nodes: api,
		NetConf: func() ([]byte, error) {
			return []byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`), nil
		},
		Source: flannel.Options{
			Node: d.Node, Changed: d.Changed, Member: d.Member, Logf: d.Infof,
			Cache:   d.Cache("kubernetes.json", topology.NewRawSnapshot),
			ReadEnv: func() (flannel.Env, error) { return flannel.Env{}, nil },
			WriteEnv: func(e flannel.Env) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.env[d.Node] = e
				return nil
			},
		},
	})
}

// pod is an address on a node.
func pod(node int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, byte(node), 5}) }

// requireReach requires that every node's pods reach those of every other, by its host.
func (c *cluster) requireReach(t *testing.T) {
	t.Helper()
	for i, a := range c.Nodes {
		for j, b := range c.Nodes {
			if i != j {
				require.Equal(t, []string{b.Name + "/bn-flannel"}, c.SendRouted(a, pod(i), pod(j)), "%s to %s", a.Name, b.Name)
			}
		}
	}
}

func (c *cluster) requireFine(t *testing.T) {
	t.Helper()
	for _, n := range c.Nodes {
		require.True(t, n.Ready(), n.Name)
		require.Empty(t, n.Faults(), n.Name)
	}
	c.requireReach(t)
}

// Agents without etcd take all they need from the Kubernetes API, through its outages
// and their own ends, and touch nothing where nothing changed.
func TestKubernetes(t *testing.T) {
	scenario(t, "from the start", func(t *testing.T) {
		c := newCluster(t, 3)
		c.Etcd.Stop()
		for _, n := range c.Nodes {
			n.Start()
		}
		c.Pass(time.Minute)
		c.requireFine(t)
		require.Equal(t, "10.244.1.0/24", c.env["host2"].Subnet.String())
		require.Equal(t, 1450, c.env["host2"].MTU)
		st, err := c.Nodes[0].Agent().Status(t.Context())
		require.NoError(t, err)
		require.True(t, st.Etcd.Unused)
		require.Len(t, st.Peers, 2)
		require.Equal(t, kube.Name, st.Peers[0].Layout)
	})
	scenario(t, "an outage", func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.Nodes {
			n.Start()
		}
		c.Pass(time.Minute)
		before := c.changes()
		c.api.Stop()
		c.Pass(10 * time.Minute)
		c.requireReach(t)
		for _, n := range c.Nodes {
			hasFault(t, n, fault.SourceUnavailable, "the Kubernetes API", "connection refused")
		}
		// Agents that end meanwhile, however they end, work by what was seen last.
		c.Nodes[0].Stop()
		c.Nodes[0].Start()
		c.Nodes[1].Kill()
		c.Nodes[1].Start()
		for range 30 {
			c.Pass(time.Second)
			c.requireReach(t)
		}
		require.Equal(t, before, c.changes(), "a switch that was right was touched")
		c.api.Start()
		c.Pass(time.Minute)
		c.requireFine(t)
		require.Equal(t, before, c.changes())
	})
	scenario(t, "agents that are started again", func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.Nodes {
			n.Start()
		}
		c.Pass(time.Minute)
		before := c.changes()
		for _, end := range []func(*sim.Node){(*sim.Node).Stop, (*sim.Node).Kill} {
			end(c.Nodes[0])
			c.Nodes[0].Start()
			for range 100 {
				c.Pass(10 * time.Millisecond)
				c.requireReach(t)
			}
		}
		c.requireFine(t)
		require.Equal(t, before, c.changes(), "a switch that was right was touched")
	})
	scenario(t, "nodes come and go", func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.Nodes[:2] {
			n.Start()
		}
		c.Pass(time.Minute)
		require.Empty(t, c.SendRouted(c.Nodes[0], pod(0), pod(2)), "nobody has it yet")
		c.Nodes[2].Start()
		c.Pass(time.Minute)
		c.requireFine(t)
		c.api.Delete("host3")
		c.Pass(time.Minute)
		require.Empty(t, c.SendRouted(c.Nodes[0], pod(0), pod(2)))
	})
}

// Agents that have etcd as well have networks of Baize's own beside the nodes' pods. What
// was seen last of the one that is away goes on, and the other with it.
func TestKubernetesAndEtcd(t *testing.T) {
	scenario(t, "outages", func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.Nodes {
			c.giveEtcd(n)
		}
		require.NoError(t, c.CreateNetworkOf("blue", topology.VXLAN))
		for _, n := range c.Nodes {
			n.Start()
		}
		c.Pass(time.Minute)
		for _, n := range c.Nodes {
			require.NoError(t, n.Add("blue", "second"))
		}
		c.Pass(time.Minute)
		c.requireFine(t)
		require.Empty(t, c.CheckForwarding())
		st, err := c.Nodes[0].Agent().Status(t.Context())
		require.NoError(t, err)
		require.False(t, st.Etcd.Unused)
		require.Empty(t, st.Peers[0].Layout, "it is one of Baize's own nodes")
		before := c.changes()

		for _, away := range []string{"etcd", "API", "both"} {
			if away != "API" {
				for _, n := range c.Nodes {
					n.Etcd.Set(etcdfake.Faults{Refused: true})
				}
			}
			if away != "etcd" {
				c.api.Stop()
			}
			c.Pass(time.Minute)
			c.Nodes[0].Kill()
			c.Nodes[0].Start()
			for range 30 {
				c.Pass(time.Second)
				c.requireReach(t)
				require.Empty(t, c.CheckForwarding(), away)
			}
			for _, n := range c.Nodes {
				n.Etcd.Set(etcdfake.Faults{})
			}
			if away != "etcd" {
				c.api.Start()
			}
			c.Pass(2 * time.Minute)
			c.requireFine(t)
		}
		require.Equal(t, before, c.changes(), "a switch that was right was touched")
	})
}

// giveEtcd has the next agent of a node use etcd as well.
func (c *cluster) giveEtcd(n *sim.Node) {
	sources := n.Configure
	n.Configure = func(cfg *agent.Config) {
		etcd := cfg.Etcd
		sources(cfg)
		cfg.WithoutEtcd, cfg.Etcd = false, etcd
	}
}

// Node by node a cluster gets etcd, and loses it again: pods reach each other meanwhile.
func TestKubernetesGetsEtcd(t *testing.T) {
	scenario(t, "and loses it", func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.Nodes {
			n.Start()
		}
		c.Pass(time.Minute)
		restart := func(n *sim.Node) {
			n.Stop()
			n.Start()
			for range 300 {
				c.Pass(100 * time.Millisecond)
				c.requireReach(t)
			}
		}
		var without []func(*agent.Config)
		for _, n := range c.Nodes {
			without = append(without, n.Configure)
			c.giveEtcd(n)
			restart(n)
		}
		c.requireFine(t)
		require.NoError(t, c.CreateNetworkOf("blue", topology.VXLAN))
		c.Pass(time.Minute)
		for _, n := range c.Nodes {
			require.NoError(t, n.Add("blue", "second"))
		}
		c.Pass(time.Minute)
		require.Empty(t, c.CheckForwarding())
		for i, n := range c.Nodes {
			require.NoError(t, n.Remove("second"))
			n.Configure = without[i]
			restart(n)
		}
		c.requireReach(t)
	})
}

// changes are how often each switch was changed.
func (c *cluster) changes() (out []int) {
	for _, n := range c.Nodes {
		out = append(out, n.Switch.Changes())
	}
	return out
}
