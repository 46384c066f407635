package ovsfake_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

func bridge() *ovs.Bridge {
	return &ovs.Bridge{Name: "br-baize", FailMode: "secure", ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner}}
}

func flow(table, priority int, match, actions string) ovs.BoundFlow {
	f := ovs.Flow{Table: table, Priority: priority, Match: match, Actions: actions}
	return ovs.BoundFlow{Flow: f, Cookie: ovs.CookieOf(f)}
}

func tunnel(name, remote string) ovs.Port {
	return ovs.Port{
		Name: name, Type: "vxlan", ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel},
		Options: map[string]string{"local_ip": "192.0.2.1", "remote_ip": remote, "key": "flow"},
	}
}

func withBridge(t *testing.T) *ovsfake.Switch {
	t.Helper()
	s := ovsfake.New()
	require.NoError(t, s.Database().Apply(t.Context(), ovs.DBChange{CreateBridge: true, SetBridge: bridge()}))
	return s
}

// What ovs-ofctl cannot parse the fake refuses, and the whole bundle with it;
// what it can the fake takes.
func TestRefusesWhatOfctlRefuses(t *testing.T) {
	s := withBridge(t)
	file := filepath.Join(t.TempDir(), "flows")
	for _, f := range []ovs.BoundFlow{
		flow(0, 1, "", "drop"),
		flow(0, 1, "in_port=1,dl_src=02:42:0a:01:05:02", "set_field:0x64->tun_id,set_field:0x64->metadata,goto_table:10"),
		flow(0, 1, "dl_dst=02-42-0a-01-05-02", "drop"),
		flow(0, 1, "dl_dst=0242.0a01.0502", "drop"),
		flow(0, 1, "dl_dst=02:42:0a:01:05", "drop"), // too short
		flow(0, 1, "dl_dst=02:42:0a:01:05:00/ff:ff:ff:ff:ff:00", "drop"),
		flow(0, 1, "ip,nw_dst=10.1.5.0/24", "output:7"),
		flow(0, 1, "ip,nw_dst=10.1.5.0/40", "drop"),
		flow(0, 1, "ipv6,ipv6_dst=fd00::/48", "drop"),
		flow(0, 1, "ipv6,ipv6_dst=10.1.5.0", "drop"),
		flow(0, 1, "arp,arp_op=1,arp_spa=0.0.0.0,arp_sha=02:42:0a:01:05:02", "drop"),
		flow(0, 1, "icmp6,icmp_type=135,icmp_code=0,nd_target=fd00::1,nd_sll=02:42:0a:01:05:02", "drop"),
		flow(0, 1, "icmp6,icmp_type=300", "drop"),
		flow(0, 1, "bogus=1", "drop"),
		flow(0, 1, "bogus", "drop"),
		flow(0, 1, "tun_id=0x64,metadata=0x64,reg0=1", "drop"),
		flow(0, 1, "reg0=0x100000000", "drop"),
		flow(20, 1, "ip", "goto_table:10"),
		flow(20, 1, "ip", "goto_table:25"),
		flow(20, 1, "ip", "goto_table:25,output:1"),
		flow(20, 1, "ip", "bogus"),
		flow(20, 1, "ip", "output:99999"),
		flow(20, 1, "ip", "set_field:7->reg2,output:NXM_NX_REG2[]"),
		flow(20, 1, "ip", "output:NXM_NX_BOGUS[]"),
		flow(20, 1, "ip", "dec_ttl,output:1"),
		flow(20, 1, "arp", "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:2->arp_op,push:NXM_OF_ARP_SPA[],"+
			"move:NXM_OF_ARP_TPA[]->NXM_OF_ARP_SPA[],pop:NXM_OF_ARP_TPA[],in_port"),
		flow(20, 1, "ip", "set_field:02:42->eth_dst"),
		flow(20, 1, "ip", "set_field:1->bogus"),
		flow(300, 1, "ip", "drop"),
		flow(0, 70000, "ip", "drop"),
	} {
		text := fmt.Sprintf("table=%d,priority=%d,%s,actions=%s", f.Table, f.Priority, f.Match, f.Actions)
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(text, ",,", ",", 1)+"\n"), 0o600))
		out, refused := exec.Command("ovs-ofctl", "-O", "OpenFlow14", "parse-flows", file).CombinedOutput()
		good := flow(1, 1, "", "drop")
		got := s.Flows().Apply(t.Context(), []ovs.BoundFlow{good, f}, nil)
		require.Equal(t, refused == nil, got == nil, "%s\novs-ofctl: %s\nfake: %v", text, out, got)
		if got != nil {
			require.ErrorIs(t, got, topology.ErrInvalid)
			require.Empty(t, s.Table, "nothing of the bundle is there")
		}
		require.NoError(t, s.Flows().Apply(t.Context(), nil, []ovs.FlowID{good.ID(), f.ID()}))
	}
}

