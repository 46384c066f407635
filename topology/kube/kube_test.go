package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
	"github.com/baize-net/baize/topology/kube"
	"github.com/baize-net/baize/topology/kube/kubefake"
	"github.com/baize-net/baize/topology/source"
)

const (
	netConf = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`
	prefix  = kube.DefaultAnnotationPrefix + "/"
)

// rig is a node's source on a cluster.
type rig struct {
	t       *testing.T
	cluster *kubefake.Cluster
	source  *flannel.Source
	o       kube.Options
	stop    func()

	mu     sync.Mutex
	member source.Member
	own    *topology.Snapshot
	env    *flannel.Env
	kept   *topology.Snapshot
	news   int
}

// newRig returns the source of node n1, 192.168.77.1, which does not run.
func newRig(t *testing.T, c *kubefake.Cluster) *rig {
	t.Helper()
	self := topology.Node{
		Name: "n1", ID: "id1", VTEPs: []netip.Addr{netip.MustParseAddr("192.168.77.1")},
		Encapsulations: topology.Encapsulations(), UnderlayMTU: 1500,
	}
	r := &rig{t: t, cluster: c, member: source.Member{Underlay: self.VTEPs}}
	r.own = topology.NewSnapshot(1, []topology.KV{{Key: self.Key(), Value: topology.Encode(self)}})
	api, err := kube.NewAPI(c.Config(), "baize-test")
	require.NoError(t, err)
	r.o = kube.Options{
		Nodes: api, NetConf: func() ([]byte, error) { return []byte(netConf), nil },
		Source: flannel.Options{
			Node: "n1", Cache: r, Changed: r.changed, WriteEnv: r.write, ReadEnv: r.read,
			Member: func(context.Context) (source.Member, error) { return r.member, nil },
		},
	}
	return r
}

// start runs the source until stop, or the test's end.
func (r *rig) start() {
	r.t.Helper()
	var err error
	r.source, err = kube.NewSource(r.o)
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.source.Run(ctx) }()
	r.stop = func() { cancel(); assert.NoError(r.t, <-done) }
}

func (r *rig) changed() {
	r.mu.Lock()
	r.news++
	own := r.own
	r.mu.Unlock()
	r.source.Merge(own) // as the hub does
}

// merged is the topology after a while.
func (r *rig) merged() *topology.Snapshot {
	r.t.Helper()
	synctest.Wait()
	out, ok := r.source.Merge(r.own)
	require.True(r.t, ok)
	return out
}

func (r *rig) write(e flannel.Env) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.env = &e
	return nil
}

func (r *rig) read() (flannel.Env, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.env == nil {
		return flannel.Env{}, fs.ErrNotExist
	}
	return *r.env, nil
}

// Load, Save, Flush and File implement source.Cache.
func (r *rig) Load() (*topology.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil {
		return nil, fs.ErrNotExist
	}
	return topology.NewRawSnapshot(r.kept.Revision, r.kept.KVs()), nil
}

func (r *rig) Save(s *topology.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = s
}

func (*rig) Flush()       {}
func (*rig) File() string { return "kept.json" }

// bubble runs a test in virtual time with a cluster of n1 and a host that runs
// flannel.
func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		c := kubefake.New()
		defer func() { c.Stop(); time.Sleep(time.Minute) }() // clients notice
		c.Put("n1", []string{"10.244.1.0/24"}, nil)
		c.Put("n2", []string{"10.244.2.0/24"}, flannelHost("192.168.77.2", "f2:00:00:00:00:02"))
		r := newRig(t, c)
		f(t, r)
		if r.stop != nil {
			r.stop()
		}
	})
}

// flannelHost is what flannel writes of its own host.
func flannelHost(ip, mac string) map[string]string {
	return map[string]string{
		prefix + "kube-subnet-manager": "true", prefix + "public-ip": ip, prefix + "backend-type": "vxlan",
		prefix + "backend-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":%q}`, mac),
	}
}

func subnetsOf(s *topology.Snapshot) map[string]string {
	out := map[string]string{}
	for id, sub := range s.Subnets {
		out[id.Prefix.String()] = sub.Node
	}
	return out
}

