package pipeline_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// FuzzFlows: whatever records say, and whatever a port's external_ids say of its endpoint,
// ovs-ofctl(8) understands every flow that is made of it.
func FuzzFlows(f *testing.F) {
	const port = "baize-network=blue\nbaize-endpoint=c1\n"
	for _, record := range []string{
		"networks/blue " + string(topology.Encode(network("blue", 100, topology.Auto, "10.1.0.0/16", "fd00:10:1::/48"))),
		`networks/blue {"vni":16777215,"ipv4":"0.0.0.0/0","ipv6":"::/1","transport":"route","mtu":1500,"bum":-1,"allowTraffic":["ra","dhcp"]}`,
		`networks/red {"vni":7,"ipv6":"::ffff:10.0.0.0/104","transport":"geneve","mtu":65535,"gatewayIPv6":"fe80::1%eth0","router":true}`,
		`nodes/host2 {"id":"id2","vteps":["::ffff:192.0.2.2","fe80::1%eth0"],"encapsulations":["vxlan","gre"]}`,
		`nodes/ho,st=4 {"id":"x","vteps":["192.0.2.4"],"vtepMAC":"02-42-0a-01-05-02","encapsulations":["vxlan"]}`,
		`subnets/blue/10.1.66.0-24 {"node":"host2","segment":"docker0"}`,
		`subnets/blue/fd00:10:1:66::-64 {"node":"host3"}`,
		`pins/blue/10.1.7.9 {"node":"host1","mac":"0242.0a01.0709"}`,
		`pins/blue/fd00:10:1:7::9 {"node":"host3","mac":"02:42:0a:01:07:09:00:00"}`,
	} {
		f.Add(record, record, port+"baize-ips=10.1.5.2,fd00:10:1:5::2\nbaize-mac=02:42:0a:01:05:02\nbaize-allow=10.1.64.0/24\nbaize-traffic=ra")
	}
	f.Add("", "", port+"baize-ips=::ffff:10.1.5.2,fe80::1%eth0\nbaize-mac=02-42-0a-01-05-02\nbaize-allow=0.0.0.0/0,::/0\nbaize-traffic=dhcp,stp")
	f.Fuzz(func(t *testing.T, one, two, ids string) { flowsOf(t, ids, one, two) })
}

// strange are values that people write, of every kind and for every field.
var strange = []string{
	"", " ", "0", "-1", "65536", "4294967296", "blue", "host1", "host2", "ho,st=4", `x\",actions=drop`, `\n`, "%s", "vx-host2", "ü",
	"route", "auto", "vxlan", "geneve", "gre", "ra", "dhcp", "02:42:0a:01:05:02", "02-42-0a-01-05-02", "0242.0a01.0502",
	"ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "02:42:0a:01:07:09:00:00", "00:00:00:00:00:00", "10.1.5.2", "10.1.7.9", "0.0.0.0",
	"255.255.255.255", "224.0.0.1", "::ffff:10.1.7.9", "fd00:10:1:7::9", "fe80::1%eth0", "ff02::1", "::", "10.1.7.0/24",
	"10.1.66.0-24", "10.1.7.9/24", "0.0.0.0/0", "::/0", "fd00:10:1:66::-64", "fd00:10:1:7::/64", "::ffff:10.1.0.0/112", "10.1.0.0/33",
}

// templates are records and external_ids, with places for values.
var templates = []string{
	`networks/$ {"vni":7,"ipv4":"$","transport":"$","mtu":1400,"gatewayIPv4":"$","router":true,"allowTraffic":["$"]}`,
	`networks/blue {"vni":100,"ipv4":"10.1.0.0/16","ipv6":"$","transport":"$","mtu":1400,"gatewayIPv6":"$","allowTraffic":["$","ra"]}`,
	`nodes/$ {"id":"$","vteps":["$","$"],"vtepMAC":"$","encapsulations":["$","vxlan"]}`,
	`nodes/host2 {"id":"id2","vteps":["192.168.0.2","$"],"vtepMAC":"$","encapsulations":["$"]}`,
	`subnets/$/$ {"node":"$","segment":"$"}`,
	`subnets/blue/$ {"node":"host2","segment":"$"}`,
	`pins/$/$ {"node":"$","mac":"$"}`,
	`pins/blue/10.1.7.9 {"node":"host3","mac":"$"}`,
	`pins/blue/$ {"node":"host1","mac":"$"}`,
}

func TestStrangeRecords(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	fill := func(template string) string {
		for strings.Contains(template, "$") {
			template = strings.Replace(template, "$", strange[random.IntN(len(strange))], 1)
		}
		return template
	}
	rounds := 300
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		ids := fill("baize-network=blue\nbaize-endpoint=$\nbaize-ips=10.1.5.2,$\nbaize-mac=$\nbaize-allow=$\nbaize-traffic=$")
		records := make([]string, 4)
		for i := range records {
			records[i] = fill(templates[random.IntN(len(templates))])
		}
		flowsOf(t, ids, records...)
	}
}

// flowsOf makes the flows of records beside good ones, and of an endpoint.
func flowsOf(t *testing.T, ids string, records ...string) {
	t.Helper()
	s := threeHosts(topology.Auto).put(
		network("lane", 101, topology.Route, "10.2.0.0/16"), subnet("lane", "10.2.5.0/24", 1), subnet("lane", "10.2.7.0/24", 2),
	).s
	for i, record := range records {
		key, value, _ := strings.Cut(record, " ")
		s = s.With(int64(1000+i), []topology.KV{{
			Key: key, Value: []byte(value), Meta: topology.Meta{CreateRevision: int64(1000 + i), ModRevision: int64(1000 + i)},
		}}, nil)
	}
	view := s.View("host1")
	port := ovs.Port{Name: "bzc1", ExternalIDs: map[string]string{}}
	for line := range strings.Lines(ids) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		port.ExternalIDs[key] = value
	}
	var endpoints []ovs.Endpoint
	if e, err := ovs.EndpointOf(port); err == nil {
		endpoints = append(endpoints, e)
	}
	routed := map[topology.SubnetID]bool{}
	for id := range s.Subnets {
		routed[id] = len(routed)%2 == 0
	}
	for _, direct := range []map[topology.SubnetID]bool{nil, routed} {
		understood(t, pipeline.Build(view, endpoints, pipeline.Options{
			Datapath: "netdev", Direct: direct, Segments: []ovs.Segment{docker0},
		}))
	}
}

// understood requires that ovs-ofctl reads every flow of a state.
func understood(t *testing.T, s ovs.State) {
	t.Helper()
	ofports := map[string]int{ovs.DefaultBridge: 65534}
	for i, p := range s.Ports {
		ofports[p.Name] = i + 1
	}
	flows, _ := s.Bind(ofports)
	var text strings.Builder
	for _, flow := range flows {
		for _, part := range []string{flow.Match, flow.Actions} {
			if strings.ContainsAny(part, "\n\r#") {
				t.Fatalf("it would end a line: %q", part)
			}
		}
		fmt.Fprintf(&text, "table=%d,priority=%d,%s,actions=%s\n", flow.Table, flow.Priority, flow.Match, flow.Actions)
	}
	c := exec.Command("ovs-ofctl", "-O", "OpenFlow14", "parse-flows", "-")
	c.Stdin = strings.NewReader(strings.ReplaceAll(text.String(), ",,", ","))
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n := bytes.Count(out, []byte("ADD ")); n != len(flows) {
		t.Fatalf("of %d flows %d were read", len(flows), n)
	}
}
