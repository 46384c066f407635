package bgp

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestParseNeighbor(t *testing.T) {
	for s, want := range map[string]Neighbor{
		"65000@192.0.2.1":           {Addr: netip.MustParseAddr("192.0.2.1"), AS: 65000},
		"65000@192.0.2.1:1179":      {Addr: netip.MustParseAddr("192.0.2.1"), AS: 65000, Port: 1179},
		"4200000000@2001:db8::1":    {Addr: netip.MustParseAddr("2001:db8::1"), AS: 4200000000},
		"65000@[2001:db8::1]:11179": {Addr: netip.MustParseAddr("2001:db8::1"), AS: 65000, Port: 11179},
	} {
		n, err := ParseNeighbor(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, n, s)
		again, err := ParseNeighbor(n.String())
		require.NoError(t, err)
		assert.Equal(t, n, again, "what it writes it reads")
	}
	for _, s := range []string{
		"", "192.0.2.1", "0@192.0.2.1", "4294967296@192.0.2.1", "x@192.0.2.1", "65000@router", "65000@192.0.2.1:0",
		"65000@192.0.2.1:x", "65000@",
	} {
		_, err := ParseNeighbor(s)
		require.ErrorIs(t, err, topology.ErrInvalid, s)
		assert.ErrorContains(t, err, "65000@192.0.2.1", "the remedy is an example: %s", s)
	}
}

func TestDefaults(t *testing.T) {
	router := Neighbor{Addr: netip.MustParseAddr("192.0.2.1"), AS: 65000}
	good := Config{AS: 65001, Neighbors: []Neighbor{router}}
	c, err := good.Defaults()
	require.NoError(t, err)
	assert.Equal(t, DefaultHoldTime, c.HoldTime)
	assert.Equal(t, DefaultRestartTime, c.RestartTime)
	for want, change := range map[string]func(*Config){
		"--bgp AS":               func(c *Config) { c.AS = 0 },
		"--bgp-neighbor":         func(c *Config) { c.Neighbors = nil },
		"named twice":            func(c *Config) { c.Neighbors = []Neighbor{router, router} },
		"--bgp-hold-time":        func(c *Config) { c.HoldTime = 2 * time.Second },
		"whole seconds from 3s":  func(c *Config) { c.HoldTime = 3500 * time.Millisecond },
		"--bgp-restart-time":     func(c *Config) { c.RestartTime = 2 * time.Hour },
		"longer than 80 bytes":   func(c *Config) { c.Password = string(make([]byte, 81)) },
		"whole seconds from 1s ": func(c *Config) { c.RestartTime = time.Millisecond },
	} {
		bad := good
		change(&bad)
		_, err := bad.Defaults()
		require.ErrorIs(t, err, topology.ErrInvalid)
		assert.ErrorContains(t, err, want)
		_, err = New(bad, nil, nil)
		require.Error(t, err)
	}
}

func TestReadPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	_, err := ReadPassword(file)
	require.ErrorIs(t, err, os.ErrNotExist)
	for text, want := range map[string]string{"secret": "secret", "secret\n": "secret", "se cret\r\n\n": "se cret"} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		got, err := ReadPassword(file)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	for _, text := range []string{"", "\n", "two\nlines\n"} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := ReadPassword(file)
		assert.ErrorContains(t, err, file)
	}
}

// A session that is down is a problem, one that has just begun is none yet.
func TestSessionProblem(t *testing.T) {
	now := time.Now()
	n := Neighbor{Addr: netip.MustParseAddr("192.0.2.1"), AS: 65000}
	for _, x := range []struct {
		name string
		s    Session
		want []string
	}{
		{"up", Session{Up: true, Since: now.Add(-time.Hour)}, nil},
		{"just begun", Session{Since: now}, nil},
		{
			"never up", Session{State: "active", Since: now.Add(-time.Minute)},
			[]string{"192.0.2.1", "65000", "active", "no connection since", "ping 192.0.2.1"},
		},
		{"gone", Session{State: "idle", Since: now, Last: "hold timer expired"}, []string{"hold timer expired", "vtysh"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			x.s.Neighbor = n
			p, is := x.s.Problem(now)
			assert.Equal(t, x.want != nil, is)
			for _, want := range x.want {
				assert.Contains(t, p.Item+p.What+p.Remedy, want)
			}
		})
	}
}
