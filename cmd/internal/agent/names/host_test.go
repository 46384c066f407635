package names

import (
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.12": "127.0.0.12:53", "127.0.0.12:5353": "127.0.0.12:5353", "::1": "[::1]:53", "[::1]:5353": "[::1]:5353",
	} {
		got, err := ParseHost(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got.String())
	}
	at, err := ParseHost("")
	require.NoError(t, err)
	assert.False(t, at.IsValid())
	for in, what := range map[string]string{
		"stub": "neither", "192.0.2.1": "others than this host", "0.0.0.0:53": "others than this host", "127.0.0.1:0": "no port",
	} {
		_, err := ParseHost(in)
		require.ErrorIs(t, err, topology.ErrInvalid, in)
		assert.ErrorContains(t, err, what)
	}
}

// Processes of the host ask at an address of the operator's choice, by UDP and by TCP;
// where somebody else listens that is an error with a remedy.
func TestHostServer(t *testing.T) {
	taken, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	at := netip.MustParseAddrPort(taken.Addr().String())
	s := New(known, logrus.New())
	s.host = at
	t.Cleanup(s.Close)
	wanted := map[string][]string{thisHost: {"blue", "red"}}
	errs := s.Sync(wanted)
	require.Len(t, errs, 1)
	require.ErrorContains(t, errs[0], "--host-names")
	require.NoError(t, taken.Close())
	require.Empty(t, s.Sync(wanted), "it is tried again")

	for _, protocol := range []string{"udp", "tcp"} {
		c := &dns.Client{Net: protocol}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion("web.blue.", dns.TypeA), at.String())
		require.NoError(t, err)
		require.Len(t, m.Answer, 1)
		assert.Equal(t, "10.1.5.2", m.Answer[0].(*dns.A).A.String())
		m, _, err = c.Exchange(new(dns.Msg).SetQuestion("example.com.", dns.TypeA), at.String())
		require.NoError(t, err)
		assert.Equal(t, dns.RcodeServerFailure, m.Rcode, "another server is asked")
	}
	require.Empty(t, s.Sync(nil))
	_, err = net.Dial("tcp", at.String())
	require.Error(t, err)
}
