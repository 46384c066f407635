package command

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// A lease of a node whose agent runs is released only for who says so twice.
func TestSubnetReleaseAsks(t *testing.T) {
	s := cluster(t)
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	p := snap.NodeSubnets("blue", "host1")[0].Prefix.String()
	release := []string{"subnet", "release", p, "--network", "blue", "--force"}
	res := baize(t, release...)
	assert.Contains(t, res.out, "endpoints with addresses of "+p+" lose network blue")
	assert.Contains(t, baize(t, "subnet", "list").out, p)
	require.Equal(t, 0, baize(t, append(release, "--yes")...).code)
	assert.NotContains(t, baize(t, "subnet", "list").out, p)
}

// Who is not at a terminal is not asked.
func TestScriptsSayYes(t *testing.T) {
	cluster(t)
	in, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer in.Close()
	var out, errOut bytes.Buffer
	code := Run(t.Context(), []string{"node", "remove", "--force", "host1"}, Streams{in, &out, &errOut})
	assert.Equal(t, cli.ExitUsage, code)
	assert.Contains(t, errOut.String(), "comes back at once")
	assert.Contains(t, errOut.String(), "say --yes")
}

// Every command that writes to etcd shows with --dry-run what it would write, and
// writes nothing.
func TestDryRun(t *testing.T) {
	s := cluster(t)
	_, err := s.CreateNetwork(t.Context(), topology.Network{Name: "spare", IPv4: netip.MustParsePrefix("10.66.0.0/16")})
	require.NoError(t, err)
	before, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	lease := before.NodeSubnets("blue", "host3")[0]
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"network create": {
			[]string{"network", "create", "new", "--subnet", "10.77.0.0/16"},
			[]string{"networks/new\n  before  none\n  after   {", `"ipv4":"10.77.0.0/16"`},
		},
		"network update": {
			[]string{"network", "update", "blue", "--mtu", "1400"},
			[]string{"networks/blue\n  before  {", `"mtu":1450`, "  after   {", `"mtu":1400`},
		},
		"network update, by a family": {
			[]string{"network", "update", "red", "--subnet", "fd00:10:2::/48"},
			[]string{"networks/red\n  before  {", `"ipv6":"fd00:10:2::/48"`, `"subnetLenIPv6":64`},
		},
		"network rename": {
			[]string{"network", "rename", "spare", "pink"},
			[]string{"networks/pink\n  before  none\n  after   {", "networks/spare\n  before  {", "  after   none\n"},
		},
		"network delete": {
			[]string{"network", "delete", "blue"},
			[]string{"networks/blue\n", `"deleting":"when-unused"`},
		},
		"network delete, by force": {
			[]string{"network", "delete", "blue", "--force"},
			[]string{"networks/blue\n", "  after   none", lease.Key() + "\n"},
		},
		"network delete, not any more": {
			[]string{"network", "delete", "--cancel", "blue"}, nil,
		},
		"node hand-over": {
			[]string{"node", "hand-over", "host3"}, []string{"nodes/host3\n  before  {", "  after   {"},
		},
		"node remove": {
			[]string{"node", "remove", "host3"},
			[]string{"nodes/host3\n  before  {", "  after   none\n", lease.Key() + "\n  before  {"},
		},
		"node remove, by force": {
			[]string{"node", "remove", "host1", "--force"}, []string{"nodes/host1\n  before  {", "  after   none\n"},
		},
		"subnet reserve": {
			[]string{"subnet", "reserve", "10.1.9.0/24", "--network", "blue", "--comment", "VMs"},
			[]string{"subnets/blue/10.1.9.0-24\n  before  none\n  after   {", `"comment":"VMs"`},
		},
		"subnet release": {
			[]string{"subnet", "release", lease.Prefix.String(), "--network", "blue"},
			[]string{lease.Key() + "\n  before  {", "  after   none\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			res := baize(t, append(c.args, "--dry-run")...)
			require.Equal(t, 0, res.code, res.err)
			for _, want := range c.want {
				assert.Contains(t, res.out, want)
			}
			assert.True(t, strings.HasSuffix(res.out, "nothing was changed (--dry-run)\n"), res.out)
			after, err := s.Snapshot(t.Context())
			require.NoError(t, err)
			assert.Equal(t, before.Revision, after.Revision, "nothing was written")
		})
	}
	res := baize(t, "network", "update", "blue", "--mtu", "1400", "--dry-run", "-o", "json")
	assert.Contains(t, res.out, `"key": "networks/blue"`)
	assert.Equal(t, cli.ExitNotFound, baize(t, "subnet", "release", "10.1.77.0/24", "--network", "blue", "--dry-run").code)
}