// A node writes what flannel's hosts look for, once, and reads what they wrote.
func TestJoin(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cluster.SetCondition("n1", "NetworkUnavailable", "True")
		r.cluster.SetCondition("n1", "Ready", "True")
		r.start()
		m := r.merged()
		n := m.Networks[flannel.Network]
		assert.Equal(t, topology.VXLAN, n.Transport)
		assert.Equal(t, kube.Name, n.Layout)
		assert.Equal(t, uint32(1), n.VNI)
		assert.Equal(t, map[string]string{"10.244.1.0/24": "n1", "10.244.2.0/24": "n2"}, subnetsOf(m))
		peer := m.Nodes["n2"]
		assert.Equal(t, &topology.RouterHost{MAC: "f2:00:00:00:00:02", Port: 8472}, peer.Router)
		assert.Equal(t, "[192.168.77.2]", fmt.Sprint(peer.VTEPs))

		assert.Equal(t, map[string]string{
			prefix + "kube-subnet-manager": "true", prefix + "public-ip": "192.168.77.1", prefix + "backend-type": "vxlan",
			prefix + "backend-data": `{"VNI":1,"VtepMAC":"0e:ba:c0:a8:4d:01"}`,
		}, r.cluster.Annotations("n1"))
		assert.Equal(t, "False", r.cluster.Condition("n1", "NetworkUnavailable"))
		assert.Equal(t, "True", r.cluster.Condition("n1", "Ready"))
		require.True(t, r.source.Ready())
		assert.Equal(t, flannel.Env{
			Network: netip.MustParsePrefix("10.244.0.0/16"), Subnet: netip.MustParsePrefix("10.244.1.0/24"), MTU: 1450,
		}, *r.env)
		assert.Empty(t, r.source.Faults())

		time.Sleep(time.Hour)
		assert.Len(t, r.cluster.Patches(), 1, "what is there is not written again")
		assert.Equal(t, 1, r.cluster.Requests("list"), "a watch goes on where the one before it ended")
	})
}

