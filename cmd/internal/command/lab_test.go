package command

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func TestLabNetworks(t *testing.T) {
	p := netip.MustParsePrefix
	for name, tc := range map[string]struct {
		in   []string
		want []lab.NetworkSpec
	}{
		"none": {nil, nil},
		"IPv4 alone": {
			[]string{"10.9.0.0/16"},
			[]lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{p("10.9.0.0/16"), p("fd00:10:1::/48")}}},
		},
		"both families": {
			[]string{"10.9.0.0/16", "fd00:9::/48"},
			[]lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{p("10.9.0.0/16"), p("fd00:9::/48")}}},
		},
		"several, named": {[]string{"a=10.9.0.0/16", "b=10.9.0.0/16", "a=fd00:9::/48"}, []lab.NetworkSpec{
			{Name: "a", Prefixes: []netip.Prefix{p("10.9.0.0/16"), p("fd00:9::/48")}},
			{Name: "b", Prefixes: []netip.Prefix{p("10.9.0.0/16")}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := labNetworks(tc.in)
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
		})
	}
	_, err := labNetworks([]string{"red=ten"})
	assert.ErrorContains(t, err, `"red=ten" is not a prefix`)
}

// What is refused before anything is made.
func TestLabRefusals(t *testing.T) {
	for _, tc := range []struct {
		code int
		text string
		line []string
	}{
		{cli.ExitUsage, "--hosts 0", []string{"lab", "up", "--hosts", "0"}},
		{cli.ExitUsage, "did you mean geneve?", []string{"lab", "up", "--transport", "genev"}},
		{cli.ExitUsage, "is not a prefix", []string{"lab", "up", "--network", "x"}},
		{cli.ExitNotFound, "lab no-such-lab", []string{"lab", "status", "--name", "no-such-lab"}},
		{cli.ExitNotFound, "baize lab up", []string{"lab", "exec", "--name", "no-such-lab", "host1", "--", "true"}},
	} {
		res := baize(t, tc.line...)
		assert.Equal(t, tc.code, res.code, "%v: %s", tc.line, res.err)
		assert.Contains(t, res.err, tc.text)
	}
}

// U15: the last line named the lab called "lab", whatever the name of this one.
func TestLabHintsNameTheLab(t *testing.T) {
	hints := []lab.Hint{{Target: "host1", Command: "ovs-vsctl show"}}
	for name, want := range map[string][]string{
		lab.DefaultName: {
			"", "Try:", "  bin/baize lab exec host1 -- ovs-vsctl show", "", "It stays up until 'bin/baize lab down'.",
		},
		"other": {
			"", "Try:", "  bin/baize lab exec --name other host1 -- ovs-vsctl show", "",
			"It stays up until 'bin/baize lab down --name other'.",
		},
	} {
		assert.Equal(t, want, labHints("bin/baize", name, hints))
	}
}

// U14: the JSON of lab status was described nowhere.
func TestLabStatusConformsToItsSchema(t *testing.T) {
	member := lab.MemberStatus{Name: "host1", PID: 1, Services: []supervisor.Status{{Name: "agent", Last: "x", PID: 2}}}
	var b bytes.Buffer
	require.NoError(t, cli.Print(&b, cli.FormatJSON, cli.Table{}, &lab.Status{
		Router: &member, Hosts: []lab.MemberStatus{member}, Endpoints: []lab.EndpointStatus{{Name: "c1"}},
		Networks: []lab.NetworkSpec{{Name: "blue", VNI: 1, Transport: topology.VXLAN, Endpoints: 1}},
		Problems: []fault.Fault{{Code: fault.NodeDown, Since: time.Now()}},
	}))
	conforms(t, "lab-status", b.String())
}

// U11: a command in a host finds the files that are next to the user; where the host does
// not have the directory, the command runs all the same.
func TestExecKeepsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	argv := inWorkingDirectory([]string{"sh", "-c", `pwd; echo "$1"`, "-", "a  b"})
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, dir+"\na  b\n", string(out))

	require.NoError(t, os.Remove(dir))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	out, err = cmd.CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "/\na  b\n", string(out))
	require.Equal(t, []string{}, inWorkingDirectory([]string{}))
}