func TestPorts(t *testing.T) {
	s := withBridge(t)
	db := s.Database()
	add := func(ports ...ovs.Port) error { return db.Apply(t.Context(), ovs.DBChange{AddPorts: ports}) }
	endpoint := func(name string) ovs.Port {
		return ovs.Port{Name: name, ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner}}
	}
	require.NoError(t, add(tunnel("vx-old", "192.0.2.2")))
	// The same tunnel by another name.
	require.NoError(t, add(tunnel("vx-new", "192.0.2.2")))
	require.Equal(t, "could not add network device vx-new to ofproto (File exists)", s.Ports["vx-new"].Error)
	require.Equal(t, -1, s.Ports["vx-new"].OFPort)
	require.NoError(t, db.Apply(t.Context(), ovs.DBChange{RemovePorts: []string{"vx-old", "vx-never-there"}}))
	require.False(t, s.Ports["vx-new"].Live(), "nobody tries it again")
	require.NoError(t, db.Apply(t.Context(), ovs.DBChange{RemovePorts: []string{"vx-new"}}))
	require.NoError(t, add(tunnel("vx-new", "192.0.2.2")))
	require.True(t, s.Ports["vx-new"].Live())

	require.NoError(t, add(tunnel("vx-name-too-long", "192.0.2.3")))
	require.Contains(t, s.Ports["vx-name-too-long"].Error, "too long")

	s.SetDevice("bz1", true)
	require.NoError(t, add(endpoint("bz1"), endpoint("bz2")))
	require.True(t, s.Ports["bz1"].Live())
	require.Contains(t, s.Ports["bz2"].Error, "No such device")

	s.Foreign["eth9"] = "br-ex"
	require.ErrorIs(t, add(endpoint("bz3"), endpoint("eth9")), topology.ErrConflict)
	require.NotContains(t, s.Ports, "bz3", "whole or not at all")
	s.DelBridge()
	require.ErrorIs(t, add(endpoint("bz3")), topology.ErrNotFound)
}

func TestRestartsAndWipes(t *testing.T) {
	s := withBridge(t)
	require.NoError(t, s.Database().Apply(t.Context(), ovs.DBChange{AddPorts: []ovs.Port{tunnel("vx-a", "192.0.2.2")}}))
	require.NoError(t, s.Flows().Apply(t.Context(), []ovs.BoundFlow{flow(0, 1, "", "drop")}, nil))
	s.StopVswitchd()
	_, err := s.Flows().Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	s.StartVswitchd()
	o, err := s.Flows().Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, o.Flows)
	require.True(t, s.Ports["vx-a"].Live())
	s.StopOVSDB()
	_, err = s.Database().Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	s.StartOVSDB()
	s.Wipe()
	_, err = s.Flows().Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrNotFound)
	observed, err := s.Database().Observe(t.Context())
	require.NoError(t, err)
	require.Nil(t, observed.Bridge)
	require.Empty(t, observed.Ports)
	err = s.Flows().Monitor(t.Context(), func(openflow.Event) { t.Error("there is no bridge") })
	require.ErrorIs(t, err, topology.ErrNotFound)
}

