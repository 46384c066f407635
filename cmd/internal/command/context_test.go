package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

func TestContextCommands(t *testing.T) {
	s := newShell(t)
	t.Setenv("BAIZE_ETCD_TIMEOUT", "")
	res := baize(t, "context", "list")
	assert.Equal(t, cli.ExitOK, res.code)
	assert.Contains(t, res.err, "baize context set")
	for _, line := range []string{
		"context set prod --etcd-endpoints https://a:2379,https://b:2379 --etcd-prefix /p --etcd-user ops:hunter2",
		"ctx set lab --etcd-endpoints http://c:2379 --etcd-timeout 5s",
		"context use prod",
	} {
		res := baize(t, strings.Fields(line)...)
		require.Equal(t, cli.ExitOK, res.code, res.err)
	}
	golden(t, "context-list", baize(t, "context", "list").out)
	golden(t, "context-show", strings.ReplaceAll(baize(t, "context", "show").out, s.contexts, "FILE"))
	var list []contextItem
	out := baize(t, "context", "list", "-o", "json").out
	assert.NotContains(t, out, "hunter2")
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	require.Len(t, list, 2)
	assert.True(t, list[0].Current)
	assert.Equal(t, "https://a:2379,https://b:2379", list[0].Settings[0].Value)
	info, err := os.Stat(s.contexts)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	// A variable would hide the context.
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "http://d:2379")
	res = baize(t, "context", "use", "prod")
	assert.Equal(t, cli.ExitOK, res.code)
	assert.Contains(t, res.err, "the variable BAIZE_ETCD_ENDPOINTS is set and comes before the context")
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "https://a:2379,https://b:2379")
	assert.Empty(t, baize(t, "context", "use", "prod").err)
	t.Setenv("BAIZE_ETCD_ENDPOINTS", "")

	// What a dry run shows has no password, and changes nothing.
	file, err := os.ReadFile(s.contexts)
	require.NoError(t, err)
	for line, want := range map[string][]string{
		"context use lab":    {"the current context", "before  prod", "after   lab"},
		"context delete lab": {"context lab", "before  etcd-endpoints=http://c:2379", "after   none"},
		"context set lab --etcd-endpoints http://e:2379":   {"before  etcd-endpoints=http://c:2379", "after   etcd-endpoints=http://e:2379"},
		"context set prod --etcd-user ops:hunter3":         {"etcd-password=(set)"},
		"context set other --etcd-endpoints http://f:2379": {"before  none"},
	} {
		res := baize(t, append(strings.Fields(line), "--dry-run")...)
		require.Equal(t, cli.ExitOK, res.code, res.err)
		for _, text := range append(want, "nothing was changed (--dry-run)") {
			assert.Contains(t, res.out, text, line)
		}
		assert.NotContains(t, res.out, "hunter")
	}
	still, err := os.ReadFile(s.contexts)
	require.NoError(t, err)
	require.Equal(t, string(file), string(still))

	// Another user's password is another one.
	require.Zero(t, baize(t, "context", "set", "prod", "--etcd-username", "other").code)
	assert.Contains(t, baize(t, "context", "show", "prod").out, "(not set)")
	var errOut bytes.Buffer
	code := Run(t.Context(), []string{"context", "set", "prod", "--password-stdin"},
		Streams{strings.NewReader("pass word\nmore\n"), &bytes.Buffer{}, &errOut})
	require.Zero(t, code, errOut.String())
	c, err := settings.ReadContexts(s.contexts)
	require.NoError(t, err)
	prod, _ := c.Find("prod")
	assert.Equal(t, "pass word", prod.Values[settings.EtcdPassword].Text)
	assert.Equal(t, "other", prod.Values[settings.EtcdUsername].Text)

	res = baize(t, "context", "rm", "prod")
	assert.Equal(t, result{0, "context prod deleted: none is the current one now\n", ""}, res)
	assert.Equal(t, cli.ExitUsage, baize(t, "context", "show").code, "none is in use")
	require.Zero(t, baize(t, "context", "use", "lab").code)
	require.Zero(t, baize(t, "context", "use", "--none").code)
	got, _ := configOf(t)
	assert.Equal(t, settings.Default, got[settings.EtcdEndpoints].Source)
	got, _ = configOf(t, "--context", "lab")
	assert.Equal(t, "5s", got[settings.EtcdTimeout].Value)
}

func TestContextsThatAreRefused(t *testing.T) {
	s := newShell(t)
	t.Setenv("BAIZE_ETCD_TIMEOUT", "")
	require.Zero(t, baize(t, "context", "set", "prod", "--etcd-endpoints", "http://a:1").code)
	before, err := os.ReadFile(s.contexts)
	require.NoError(t, err)
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"network list --context prd":                          {cli.ExitNotFound, "did you mean prod?"},
		"context use prd":                                     {cli.ExitNotFound, "did you mean prod?"},
		"context use":                                         {cli.ExitUsage, "--none"},
		"context use prod --none":                             {cli.ExitUsage, "--none"},
		"context delete prd":                                  {cli.ExitNotFound, "did you mean prod?"},
		"context show prd":                                    {cli.ExitNotFound, "did you mean prod?"},
		"context set prod":                                    {cli.ExitUsage, "--etcd-endpoints"},
		"context set new --etcd-prefix /x":                    {cli.ExitUsage, "--etcd-endpoints"},
		"context set -- a/b":                                  {cli.ExitUsage, `"a/b"`},
		"context set prod --etcd-endpoints ftp://a:1":         {cli.ExitUsage, `scheme "ftp"`},
		"context set prod --etcd-endpoints=":                  {cli.ExitUsage, "where etcd is"},
		"context set prod --etcd-cafile none.crt":             {cli.ExitUsage, "none.crt"},
		"context set prod --etcd-timeout -1s":                 {cli.ExitUsage, "negative"},
		"context set prod --etcd-user a:b --etcd-username c":  {cli.ExitUsage, "both name a user"},
		"context set prod --etcd-password x":                  {cli.ExitUsage, "a password without a user"},
		"context set prod --etcd-password x --password-stdin": {cli.ExitUsage, "both give a password"},
		"context set prod --etcd-username x --password-stdin": {cli.ExitUsage, "has no password"},
	} {
		res := baize(t, strings.Fields(line)...)
		assert.Equal(t, want.code, res.code, "%s: %s", line, res.err)
		assert.Contains(t, res.err, want.says, line)
	}
	after, err := os.ReadFile(s.contexts)
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after))
	t.Setenv("BAIZE_CONTEXT", "prd")
	res := baize(t, "network", "list")
	assert.Contains(t, res.err, "BAIZE_CONTEXT", "who named it")
}