// With IPv6 alone hosts are known by their IPv6 addresses, as flannel writes them; a node
// that has both families says nothing of the other.
func TestIPv6Alone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.o.NetConf = func() ([]byte, error) {
			return []byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10:244::/56","Backend":{"Type":"vxlan"}}`), nil
		}
		addr := netip.MustParseAddr
		self, other := r.own.Nodes["n1"], r.own.Nodes["n1"]
		self.VTEPs = append(self.VTEPs, addr("fd77::1"))
		other.Name, other.ID, other.VTEPs = "n4", "id4", []netip.Addr{addr("fd77::4")}
		r.member.Underlay = self.VTEPs
		r.own = topology.NewSnapshot(1, []topology.KV{
			{Key: self.Key(), Value: topology.Encode(self)}, {Key: other.Key(), Value: topology.Encode(other)},
		})
		host := func(ip, mac string) map[string]string {
			return map[string]string{
				prefix + "kube-subnet-manager": "true", prefix + "public-ipv6": ip, prefix + "backend-type": "vxlan",
				prefix + "backend-v6-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":%q}`, mac),
			}
		}
		r.cluster.Put("n1", []string{"fd00:10:244:1::/64"}, nil)
		r.cluster.Put("n2", []string{"fd00:10:244:2::/64"}, host("fd77::2", "f6:00:00:00:00:02"))
		r.cluster.Put("n3", []string{"10.244.3.0/24"}, host("fd77::3", "f6:00:00:00:00:03"))
		r.cluster.Put("n4", []string{"fd00:10:244:4::/64"}, host("fd77::4", topology.RouterMAC(other).String()))
		r.start()
		m := r.merged()
		assert.Equal(t, map[string]string{
			"fd00:10:244:1::/64": "n1", "fd00:10:244:2::/64": "n2", "fd00:10:244:4::/64": "n4",
		}, subnetsOf(m))
		assert.Equal(t, &topology.RouterHost{IPv6MAC: "f6:00:00:00:00:02", Port: 8472}, m.Nodes["n2"].Router)
		assert.Equal(t, "[fd77::2]", fmt.Sprint(m.Nodes["n2"].VTEPs))
		assert.Nil(t, m.Nodes["n4"].Router, "one of Baize's, by its own record")
		require.Len(t, m.Malformed, 1)
		for _, f := range m.Malformed {
			assert.Contains(t, f.String(), "no podCIDR for IPv6")
		}
		assert.Equal(t, host("fd77::1", "0e:ba:c0:a8:4d:01"), r.cluster.Annotations("n1"))
		require.True(t, r.source.Ready())
		assert.Equal(t, flannel.Env{
			IPv6Network: netip.MustParsePrefix("fd00:10:244::/56"), IPv6Subnet: netip.MustParsePrefix("fd00:10:244:1::/64"),
			MTU: 1430,
		}, *r.env)
		assert.Empty(t, r.source.Faults())
	})
}

// Nodes come, change and go; what changes in them besides is nobody's business.
func TestFollow(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.merged()
		news := r.news
		r.cluster.SetCondition("n2", "Ready", "False")
		r.merged()
		assert.Equal(t, news, r.news)

		r.cluster.Put("n3", nil, nil)
		assert.NotContains(t, r.merged().Nodes, "n3", "a node that has no podCIDR yet")
		r.cluster.Put("n3", []string{"10.244.3.0/24"}, nil)
		assert.NotContains(t, r.merged().Nodes, "n3", "flannel does not run there yet")
		r.cluster.Put("n3", []string{"10.244.3.0/24"}, flannelHost("192.168.77.3", "f2:00:00:00:00:03"))
		assert.Equal(t, "n3", subnetsOf(r.merged())["10.244.3.0/24"])
		r.cluster.Put("n3", []string{"10.244.3.0/24"}, flannelHost("192.168.77.33", "f2:00:00:00:00:33"))
		m := r.merged()
		assert.Equal(t, "f2:00:00:00:00:33", m.Nodes["n3"].Router.MAC, "a host that came back with another device")
		r.cluster.Delete("n3")
		assert.NotContains(t, subnetsOf(r.merged()), "10.244.3.0/24")
		assert.Equal(t, 1, r.cluster.Requests("list"))
	})
}

// Half of a listing is never believed, and more nodes than a page are no problem.
func TestPages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		for i := range 1200 {
			cidr := fmt.Sprintf("10.244.%d.%d/28", 16+i/16, i%16*16)
			r.cluster.Put(fmt.Sprintf("x%d", i), []string{cidr}, flannelHost(fmt.Sprintf("172.16.%d.%d", i/250, 1+i%250), "f2:00:00:00:00:09"))
		}
		r.start()
		assert.Len(t, r.merged().Subnets, 1202)
		assert.Equal(t, 3, r.cluster.Requests("list"))
	})
}

// While the API is away the last topology stays in force, and that is said, once;
// afterwards all is as if it had been there.
func TestOutage(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		before := subnetsOf(r.merged())
		r.cluster.Stop()
		time.Sleep(10 * time.Minute)
		assert.Equal(t, before, subnetsOf(r.merged()))
		faults := r.source.Faults()
		require.Len(t, faults, 1)
		assert.Equal(t, fault.SourceUnavailable, faults[0].Code)
		assert.Contains(t, faults[0].String(), "the nodes in the Kubernetes API at http://kube.example")
		assert.True(t, r.source.Ready(), "pods start all the while")

		// Meanwhile a node went and one came, and the server forgot what happened.
		r.cluster.Delete("n2")
		r.cluster.Put("n4", []string{"10.244.4.0/24"}, flannelHost("192.168.77.4", "f2:00:00:00:00:04"))
		r.cluster.Compact()
		r.cluster.Start()
		time.Sleep(10 * time.Second)
		assert.Equal(t, map[string]string{"10.244.1.0/24": "n1", "10.244.4.0/24": "n4"}, subnetsOf(r.merged()))
		assert.Empty(t, r.source.Faults())
	})
}

// A watch whose past was forgotten is begun anew, and nobody hears of it.
func TestCompacted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.merged()
		r.cluster.Compact()
		r.cluster.Put("n4", []string{"10.244.4.0/24"}, flannelHost("192.168.77.4", "f2:00:00:00:00:04"))
		time.Sleep(5 * time.Second)
		assert.Contains(t, r.merged().Nodes, "n4")
		assert.Empty(t, r.source.Faults())
	})
}

// A node that is started while the API is away works by what it saw last.
func TestStartWithoutAPI(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		before := subnetsOf(r.merged())
		r.stop()
		r.cluster.Stop()
		r.start()
		synctest.Wait()
		_, known := r.source.Merge(r.own)
		assert.False(t, known, "a moment ago it was there: it may be back at once")
		time.Sleep(10 * time.Second)
		assert.Equal(t, before, subnetsOf(r.merged()))
		assert.True(t, r.source.Ready(), "the subnet file is as it was written")
		r.cluster.Start()
		time.Sleep(10 * time.Second)
		assert.Empty(t, r.source.Faults())

		// Where the file is not there, as after a boot, who needs it waits.
		r.stop()
		r.cluster.Stop()
		r.env = nil
		r.start()
		time.Sleep(10 * time.Second)
		assert.False(t, r.source.Ready())
	})
}

// A node that is not registered yet, as after a start, is never a host that runs
// flannel: its own switch would send it its own packets.
func TestNotRegistered(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.merged()
		m, ok := r.source.Merge(topology.NewSnapshot(1, nil))
		require.True(t, ok)
		assert.NotContains(t, m.Nodes, "n1")
		assert.NotContains(t, subnetsOf(m), "10.244.1.0/24")
		assert.Contains(t, subnetsOf(m), "10.244.2.0/24")
	})
}

// A node that ran flannel takes its own annotations over; one that goes back to
// flannel is a host that runs flannel to the others.
func TestTakeOver(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cluster.Put("n1", []string{"10.244.1.0/24"}, flannelHost("192.168.77.1", "f2:00:00:00:00:01"))
		// A peer that runs Baize is a router as well.
		r.cluster.Put("n3", []string{"10.244.3.0/24"}, flannelHost("192.168.77.3", "0e:ba:c0:a8:4d:03"))
		r.start()
		m := r.merged()
		assert.Nil(t, m.Nodes["n1"].Router)
		assert.Equal(t, "n1", subnetsOf(m)["10.244.1.0/24"])
		assert.Equal(t, `{"VNI":1,"VtepMAC":"0e:ba:c0:a8:4d:01"}`, r.cluster.Annotations("n1")[prefix+"backend-data"])
		assert.Equal(t, "0e:ba:c0:a8:4d:03", m.Nodes["n3"].Router.MAC)
	})
}

// An operator's annotation says where others find a node behind a NAT.
func TestPublicIPOverwrite(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cluster.Put("n1", []string{"10.244.1.0/24"}, map[string]string{prefix + "public-ip-overwrite": "198.51.100.7"})
		r.start()
		assert.Equal(t, "n1", subnetsOf(r.merged())["10.244.1.0/24"])
		assert.Equal(t, "198.51.100.7", r.cluster.Annotations("n1")[prefix+"public-ip"])
		assert.Equal(t, `{"VNI":1,"VtepMAC":"0e:ba:c0:a8:4d:01"}`, r.cluster.Annotations("n1")[prefix+"backend-data"])
	})
}

// Both families, a mask of the cluster's own, a prefix of the operator's own.
func TestDualStack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.o.NetConf = func() ([]byte, error) {
			return []byte(`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/48","Backend":{"Type":"vxlan"}}`), nil
		}
		r.o.AnnotationPrefix = "example.com/net"
		r.member.Underlay = []netip.Addr{netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("fd77::1")}
		r.cluster.Put("n1", []string{"fd00:244:0:1::/64", "10.244.1.0/25"}, nil)
		r.start()
		m := r.merged()
		assert.Equal(t, map[string]string{"10.244.1.0/25": "n1", "fd00:244:0:1::/64": "n1"}, subnetsOf(m))
		assert.Equal(t, 25, m.Networks[flannel.Network].SubnetLenIPv4)
		all := r.cluster.Annotations("n1")
		assert.Equal(t, "fd77::1", all["example.com/net-public-ipv6"])
		assert.Equal(t, `{"VNI":1,"VtepMAC":"0e:ba:c0:a8:4d:01"}`, all["example.com/net-backend-v6-data"])
		assert.Equal(t, "fd00:244:0:1::/64", r.env.IPv6Subnet.String())
	})
}

