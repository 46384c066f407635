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