// A file that is wrong is named with the line, whatever was asked.
func TestMalformedContextsFile(t *testing.T) {
	s := newShell(t)
	write(t, s.contexts, "contexts:\n  prod:\n    etcd-endpoint: http://a:1\n")
	for _, line := range []string{"network list", "context list", "config"} {
		res := baize(t, strings.Fields(line)...)
		assert.Equal(t, cli.ExitUsage, res.code, line)
		assert.Contains(t, res.err, s.contexts+":3: context prod has the unknown setting \"etcd-endpoint\"", line)
	}
	assert.Equal(t, cli.ExitOK, baize(t, "version").code, "it needs no context")
}

func TestContextsFileThatOthersRead(t *testing.T) {
	s := newShell(t)
	endpoint := etcdtest.Start(t)
	write(t, s.contexts, "current-context: a\ncontexts:\n  a: {etcd-endpoints: "+endpoint+"}\n  b: {etcd-password: x}\n")
	res := baize(t, "network", "list")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	assert.NotContains(t, res.err, "warning")
	require.NoError(t, os.Chmod(s.contexts, 0o644))
	res = baize(t, "network", "list")
	require.Equal(t, cli.ExitOK, res.code, res.err)
	assert.Equal(t, 1, strings.Count(res.err, "warning: "+s.contexts+" has a password, and others can read it"))
}

// Where the file is: XDG_CONFIG_HOME, or ~/.config.
func TestContextsFileOfAUser(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("BAIZE_CONFIG", "")
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", "")
	require.Zero(t, baize(t, "context", "set", "a", "--etcd-endpoints", "http://a:1").code)
	require.FileExists(t, filepath.Join(dir, ".config", "baize", "config.yaml"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "xdg"))
	require.Zero(t, baize(t, "context", "set", "a", "--etcd-endpoints", "http://a:1").code)
	require.FileExists(t, filepath.Join(dir, "xdg", "baize", "config.yaml"))
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "")
	assert.Equal(t, cli.ExitUsage, baize(t, "context", "list").code)
	_, item := configOf(t)
	assert.NotEmpty(t, item.Settings)
}

// An etcd that wants a certificate, a user and a password is reached with a context
// alone, and on a node with the settings file alone; the commands of
// docs/settings.md make contexts.
func TestCredentials(t *testing.T) {
	page, err := os.ReadFile("../../../docs/settings.md")
	require.NoError(t, err)
	server := etcdtest.StartTLS(t, topology.DefaultPrefix)
	s := newShell(t)
	t.Setenv("BAIZE_ETCD_TIMEOUT", testkit.Patience.String())
	t.Chdir(t.TempDir())
	for name, from := range map[string]string{
		"ca.crt": server.CAFile, "me.crt": server.CertFile, "me.key": server.KeyFile,
	} {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		write(t, name, string(b))
	}
	run := func(line string) result {
		line, file, redirected := strings.Cut(line, " <")
		in := ""
		if redirected {
			require.Equal(t, "password.txt", file)
			in = server.Password + "\n"
		}
		var out, errOut bytes.Buffer
		code := Run(t.Context(), strings.Fields(line), Streams{strings.NewReader(in), &out, &errOut})
		return result{code, out.String(), errOut.String()}
	}
	count := 0
	for l := range strings.Lines(string(page)) {
		if line, ok := strings.CutPrefix(l, "    baize "); ok && strings.HasPrefix(line, "context ") {
			res := run(strings.TrimSpace(line))
			assert.Equal(t, cli.ExitOK, res.code, "%s: %s", line, res.err)
			count++
		}
	}
	assert.Equal(t, 3, count)
	for _, line := range []string{
		"context set prod --etcd-endpoints " + server.Endpoint + " --etcd-certfile me.crt --etcd-keyfile me.key",
		"context set prod --etcd-username " + server.Username + " --password-stdin <password.txt",
		"network create blue --subnet 10.1.0.0/16",
		"--context prod network show blue",
	} {
		res := run(line)
		require.Equal(t, cli.ExitOK, res.code, "%s: %s", line, res.err)
	}
	require.Zero(t, run("context use --none").code)
	write(t, s.settings, "BAIZE_ETCD_ENDPOINTS="+server.Endpoint+"\nBAIZE_ETCD_CAFILE="+server.CAFile+
		"\nBAIZE_ETCD_CERTFILE="+server.CertFile+"\nBAIZE_ETCD_KEYFILE="+server.KeyFile+
		"\nBAIZE_ETCD_USER=\""+server.Username+":"+server.Password+"\"\n")
	res := run("network show blue")
	assert.Equal(t, cli.ExitOK, res.code, res.err)
	// Another etcd does not get them.
	res = run("network list --etcd-timeout 300ms --etcd-endpoints " + etcdtest.Start(t))
	assert.Equal(t, cli.ExitOK, res.code, res.err)
}
