package topology

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What cannot be read of IPFIX costs only itself, and what nobody chose has a default.
func TestSampled(t *testing.T) {
	for name, c := range map[string]struct {
		in   *IPFIX
		want IPFIX
	}{
		"none":     {nil, IPFIX{}},
		"defaults": {&IPFIX{Collectors: []string{"192.0.2.9"}}, IPFIX{[]string{"192.0.2.9:4739"}, 400, 60}},
		"each packet": {
			&IPFIX{Collectors: []string{"192.0.2.9:99"}, Sampling: 1, Cache: -1}, IPFIX{[]string{"192.0.2.9:99"}, 1, 0},
		},
		"nonsense": {
			&IPFIX{
				Collectors: []string{
					"collector.example", "[2001:db8::9]:1", "", "192.0.2.9:0", "0.0.0.0:1", "fe80::1%eth0", "::ffff:192.0.2.9",
					"192.0.2.9:4739", "2001:db8::8",
				},
				Sampling: 1 << 30, Cache: 1 << 30,
			},
			IPFIX{[]string{"192.0.2.9:4739", "[2001:db8::8]:4739", "[2001:db8::9]:1"}, MaxSampling, MaxIPFIXCache},
		},
	} {
		got := Network{IPFIX: c.in}.Sampled()
		require.Equal(t, c.want, got, name)
	}
	_, err := ParseCollector("--ipfix", "nobody", IPFIXPort)
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "[2001:db8::9]:4739")
}
