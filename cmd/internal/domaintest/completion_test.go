//go:build system

package domaintest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// U10: names of labs, of what is in them, and of network namespaces, as they are
// typed on the machine and on a host. What is in etcd alone is tested in package
// command.
func TestCompletionInALab(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Hosts: 1})
	exe, err := os.Executable()
	require.NoError(t, err)
	subnet := strings.TrimSpace(d.Must("host1", "baize", "subnet", "list", "-q", "--filter", "prefix=fd00:*"))
	// This lab alone is where labs are, for the shells on the machine.
	const alone = `mount -t tmpfs none /mnt; mkdir /mnt/lab; mount --bind "$0" /mnt/lab; mount -t tmpfs none /run
mkdir -p /run/baize-lab/"$1" /run/netns; mount --bind /mnt/lab /run/baize-lab/"$1"; touch /run/netns/elsewhere; shift; exec "$@"`
	for name, shell := range testkit.Shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.Symlink(exe, filepath.Join(dir, "baize")))
			path := "PATH=" + dir + ":" + os.Getenv("PATH")
			check := func(sh *testkit.Shell, typed map[string]string) {
				for line, want := range typed {
					assert.Equal(t, want, sh.Complete("baize "+line), line)
				}
			}
			argv := append([]string{"unshare", "--mount", "sh", "-ec", alone, d.Dir(), d.Name()}, shell.Argv...)
			in := "<--name><" + d.Name() + ">"
			check(testkit.StartShell(t, argv, append(os.Environ(), path), dir, shell.Setup), map[string]string{
				"lab st":                                   "<lab><status>",
				"lab status --name t":                      "<lab><status>" + in,
				"lab down --name=t":                        "<lab><down><--name=" + d.Name() + ">",
				"lab exec --name " + d.Name() + " h":       "<lab><exec>" + in + "<host1>",
				"lab exec --name " + d.Name() + " host1/r": "<lab><exec>" + in + "<host1/red-c1>",
				"endpoint add x --netns e":                 "<endpoint><add><x><--netns><elsewhere>",
			})
			argv, env, err := d.ExecCommand("host1", shell.Argv)
			require.NoError(t, err)
			check(testkit.StartShell(t, argv, append(env, path), dir, shell.Setup), map[string]string{
				"endpoint add x --network b":                 "<endpoint><add><x><--network><blue>",
				"endpoint add x --network=blue --netns=red-": "<endpoint><add><x><--network=blue><--netns=red-c1>",
				"endpoint remove red":                        "<endpoint><remove><red-c1>",
				"trace c1 red":                               "<trace><c1><red-c1>",
				"subnet release fd00:10:1:":                  "<subnet><release><" + subnet + ">",
			})
		})
	}
}
