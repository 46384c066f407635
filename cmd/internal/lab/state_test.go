package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestStateFile(t *testing.T) {
	dir := t.TempDir()
	_, err := readState(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	want, err := state{}.merge(Config{Hosts: 2})
	require.NoError(t, err)
	require.NoError(t, want.write(dir))
	got, err := readState(dir)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing temporary is left")

	require.NoError(t, os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600))
	_, err = readState(dir)
	require.ErrorIs(t, err, topology.ErrInvalid)
	assert.ErrorContains(t, err, "lab down")
}

func TestEndpointNames(t *testing.T) {
	s := state{Endpoints: 1, Networks: []NetworkSpec{{Name: "blue"}, {Name: "red", Endpoints: 2}}}
	assert.Equal(t, []string{"c1"}, s.endpointNames(0))
	assert.Equal(t, []string{"red-c1", "red-c2"}, s.endpointNames(1))
}

// What the version before wrote is read, and written again the same.
func TestStateFileIsThatOfTheVersionBefore(t *testing.T) {
	const before = `{
  "hosts": [
    "host1",
    "host2"
  ],
  "transport": "auto",
  "networks": [
    {
      "name": "blue",
      "prefixes": [
        "10.1.0.0/16"
      ],
      "transport": "gre",
      "vni": 7,
      "endpoints": 2
    }
  ],
  "endpoints": 1,
  "ipv6Underlay": true,
  "docker": true,
  "dockerBridge": true,
  "segments": 2,
  "frr": true,
  "flannel": true,
  "flanneld": "/bin/flanneld",
  "flannelHost": "host2",
  "engines": {
    "host1": "/opt/docker"
  },
  "agentArgs": [
    "--log-level=debug"
  ],
  "env": [
    "A=b"
  ]
}
`
	dir := t.TempDir()
	file := filepath.Join(dir, stateFile)
	require.NoError(t, os.WriteFile(file, []byte(before), 0o600))
	s, err := readState(dir)
	require.NoError(t, err)
	assert.Equal(t, "host2", s.FlannelHost)
	require.NoError(t, os.Remove(file))
	require.NoError(t, s.write(dir))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, before, string(b))
}