// Packets take the way that the pipeline means them to.
func TestFabric(t *testing.T) {
	for _, transport := range []topology.Transport{topology.VXLAN, topology.GRE, topology.Geneve} {
		n := topology.Network{
			Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48"),
			Transport: transport,
		}.Defaults()
		kvs := []topology.KV{{Key: n.Key(), Value: topology.Encode(n)}}
		record := func(r topology.Record) { kvs = append(kvs, topology.KV{Key: r.Key(), Value: topology.Encode(r)}) }
		const nodes = 4
		name := func(i int) string { return fmt.Sprintf("host%d", i) }
		vtep := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
		var endpoints []ovs.Endpoint
		for i := range nodes {
			record(
				topology.Node{
					Name:           name(i),
					ID:             name(i),
					VTEPs:          []netip.Addr{vtep(i + 1)},
					Encapsulations: topology.Encapsulations(),
				},
			)
			e := ovs.Endpoint{Name: "c", Node: name(i), Network: "blue", Port: fmt.Sprintf("bz%d", i)}
			for _, f := range n.Families() {
				sub := topology.Subnet{Network: "blue", Node: name(i), Prefix: topology.SubnetAt(n, f, uint64(i+1))}
				record(sub)
				e.IPs = append(e.IPs, sub.Prefix.Addr().Next().Next())
			}
			e.MAC = topology.MACOf(e.IPs[0])
			endpoints = append(endpoints, e)
		}
		fabric := &ovsfake.Fabric{Switches: map[netip.Addr][]*ovsfake.Switch{}}
		switches := make([]*ovsfake.Switch, nodes)
		for i := range nodes {
			s := ovsfake.New()
			want := pipeline.Build(
				topology.NewSnapshot(1, kvs).View(name(i)),
				endpoints[i:i+1],
				pipeline.Options{Datapath: "netdev"},
			)
			require.NoError(
				t,
				s.Database().Apply(t.Context(), ovs.DBChange{CreateBridge: true, SetBridge: &want.Bridge, AddPorts: want.Ports}),
			)
			o, err := s.Database().Observe(t.Context())
			require.NoError(t, err)
			bound, missing := want.Bind(o.OFPorts())
			require.Empty(t, missing)
			require.ErrorIs(t, s.Flows().Apply(t.Context(), bound, nil), topology.ErrInvalid, "as long as there are no meters")
			require.NoError(t, s.Flows().SetMeters(t.Context(), want.BindMeters(o.OFPorts()), nil))
			require.NoError(t, s.Flows().Apply(t.Context(), bound, nil))
			fabric.Switches[vtep(i+1)], switches[i] = []*ovsfake.Switch{s}, s
		}
		for i, from := range endpoints {
			for j, to := range endpoints {
				for k := range from.IPs {
					if i == j {
						continue
					}
					for _, p := range []forward.Packet{
						forward.IP(from.MAC, to.MAC, from.IPs[k], to.IPs[k]), forward.Who(from.MAC, from.IPs[k], to.IPs[k]),
					} {
						out, lost := fabric.Send(switches[i], from.Port, p)
						require.Zero(t, lost)
						require.Len(t, out, 1, "%s %s → %s", transport, from.IPs[k], to.IPs[k])
						require.Same(t, switches[j], out[0].Switch)
						require.Equal(t, to.Port, out[0].Port)
					}
				}
			}
			// Somebody else's address as the sender's goes nowhere.
			other := endpoints[(i+1)%nodes]
			out, _ := fabric.Send(switches[i], from.Port, forward.IP(other.MAC, other.MAC, other.IPs[0], other.IPs[0]))
			require.Empty(t, out)
		}
	}
}