// What keeps a node from taking part is said with its remedy.
func TestRefused(t *testing.T) {
	for name, x := range map[string]struct {
		harm func(r *rig)
		says string
	}{
		"no podCIDR": {func(r *rig) { r.cluster.Put("n1", nil, nil) }, "--allocate-node-cidrs"},
		"no node":    {func(r *rig) { r.cluster.Delete("n1") }, "NODE_NAME"},
		"another network": {
			func(r *rig) { r.cluster.Put("n1", []string{"10.99.1.0/24"}, nil) }, "10.99.1.0/24 is not in the network",
		},
		"IPv6 only":     {func(r *rig) { r.cluster.Put("n1", []string{"fd00::/64"}, nil) }, "no podCIDR for IPv4"},
		"may not list":  {func(r *rig) { r.cluster.Deny("list", true) }, "nodes is forbidden"},
		"may not watch": {func(r *rig) { r.cluster.Deny("watch", true) }, "nodes is forbidden"},
		"may not patch": {func(r *rig) { r.cluster.Deny("patch", true) }, "may patch nodes/status"},
		"no net-conf":   {func(r *rig) { r.o.NetConf = func() ([]byte, error) { return nil, fs.ErrNotExist } }, "--net-config-path"},
		"no backend": {func(r *rig) {
			r.o.NetConf = func() ([]byte, error) { return []byte(`{"Network":"10.244.0.0/16"}`), nil }
		}, "its type udp"},
		"a wrong peer": {func(r *rig) { r.cluster.Put("n2", []string{"10.244.2.0/24"}, flannelHost("here", "f2:00:00:00:00:02")) }, "is no address: here"},
		"other backends": {func(r *rig) {
			r.cluster.Put("n2", []string{"10.244.2.0/24"}, map[string]string{prefix + "kube-subnet-manager": "true", prefix + "public-ip": "192.168.77.2", prefix + "backend-type": "wireguard"})
		}, `the backend "wireguard", not vxlan`},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				x.harm(r)
				r.start()
				time.Sleep(time.Minute)
				synctest.Wait()
				faults := r.source.Faults()
				if m, ok := r.source.Merge(r.own); ok {
					for _, f := range m.Malformed {
						faults = append(faults, f)
					}
				}
				require.NotEmpty(t, faults)
				assert.Contains(t, fmt.Sprint(faults), x.says)
				assert.NotEmpty(t, faults[0].Code)
			})
		})
	}
}

