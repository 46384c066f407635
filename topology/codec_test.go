package topology_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

var blue = topology.Network{
	Name: "blue", IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48"), VNI: 100,
}.Defaults()

func kv(key, value string) topology.KV {
	return topology.KV{Key: key, Value: []byte(value), Meta: topology.Meta{CreateRevision: 3, ModRevision: 4}}
}

func TestEncodeDecode(t *testing.T) {
	meta := topology.Meta{CreateRevision: 3, ModRevision: 4}
	n := blue
	n.Meta = meta
	records := []topology.Record{
		n,
		topology.Node{
			Name: "host1", ID: "x", VTEPs: []netip.Addr{netip.MustParseAddr("192.168.77.11"), netip.MustParseAddr("fd77::11")},
			Encapsulations: topology.Encapsulations(), Meta: meta,
		},
		topology.Liveness{Node: "host1", ID: "x", Hostname: "h", Epoch: "e", Meta: meta},
		topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.5.0/24"), Node: "host1", Meta: meta},
		topology.Subnet{
			Network: "blue", Prefix: netip.MustParsePrefix("fd00:10:1:5::/64"), Reserved: true, Comment: "printers",
			Meta: meta,
		},
		topology.Pin{
			Network: "blue", Addr: netip.MustParseAddr("fd00:10:1::5"), Node: "host1", MAC: "02:42:0a:01:00:05", Meta: meta,
		},
		topology.Names{
			Network: "blue", Node: "host1", Names: map[string][]netip.Addr{"web": {netip.MustParseAddr("10.1.5.2")}},
			Meta: meta,
		},
	}
	keys := []string{
		"networks/blue", "nodes/host1", "alive/host1", "subnets/blue/10.1.5.0-24", "subnets/blue/fd00:10:1:5::-64",
		"pins/blue/fd00:10:1::5", "names/blue/host1",
	}
	for i, r := range records {
		require.Equal(t, keys[i], r.Key())
		got, err := topology.Decode(topology.KV{Key: r.Key(), Value: topology.Encode(r), Meta: meta})
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
}

// What a newer version wrote must come out as it went in.
func TestUnknownFieldsAreKept(t *testing.T) {
	for key, value := range map[string]string{
		"networks/blue": `{"ipv4":"10.1.0.0/16","vni":100,"subnetLenIPv4":24,"transport":"vxlan","mtu":1450,` +
			`"color":{"a":[1,2]},"n":1e400}`,
		"nodes/host1":              `{"id":"a","vteps":["192.168.77.11"],"encapsulations":["vxlan"],"future":true}`,
		"alive/host1":              `{"id":"a","future":[]}`,
		"subnets/blue/10.1.5.0-24": `{"node":"host1","future":"x"}`,
		"pins/blue/10.1.5.9":       `{"node":"host1","mac":"02:42:0a:01:05:09","future":null}`,
		"names/blue/host1":         `{"names":{"web":["10.1.5.2"]},"future":1}`,
	} {
		r, err := topology.Decode(kv(key, value))
		require.NoError(t, err, key)
		var want, got map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(value), &want))
		require.NoError(t, json.Unmarshal(topology.Encode(r), &got))
		for name, v := range want {
			require.Equal(t, string(v), string(got[name]), "%s: %s", key, name)
		}
	}
}

func TestMalformedKeysAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ key, value, says string }{
		"not JSON":      {"networks/blue", `{"ipv4":`, "malformed value"},
		"not an object": {"networks/blue", `"x"`, "not a JSON object"},
		"empty":         {"nodes/host1", ``, "not a JSON object"},
		"wrong type":    {"networks/blue", `{"vni":"x"}`, "malformed value"},
		"bad prefix": {
			"networks/blue", `{"ipv4":"10.1.0.0/33","vni":1,"transport":"vxlan","mtu":1450}`, "malformed value",
		},
		"host bits": {
			"networks/blue", `{"ipv4":"10.1.0.1/16","subnetLenIPv4":24,"vni":1,"transport":"vxlan","mtu":1450}`,
			"write 10.1.0.0/16",
		},
		"no prefix": {"networks/blue", `{"vni":1,"transport":"vxlan","mtu":1450}`, "no prefix"},
		"VNI 0": {
			"networks/blue", `{"ipv4":"10.1.0.0/16","subnetLenIPv4":24,"transport":"vxlan","mtu":1450}`, "VNI 0",
		},
		"VNI of 25 bits": {
			"networks/blue", `{"ipv4":"10.1.0.0/16","subnetLenIPv4":24,"vni":16777216,"transport":"vxlan","mtu":1450}`,
			"out of range",
		},
		"transport": {
			"networks/blue", `{"ipv4":"10.1.0.0/16","subnetLenIPv4":24,"vni":1,"transport":"pigeon","mtu":1450}`, "pigeon",
		},
		"too small": {
			"networks/blue", `{"ipv4":"10.1.0.0/31","subnetLenIPv4":32,"vni":1,"transport":"vxlan","mtu":1450}`, "too small",
		},
		"subnet length": {
			"networks/blue", `{"ipv4":"10.1.0.0/16","subnetLenIPv4":16,"vni":1,"transport":"vxlan","mtu":1450}`, "do not fit",
		},
		"gateway": {
			"networks/blue",
			`{"ipv4":"10.1.0.0/16","subnetLenIPv4":24,"gatewayIPv4":"10.2.0.1","vni":1,"transport":"vxlan","mtu":1450}`,
			"outside 10.1.0.0/16",
		},
		"MTU below IPv6's": {
			"networks/blue", `{"ipv6":"fd00::/48","subnetLenIPv6":64,"vni":1,"transport":"vxlan","mtu":1000}`, "MTU 1000",
		},
		"name":              {"networks/b lue", `{}`, "not a valid name"},
		"node name":         {"nodes/-x", `{}`, "not a valid name"},
		"subnet key":        {"subnets/blue/10.1.5.0", `{"node":"a"}`, "subnets/<network>/"},
		"subnet not masked": {"subnets/blue/10.1.5.7-24", `{"node":"a"}`, "want subnets/blue/10.1.5.0-24"},
		"subnet of nobody":  {"subnets/blue/10.1.5.0-24", `{}`, "neither a node nor a reservation"},
		"pin key":           {"pins/blue/x", `{"node":"a","mac":"02:42:0a:01:05:09"}`, "pins/<network>/<address>"},
		"pin not canonical": {"pins/blue/fd00:0::1", `{"node":"a","mac":"02:42:0a:01:05:09"}`, "want pins/blue/fd00::1"},
		"pin with zone": {
			"pins/blue/fe80::1%eth0", `{"node":"a","mac":"02:42:0a:01:05:09"}`, "pins/<network>/<address>",
		},
		"pin without node":  {"pins/blue/10.1.5.9", `{"mac":"02:42:0a:01:05:09"}`, "no node"},
		"pin multicast MAC": {"pins/blue/10.1.5.9", `{"node":"a","mac":"01:42:0a:01:05:09"}`, "multicast"},
		"pin MAC is an EUI64": {
			"pins/blue/10.1.5.9", `{"node":"a","mac":"02:00:00:00:00:00:00:01"}`, "not an Ethernet address",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := topology.Decode(kv(c.key, c.value))
			require.ErrorIs(t, err, topology.ErrInvalid)
			require.ErrorContains(t, err, c.says)
			var e *topology.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.key, e.Item)
			require.NotEmpty(t, e.Remedy)
			s := topology.NewSnapshot(1, []topology.KV{kv(c.key, c.value), kv(blue.Key()+"-ok", string(topology.Encode(blue)))})
			require.Len(t, s.Malformed, 1)
			require.Len(t, s.Networks, 1, "the rest goes on working")
		})
	}
}

