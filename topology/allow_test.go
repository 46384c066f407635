package topology

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseAllowed(t *testing.T) {
	got, err := ParseAllowed("--allow", []string{" fd00:2::/64", "10.1.5.9", "::/0", "10.2.0.0/16", "0.0.0.0/0", "10.1.5.9/32"})
	require.NoError(t, err)
	want := []netip.Prefix{}
	for _, s := range []string{"0.0.0.0/0", "10.1.5.9/32", "10.2.0.0/16", "::/0", "fd00:2::/64"} {
		want = append(want, netip.MustParsePrefix(s))
	}
	require.Equal(t, want, got)

	none, err := ParseAllowed("--allow", nil)
	require.NoError(t, err)
	require.Nil(t, none, "an endpoint without is the same whether it was read back or not")

	for text, message := range map[string]string{
		"web":              `--allow: "web" is not a prefix (write it like 10.2.0.0/16`,
		"":                 `--allow: "" is not a prefix`,
		"10.2.0.0/33":      "is not a prefix",
		"fe80::1%eth0":     "is not a prefix",
		"10.2.0.1/16":      "--allow: 10.2.0.1/16 has bits set beyond its length (write 10.2.0.0/16)",
		"::ffff:10.1.5.9":  "is an IPv4 prefix within IPv6",
		"224.0.0.0/4":      "nobody sends from a multicast address",
		"ff02::1":          "nobody sends from a multicast address",
		"10.1.5.9,10.2::5": "is not a prefix",
	} {
		_, err := ParseAllowed("--allow", []string{text})
		require.ErrorIs(t, err, ErrInvalid, text)
		require.ErrorContains(t, err, message, text)
	}
}

func TestParseAllowance(t *testing.T) {
	got, err := ParseAllowance("--allow", []string{"vlan", "::/0", " ra", "10.2.0.0/16", "ra", "fe80::1", "dhcp-server"})
	require.NoError(t, err)
	require.Equal(t, []Traffic{RouterAdvertisement, DHCPServer, VLAN}, got.Traffic)
	require.Len(t, got.Prefixes, 3)
	none, err := ParseAllowance("--allow", nil)
	require.NoError(t, err)
	require.Equal(t, Allowance{}, none)
	for text, message := range map[string]string{
		"web":   `--allow: "web" is neither a prefix nor a kind of traffic (write prefixes like 10.2.0.0/16`,
		"RA":    "is neither",
		"":      "is not a prefix",
		"1.2.3": "is not a prefix",
	} {
		_, err := ParseAllowance("--allow", []string{text})
		require.ErrorIs(t, err, ErrInvalid, text)
		require.ErrorContains(t, err, message, text)
	}
	_, err = ParseTraffic("--allow", []string{"ra", "10.2.0.0/16"})
	require.ErrorContains(t, err, `--allow: "10.2.0.0/16" is no kind of traffic (use some of [ra redirect dhcp-server bpdu vlan])`)
	require.Equal(t, []Traffic{Redirect, BPDU, "new"}, SortTraffic([]Traffic{"new", BPDU, Redirect, BPDU}))
}

func TestBUMRate(t *testing.T) {
	for text, want := range map[string]int{"off": 0, "1": 1, "250": 250, "10000000": MaxBUM} {
		n, err := ParseBUM("--bum", text)
		require.NoError(t, err)
		require.Equal(t, want, Network{BUM: n}.BUMRate(), text)
	}
	require.Equal(t, DefaultBUM, Network{}.BUMRate())
	for _, text := range []string{"", "0", "-1", "lots", "1.5", "10000001"} {
		_, err := ParseBUM("--bum", text)
		require.ErrorIs(t, err, ErrInvalid, text)
		require.ErrorContains(t, err, "use 1 to 10000000, or off; 1000 is the default", text)
	}
}
