package names

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// Finding S3: a name of the Internet is not a container's to answer for.
func TestIsPublic(t *testing.T) {
	for name, want := range map[string]bool{
		"example.com.": true, "WWW.Example.com": true, "a.b.co.uk": true, "github.io": true,
		"web.blue": true, // a domain of the Internet; what it is in the network blue is looked up as web
		"web":      false, "web.nightly": false, "com": false, "db.internal.": false, "shop-web-1": false, "printer.local": false,
		"": false, ".": false, "2.5.1.10.in-addr.arpa.": true,
	} {
		require.Equal(t, want, isPublic(name), name)
	}
}

// Finding S3: a reverse look-up is not a scan of all names, and finds what a scan
// finds, whatever changes.
func TestReverseIndex(t *testing.T) {
	const nodes, each = 50, 30
	var kvs []topology.KV
	put := func(r topology.Record, revision int64) {
		kvs = append(kvs, topology.KV{Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{ModRevision: revision}})
	}
	addr := func(i, j int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i), byte(j)}) }
	put(topology.Network{Name: "blue", IPv4: netip.MustParsePrefix("10.1.0.0/16"), VNI: 100}.Defaults(), 1)
	for i := range nodes {
		n := topology.Names{Network: "blue", Node: fmt.Sprint("host", i), Names: map[string][]netip.Addr{}}
		for j := range each {
			n.Names[fmt.Sprintf("c-%d-%d", i, j)] = []netip.Addr{addr(i, j)}
		}
		put(n, int64(i+2))
	}
	s := topology.NewSnapshot(1000, kvs)
	var x reverseIndex
	require.Equal(t, []string{"c-7-9"}, x.lookup(s, "blue", addr(7, 9)))
	host7 := topology.NamesID{Network: "blue", Node: "host7"}
	marker := netip.MustParseAddr("192.0.2.1")
	x.records[host7].byAddr[marker] = []string{"still the same index"}
	require.Len(t, x.records, nodes)
	for i := range nodes {
		for j := range each {
			require.Equal(t, s.LookupAddr("blue", addr(i, j)), x.lookup(s, "blue", addr(i, j)))
		}
	}
	require.Empty(t, x.lookup(s, "red", addr(7, 9)))
	require.Empty(t, x.lookup(s, "blue", addr(7, 200)))

	// One record changes, one goes: the others are not read again.
	kvs = kvs[:len(kvs)-1]
	put(topology.Names{Network: "blue", Node: "host3", Names: map[string][]netip.Addr{"new": {addr(7, 9)}}}, 2000)
	next := topology.NewSnapshot(2000, kvs)
	require.Equal(t, []string{"c-7-9", "new"}, x.lookup(next, "blue", addr(7, 9)))
	require.Len(t, x.records, nodes-1)
	require.Contains(t, x.records[host7].byAddr, marker)
}