// A pin's MAC reaches flows as it is read. Open vSwitch knows one form only,
// and one refused flow keeps all others of the bundle out.
func TestMACsAreReadIntoOneForm(t *testing.T) {
	for _, mac := range []string{"02-42-0A-01-05-09", "0242.0a01.0509", "02:42:0A:01:05:09"} {
		r, err := topology.Decode(kv("pins/blue/10.1.5.9", `{"node":"a","mac":"`+mac+`"}`))
		require.NoError(t, err, mac)
		require.Equal(t, "02:42:0a:01:05:09", r.(topology.Pin).MAC, mac)
	}
}

func TestKeysOfOthersAreIgnored(t *testing.T) {
	r, err := topology.Decode(kv("something/else", "x"))
	require.NoError(t, err)
	require.Nil(t, r)
}

// A snapshot that followed changes must equal a new listing.
func TestWithEqualsListing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	values := map[string][]string{
		"networks/blue":            {string(topology.Encode(blue)), `{"bad`},
		"nodes/host1":              {`{"id":"a","vteps":["192.168.1.1"]}`, `{"id":"b","vteps":["192.168.1.2"]}`},
		"alive/host1":              {`{"id":"a"}`, `7`},
		"subnets/blue/10.1.5.0-24": {`{"node":"host1"}`, `{"reserved":true}`, `{}`},
		"subnets/blue/nonsense":    {`{"node":"host1"}`},
		"pins/blue/10.1.7.7":       {`{"node":"host1","mac":"02:42:0a:01:07:07"}`, `{"node":"host1"}`},
		"elsewhere":                {`{}`},
	}
	keys := []string{}
	for k := range values {
		keys = append(keys, k)
	}
	truth := map[string]topology.KV{}
	s := topology.NewSnapshot(1, nil)
	for rev := int64(2); rev < 3000; rev++ {
		key := keys[rng.IntN(len(keys))]
		if rng.IntN(3) == 0 {
			delete(truth, key)
			s = s.With(rev, nil, []string{key})
		} else {
			v := values[key][rng.IntN(len(values[key]))]
			truth[key] = topology.KV{Key: key, Value: []byte(v), Meta: topology.Meta{ModRevision: rev}}
			before := *s
			s = s.With(rev, []topology.KV{truth[key]}, nil)
			require.Equal(t, before.Revision, rev-1, "the old snapshot is immutable")
		}
		var kvs []topology.KV
		for _, kv := range truth {
			kvs = append(kvs, kv)
		}
		require.Equal(t, topology.NewSnapshot(rev, kvs), s)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("networks/blue", string(topology.Encode(blue)))
	f.Add("nodes/host1", `{"id":"a","vteps":["::ffff:1.2.3.4"]}`)
	f.Add("subnets/blue/10.1.5.0-24", `{"node":"host1"}`)
	f.Add("pins/blue/10.1.5.9", `{"node":"host1","mac":"02:42:0a:01:05:09"}`)
	f.Add("claims/blue/10.1.5.9", `{"node":"host2","id":"x","owner":"host1","answer":"refused","holder":"web"}`)
	f.Add("names/blue/host1", `{"names":{"web":["10.1.5.2","fd00::2"]}}`)
	f.Add("alive/host1", `{"id":"a","epoch":"b","probes":true}`)
	f.Add("~questions/q", `{"kind":"doctor","seconds":5}`)
	f.Add("~answers/host1/q", `{"body":{"a":1}}`)
	f.Fuzz(func(t *testing.T, key, value string) {
		r, err := topology.Decode(kv(key, value))
		if err != nil {
			if !errors.Is(err, topology.ErrInvalid) || !strings.Contains(err.Error(), fault.Printable(key)) {
				t.Fatalf("the error does not name the key: %v", err)
			}
			return
		}
		if r == nil {
			return
		}
		if r.Key() != key {
			t.Fatalf("%q was read as %q", key, r.Key())
		}
		again, err := topology.Decode(topology.KV{
			Key: key, Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: 3, ModRevision: 4},
		})
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if string(topology.Encode(again)) != string(topology.Encode(r)) {
			t.Fatalf("%s changed on its way", key)
		}
		topology.NewSnapshot(1, []topology.KV{kv(key, value)}).View("host1")
	})
}
