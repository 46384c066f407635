package gather

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

func TestUpcalls(t *testing.T) {
	now, limit := upcalls(`system@ovs-system:
  flows         : (current 12) (avg 10) (max 30) (limit 200000)
  dump duration : 1ms
netdev@ovs-netdev:
  flows         : (current 2) (avg 2) (max 30) (limit 30000)
`)
	require.Equal(t, 14, now)
	require.Equal(t, 30000, limit)
	now, limit = upcalls("")
	require.Zero(t, now+limit)
}

func TestLost(t *testing.T) {
	require.EqualValues(t, 7, lost("netdev@ovs-netdev:\n  lookups: hit:29147 missed:78 lost:7\n  flows: 2\n"))
	require.Zero(t, lost("ovs-vswitchd: no such datapath"))
}

func TestLongPolls(t *testing.T) {
	require.Equal(t, 30, longPolls("long_poll_interval         0.2/sec     0.500/sec        0.0083/sec   total: 31\n"))
	require.Zero(t, longPolls("poll_create_node         335.6/sec   290.550/sec       37.9583/sec   total: 137212\n"))
}

func TestPortConfig(t *testing.T) {
	got := portConfig.FindAllStringSubmatch(`OFPST_PORT_DESC reply (OF1.4) (xid=0x2):
 1(vx-host2): addr:ca:6e:7b:81:98:2b
     config:     0
     state:      LIVE
     speed: 0 Mbps now, 0 Mbps max
 2(bz1): addr:fe:42:0a:01:99:02
     config:     NO_RECV
     state:      LIVE
 LOCAL(br-baize): addr:5e:4f:e0:9c:e9:44
     config:     PORT_DOWN
`, -1)
	require.Len(t, got, 2)
	require.Equal(t, []string{"vx-host2", "0"}, got[0][1:])
	require.Equal(t, []string{"bz1", "NO_RECV"}, got[1][1:])
}

func TestOVSMap(t *testing.T) {
	got := ovsMap([]any{"map", []any{[]any{"key", "flow"}, []any{"remote_ip", "192.0.2.1"}}})
	require.Equal(t, map[string]string{"key": "flow", "remote_ip": "192.0.2.1"}, got)
	require.Empty(t, ovsMap("set"))
	require.Empty(t, ovsMap(nil))
}

// What the agent was changing when it was seen first is no difference.
func TestBothKeepsWhatLasts(t *testing.T) {
	bad := fault.Fault{Code: fault.PortDead, Item: "port x", What: "dead"}
	a := drift.Drift{
		CreateBridge: true, AddPorts: []string{"a", "b"}, MissingFlows: []string{"f"}, Problems: []fault.Fault{bad},
		ForeignPorts: []string{"p"},
	}
	b := drift.Drift{AddPorts: []string{"b"}, MissingFlows: []string{"g"}, ForeignPorts: []string{"p"}}
	got := both(a, b)
	require.False(t, got.CreateBridge)
	require.Equal(t, []string{"b"}, got.AddPorts)
	require.Empty(t, got.MissingFlows)
	require.Empty(t, got.Problems)
	require.False(t, got.Same)
	require.False(t, quiet(got))
	got = both(a, drift.Drift{Same: true})
	require.True(t, got.Same)
	require.True(t, quiet(got))
}

func TestStarted(t *testing.T) {
	after, up := started("self")
	require.Positive(t, after)
	require.GreaterOrEqual(t, up, time.Duration(0))
	after, up = started("none")
	require.Zero(t, after+up)
}

func TestCertificates(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.pem")
	require.NoError(t, os.WriteFile(file, []byte("nonsense"), 0o600))
	got := certificates(etcdstore.Config{CertFile: file, CAFile: filepath.Join(t.TempDir(), "none"), KeyFile: file})
	require.Len(t, got, 2, "the key is not read")
	for _, c := range got {
		require.NotEmpty(t, c.Error)
	}
}

// A user of etcd that lacks rights of the node's agent is a finding that names them.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t)
	open := func(user string) *etcdstore.Store {
		cfg := etcdstore.Config{Endpoints: []string{endpoint}}
		if user != "" {
			cfg.Username, cfg.Password = user, "secret"
		}
		s, err := etcdstore.Open(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s, p := open(""), topology.DefaultPrefix
	_, err := s.CreateNetwork(t.Context(), topology.Network{Name: "blue", IPv4: netip.MustParsePrefix("10.1.0.0/16")})
	require.NoError(t, err)
	_, err = s.RegisterNode(t.Context(), topology.Node{
		Name: "host1", ID: "1", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Encapsulations: []topology.Transport{topology.VXLAN},
	})
	require.NoError(t, err)
	_, err = s.LeaseSubnet(t.Context(), "blue", "host1", topology.IPv4, false)
	require.NoError(t, err)
	a, err := s.Access(t.Context())
	require.NoError(t, err)
	changes, err := a.Plan(p, etcdstore.Member{User: "root", Role: "root", Password: "secret"}, etcdstore.Member{
		User: "host1", Role: topology.NodeRole(p, "host1"), Rights: topology.NodeRights(p, "host1", nil), Password: "secret",
	}, etcdstore.Member{
		User: "host2", Role: topology.NodeRole(p, "host2"), Rights: topology.NodeRights(p, "host2", []string{"red"}),
		Password: "secret",
	})
	require.NoError(t, err)
	for _, c := range changes {
		require.NoError(t, s.ChangeAccess(t.Context(), c))
	}
	require.NoError(t, s.EnableAccess(t.Context(), true))

	look := func(user string) *fault.Fault {
		g := gatherer{cfg: Config{Node: "host1"}}
		g.store(t.Context(), open(user))
		require.Nil(t, g.facts.Store.Why)
		return g.facts.Store.Write
	}
	require.Nil(t, look("host1"))
	f := look("host2")
	require.NotNil(t, f)
	require.Equal(t, fault.StoreDenied, f.Code)
	for _, want := range []string{
		"user host2", "/baize/v1/nodes/host1", "/baize/v1/subnets/blue/*", "/baize/v1/names/blue/host1", "baize auth add",
	} {
		require.Contains(t, f.String(), want)
	}
	require.NotContains(t, f.String(), "questions")
}
