//go:build system

package domaintest

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/netsampler/goflow2/v2/decoders/netflow"
	"github.com/netsampler/goflow2/v2/decoders/sflow"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// datagrams are what a program on a host hears at a UDP port.
func (d *domain) datagrams(host string, port uint16) net.PacketConn {
	d.T.Helper()
	var conn net.PacketConn
	require.NoError(d.T, hostnet.InNetns(d.Netns(host), func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), port)))
		return err
	}))
	d.T.Cleanup(func() { _ = conn.Close() })
	return conn
}

// heard reads datagrams until one is what is waited for, while packets are sent.
func (d *domain) heard(conn net.PacketConn, what string, send func(ctx context.Context), is func([]byte) bool) {
	d.T.Helper()
	ctx, cancel := context.WithTimeout(d.T.Context(), testkit.Patience)
	defer cancel()
	go send(ctx)
	require.NoError(d.T, conn.SetReadDeadline(time.Now().Add(testkit.Patience)))
	for b := make([]byte, 1<<16); ; {
		n, _, err := conn.ReadFrom(b)
		require.NoError(d.T, err, what)
		if is(b[:n]) {
			return
		}
	}
}

// A collector on another host hears what endpoints of a network send, by IPFIX, with the
// network and the node; one on the host itself what its bridge sees, by sFlow.
func TestFlowRecords(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Hosts: 2, AgentArgs: []string{"--sflow", "127.0.0.1", "--sflow-sampling", "1"}})
	pings := func(from, to string) func(context.Context) {
		target := d.Endpoint(to).IPs[0].String()
		return func(ctx context.Context) {
			for ctx.Err() == nil {
				_, _ = d.Run(from, "ping", "-c", "5", "-i", "0.2", "-W", "1", target)
			}
		}
	}
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	collector := strings.Fields(d.Must("host2", "hostname", "-I"))[0]

	conn := d.datagrams("host2", topology.IPFIXPort)
	d.Must("host1", "baize", "network", "update", "blue", "--ipfix", collector, "--ipfix-sampling", "1", "--ipfix-cache", "0s")
	require.Contains(t, d.Must("host1", "baize", "network", "show", "blue"), "1 of 1 packets to "+collector+":4739")
	templates := netflow.CreateTemplateSystem()
	domains := map[uint32]bool{}
	from, to := d.Endpoint("host1/c1").IPs[0], d.Endpoint("host2/c1").IPs[0]
	d.heard(conn, "a record of blue", pings("host1/c1", "host2/c1"), func(b []byte) bool {
		var v9 netflow.NFv9Packet
		var message netflow.IPFIXPacket
		if netflow.DecodeMessageVersion(bytes.NewBuffer(b), templates, &v9, &message) != nil {
			return false // of a node whose templates come later
		}
		for _, set := range message.FlowSets {
			data, ok := set.(netflow.DataFlowSet)
			if !ok || message.ObservationDomainId == 0 { // of the exporter itself
				continue
			}
			domains[message.ObservationDomainId] = true
			for _, r := range data.Records {
				var all []byte
				for _, f := range r.Values {
					b, _ := f.Value.([]byte)
					all = append(all, b...)
				}
				if bytes.Contains(all, append(from.AsSlice(), to.AsSlice()...)) && bytes.Contains(all, []byte("host1")) {
					return true
				}
			}
		}
		return false
	})
	require.Len(t, domains, 1, "of one network")
	d.Must("host1", "baize", "network", "update", "blue", "--no-ipfix")
	d.Await("no row is left of it", func() (bool, string) {
		out := d.Must("host1", "ovs-vsctl", "list", "Flow_Sample_Collector_Set") + d.Must("host1", "ovs-vsctl", "list", "IPFIX")
		return strings.TrimSpace(out) == "", out
	})

	samples := d.datagrams("host1", topology.SFlowPort)
	d.heard(samples, "a sample of host1", pings("host1/red-c1", "host2/red-c1"), func(b []byte) bool {
		var message sflow.Packet
		if sflow.DecodeMessageVersion(bytes.NewBuffer(b), &message) != nil {
			return false
		}
		from, to := d.Endpoint("host1/red-c1").IPs[0], d.Endpoint("host2/red-c1").IPs[0]
		for _, s := range message.Samples {
			flow, _ := s.(sflow.FlowSample)
			for _, r := range flow.Records {
				h, ok := r.Data.(sflow.SampledHeader)
				if ok && bytes.Contains(h.HeaderData, append(from.AsSlice(), to.AsSlice()...)) {
					return true
				}
			}
		}
		return false
	})
}
