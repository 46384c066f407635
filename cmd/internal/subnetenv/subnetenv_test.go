package subnetenv_test

import (
	"flag"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/subnetenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

var prefix = netip.MustParsePrefix

var ipv4 = subnetenv.Env{Network: prefix("10.1.0.0/16"), Subnet: prefix("10.1.74.0/24"), MTU: 1450}

func with(e subnetenv.Env, change func(*subnetenv.Env)) subnetenv.Env {
	change(&e)
	return e
}

func addIPv6(e *subnetenv.Env) {
	e.IPv6Network, e.IPv6Subnet = prefix("fd00:10:1::/48"), prefix("fd00:10:1:74::/64")
}

func TestGolden(t *testing.T) {
	for name, e := range map[string]subnetenv.Env{
		"ipv4":   ipv4,
		"masq":   with(ipv4, func(e *subnetenv.Env) { e.IPMasq = true }),
		"dual":   with(ipv4, addIPv6),
		"ipv6":   with(subnetenv.Env{MTU: 1280, IPMasq: true}, addIPv6),
		"domain": with(ipv4, func(e *subnetenv.Env) { addIPv6(e); e.L2 = true }),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".env")
			b, err := e.Format()
			require.NoError(t, err)
			if *update {
				require.NoError(t, os.WriteFile(file, b, 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(b))

			back, err := subnetenv.Parse(b)
			require.NoError(t, err)
			assert.Equal(t, e, back)

			// Cut off anywhere, it is never taken for a whole file that says
			// something else.
			for i := range b {
				if cut, err := subnetenv.Parse(b[:i]); err == nil {
					cut.L2 = e.L2 // the line after flannel's
					assert.Equal(t, e, cut, "the first %d bytes", i)
				}
			}
		})
	}
}

func TestFormatRefuses(t *testing.T) {
	for want, change := range map[string]func(*subnetenv.Env){
		"no subnet":            func(e *subnetenv.Env) { *e = subnetenv.Env{MTU: 1450} },
		"only one of":          func(e *subnetenv.Env) { e.Network = netip.Prefix{} },
		"of IPv6":              func(e *subnetenv.Env) { e.IPv6Subnet = prefix("fd00::/64") },
		"is not in":            func(e *subnetenv.Env) { e.Subnet = prefix("10.2.0.0/24") },
		"are not IPv4":         func(e *subnetenv.Env) { addIPv6(e); e.Network, e.Subnet = e.IPv6Network, e.IPv6Subnet },
		"MTU 0":                func(e *subnetenv.Env) { e.MTU = 0 },
		"MTU 70000":            func(e *subnetenv.Env) { e.MTU = 70000 },
		"no address for":       func(e *subnetenv.Env) { e.Subnet = prefix("10.1.74.9/32") },
		"10.0.0.0/8 is not in": func(e *subnetenv.Env) { e.Subnet = prefix("10.0.0.0/8") },
	} {
		_, err := with(ipv4, change).Format()
		assert.ErrorContains(t, err, want)
	}
}

func TestParse(t *testing.T) {
	const whole = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
	for name, text := range map[string]string{
		"as flannel writes it": whole,
		"any order, comments": "# of flannel\n\nexport " +
			"FLANNEL_MTU=1450\nFLANNEL_IPMASQ='false'\nOTHER=1\nFLANNEL_SUBNET=\"10.1.74.1/24\"\nFLANNEL_NETWORK=10.1.0.0/16\n",
	} {
		e, err := subnetenv.Parse([]byte(text))
		require.NoError(t, err, name)
		assert.Equal(t, ipv4, e, name)
	}
	for want, text := range map[string]string{
		"FLANNEL_MTU is missing":    "",
		"FLANNEL_IPMASQ is missing": strings.Replace(whole, "FLANNEL_IPMASQ=false\n", "", 1),
		"no subnet":                 "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
		"only one of":               strings.Replace(whole, "FLANNEL_NETWORK=10.1.0.0/16\n", "", 1),
		"cut off":                   strings.TrimSuffix(whole, "\n"),
		`line 1: "garbage"`:         "garbage\n" + whole,
		`line 3: FLANNEL_MTU="14x"`: strings.Replace(whole, "1450", "14x", 1),
		"line 2: FLANNEL_SUBNET":    strings.Replace(whole, "/24", "/2 4", 1),
	} {
		_, err := subnetenv.Parse([]byte(text))
		assert.ErrorContains(t, err, want)
	}
}

func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "subnet.env")
	_, err := subnetenv.Read(file)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, subnetenv.Write(file, ipv4))
	e, err := subnetenv.Read(file)
	require.NoError(t, err)
	assert.Equal(t, ipv4, e)
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o644), info.Mode())

	require.Error(t, subnetenv.Write(file, subnetenv.Env{}), "an incomplete one is not written")
	e, err = subnetenv.Read(file)
	require.NoError(t, err)
	assert.Equal(t, ipv4, e)
	require.NoError(t, os.WriteFile(file, []byte("x\n"), 0o644))
	_, err = subnetenv.Read(file)
	require.ErrorContains(t, err, file)
}