// It goes on when the reason is gone.
func TestAfterRefusal(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.cluster.Put("n1", nil, nil)
		r.cluster.Deny("patch", true)
		r.start()
		time.Sleep(time.Minute)
		assert.False(t, r.source.Ready())
		r.cluster.Put("n1", []string{"10.244.1.0/24"}, nil)
		time.Sleep(time.Minute)
		assert.False(t, r.source.Ready())
		r.cluster.Deny("patch", false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.True(t, r.source.Ready())
		assert.Empty(t, r.source.Faults())
	})
}

func TestAnnotationPrefix(t *testing.T) {
	_, err := kube.NewSource(kube.Options{AnnotationPrefix: "a/b/c"})
	assert.ErrorIs(t, err, topology.ErrInvalid)
}

// What cannot be found is said with the flag that names it.
func TestLoadConfig(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := kube.LoadConfig("", "")
	require.ErrorIs(t, err, topology.ErrInvalid)
	assert.Contains(t, err.Error(), "--kubeconfig-file")
	_, err = kube.LoadConfig("", "/nowhere/kubeconfig")
	require.Error(t, err)
	var known *topology.Error
	assert.True(t, errors.As(err, &known))
	cfg, err := kube.LoadConfig("https://192.0.2.1:6443", "")
	require.NoError(t, err)
	assert.Equal(t, "https://192.0.2.1:6443", cfg.Host)
}
