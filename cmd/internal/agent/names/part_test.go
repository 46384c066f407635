package names

import (
	"context"
	"io"
	"net/netip"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

func TestNamesOf(t *testing.T) {
	a := netip.MustParseAddr
	container := func(id, network string, ips ...netip.Addr) ovs.Endpoint {
		return ovs.Endpoint{
			Name:    "docker-" + id,
			Network: network,
			IPs:     ips,
			Labels:  map[string]string{"docker-endpoint": id},
		}
	}
	got := namesOf([]ovs.Endpoint{
		container("1", "blue", a("10.1.5.2"), a("fd00:10:1:5::2")),
		container("2", "blue", a("10.1.5.3")),
		container("3", "red", a("10.2.5.2")),
		container("4", "blue", a("10.1.5.4")), // the engine has not said yet
		{Name: "by-hand", Network: "blue", IPs: []netip.Addr{a("10.1.5.5")}},
		{Name: "cni", Network: "red", IPs: []netip.Addr{a("10.2.5.6")}, Labels: map[string]string{"aliases": "db,Pod"}},
	}, map[string][]string{"1": {"Web", "front"}, "2": {"db", "front"}, "3": {"db"}}, "docker-endpoint")
	require.Equal(t, map[string]map[string][]netip.Addr{
		"blue": {
			"web":   {a("10.1.5.2"), a("fd00:10:1:5::2")},
			"db":    {a("10.1.5.3")},
			"front": {a("10.1.5.2"), a("10.1.5.3"), a("fd00:10:1:5::2")},
		},
		"red": {"db": {a("10.2.5.2"), a("10.2.5.6")}, "pod": {a("10.2.5.6")}},
	}, got)
}

// store keeps what is published.
type store map[string]topology.Names

func (s store) PutNames(_ context.Context, n topology.Names) error {
	s[n.Network] = n
	return nil
}

// While an engine has not answered yet, its containers keep the names that they had, those
// that went lose them, and others' are published all the same.
func TestNamesBeforeTheEngineAnswers(t *testing.T) {
	a := netip.MustParseAddr
	blue := topology.Network{Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16")}.Defaults()
	before := topology.Names{Network: "blue", Node: "host1", Names: map[string][]netip.Addr{
		"web": {a("10.1.5.2")}, "gone": {a("10.1.5.3")},
	}}
	var kvs []topology.KV
	for i, r := range []topology.Record{blue, topology.Node{Name: "host1", VTEPs: []netip.Addr{a("192.0.2.1")}}, before} {
		kvs = append(kvs, topology.KV{Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(i + 1)}})
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := hub.New(hub.Identity{Node: "host1"})
	h.SetInUse(map[string]bool{})
	h.Hold()
	h.SetOwn(topology.NewSnapshot(9, kvs), false)
	put := store{}
	p := NewPart(h, put, part.NewCell[attach.Known](nil), part.NewCell[Called](nil), "docker-endpoint", Settings{},
		log.WithField("node", "host1"))
	require.NoError(t, p.publish(t.Context(), []ovs.Endpoint{
		{Name: "docker-1", Network: "blue", IPs: []netip.Addr{a("10.1.5.2")}, Labels: map[string]string{"docker-endpoint": "1"}},
		{Name: "pod", Network: "blue", IPs: []netip.Addr{a("10.1.5.9")}, Labels: map[string]string{"aliases": "db"}},
	}))
	require.Equal(t, map[string][]netip.Addr{"web": {a("10.1.5.2")}, "db": {a("10.1.5.9")}}, put["blue"].Names)
}
