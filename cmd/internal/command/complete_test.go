package command

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// complete returns the words proposed for a line, the last one unfinished.
func complete(t *testing.T, line ...string) []string {
	t.Helper()
	res := baize(t, append([]string{completeCommand}, line...)...)
	require.Zero(t, res.code)
	assert.Empty(t, res.err, "it would disturb the line being typed")
	var out []string
	for l := range strings.Lines(res.out) {
		word, _, ok := strings.Cut(l, "\t")
		require.True(t, ok)
		out = append(out, word)
	}
	return out
}

func TestComplete(t *testing.T) {
	cluster(t)
	t.Setenv("BAIZE_ETCD_TIMEOUT", "500ms")
	t.Setenv("BAIZE_CONFIG", filepath.Join(t.TempDir(), "config.yaml"))
	for _, name := range []string{"lab", "prod"} {
		require.Zero(t, baize(t, "context", "set", name, "--etcd-endpoints", "http://127.0.0.1:1").code)
	}
	for _, tc := range []struct {
		line string
		want []string
	}{
		{"net", []string{"network"}},
		{"network ", []string{"create", "list", "show", "update", "rename", "delete"}},
		{"network s", []string{"show"}},
		{"network create --sub", []string{"--subnet", "--subnet-len", "--subnet-len-v6"}},
		{"network create x --transport ", []string{"vxlan", "gre", "geneve", "route", "auto", "auto-gre", "auto-geneve"}},
		{"network list --output=js", []string{"--output=json", "--output=jsonpath="}},
		{"network update blue --transport=gen", []string{"--transport=geneve"}},
		{"subnet list --network=r", []string{"--network=red"}},
		{"network list -o j", []string{"json", "jsonpath="}},
		{"topology --output ", []string{"tree", "wide", "json", "yaml", "jsonpath=", "dot", "svg"}},
		{"network show ", []string{"blue", "red"}},
		{"network show b", []string{"blue"}},
		{"network show blue ", nil},
		{"--log-level debug network show r", []string{"red"}},
		{"node remove --force host", []string{"host1", "host2", "host3"}},
		{"ping ho", []string{"host1", "host2", "host3"}},
		{"ping host1 --encap ", []string{"vxlan", "gre", "geneve", "route"}},
		{"plan --node host3", []string{"host3"}},
		{"subnet release 10.1.248", []string{"10.1.248.0/21"}},
		{"subnet list --network ", []string{"blue", "red"}},
		{"completion ", []string{"bash", "zsh", "fish"}},
		{"node list --color ", []string{"auto", "always", "never"}},
		{"schema plan", []string{"plan-diff", "plan"}},
		{"--log-", []string{"--log-level", "--log-format"}},
		{"nonsense ", nil},
		{"network show --etcd-endpoints http://127.0.0.1:1 ", nil},
		{"agent --datapath ", []string{"auto", "system", "netdev"}},
		{"agent c", []string{"cleanup"}},
		{"--context ", []string{"lab", "prod"}},
		{"network list --context p", []string{"prod"}},
		{"context use ", []string{"lab", "prod"}},
		{"context delete l", []string{"lab"}},
	} {
		t.Run(tc.line, func(t *testing.T) {
			assert.Equal(t, tc.want, complete(t, strings.Split(tc.line, " ")...))
		})
	}
	assert.NotContains(t, complete(t, ""), "docs", "hidden commands stay hidden")
}

// program returns the path of the command line as a program, which is this test.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "baize")
	require.NoError(t, os.Symlink(self, path))
	return path
}

// The script must work in the shell that everybody has, as it is typed (U10); the
// program it calls is this test.
func TestBashCompletion(t *testing.T) {
	cluster(t)
	bash, err := exec.LookPath("bash")
	require.NoError(t, err, "install bash")
	cmd := exec.CommandContext(t.Context(), bash, "--norc", "--noprofile", "-i")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program(t))+":"+os.Getenv("PATH"), "TERM=dumb", "PS1=$ ", "HISTFILE=")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 250})
	require.NoError(t, err)
	var out changing
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(&out, tty) // until nobody has the terminal any more
	}()
	var lines strings.Builder
	lines.WriteString("source <(baize completion bash)\n")
	typed := map[string]string{
		"network upd":                                  "<network><update>",
		"network show b":                               "<network><show><blue>",
		"node ls -o ya":                                "<node><ls><-o><yaml>",
		"network update blue --transport=gen":          "<network><update><blue><--transport=geneve>",
		"network list --color=nev":                     "<network><list><--color=never>",
		"subnet release fd00:10:1:e":                   "<subnet><release><fd00:10:1:e::/64>",
		"--etcd-prefix=/baize/v1 network show r":       "<--etcd-prefix=/baize/v1><network><show><red>",
		"network create x --subnet fd00:9::/48 --dry-": "<network><create><x><--subnet><fd00:9::/48><--dry-run>",
	}
	etcd := "--etcd-endpoints " + os.Getenv("BAIZE_ETCD_ENDPOINTS")
	typed[etcd+" network show r"] = "<" + strings.Replace(etcd, " ", "><", 1) + "><network><show><red>"
	for line := range typed {
		// Home, and what was completed is the arguments of another command.
		lines.WriteString("baize " + line + "\t\x01said() { shift; printf '<%s>' \"$@\"; echo .; }; said \n")
	}
	lines.WriteString("exit\n")
	_, err = io.WriteString(tty, lines.String())
	require.NoError(t, err)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
	}
	_ = cmd.Wait()
	for line, want := range typed {
		assert.Contains(t, out.String(), "\n"+want+".", line)
	}
}
