package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

func contextsFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), mode))
	require.NoError(t, os.Chmod(file, mode))
	return file
}

const twoContexts = `# of the team
current-context: prod
contexts:
  prod: # three members
    etcd-endpoints:
      - https://a:2379
      - https://b:2379
    etcd-username: ops
    etcd-password: secret
  lab:
    etcd-endpoints: http://c:2379
`

func TestReadContexts(t *testing.T) {
	file := contextsFile(t, twoContexts, 0o600)
	c, err := ReadContexts(file)
	require.NoError(t, err)
	assert.Equal(t, "prod", c.Current)
	assert.Equal(t, []string{"prod", "lab"}, c.Names())
	assert.False(t, c.Exposed())
	prod, ok := c.Find("prod")
	require.True(t, ok)
	assert.Equal(t, map[string]Value{
		EtcdEndpoints: {"https://a:2379,https://b:2379", "prod (" + file + ":5)"},
		EtcdUsername:  {"ops", "prod (" + file + ":8)"},
		EtcdPassword:  {"secret", "prod (" + file + ":9)"},
	}, prod.Values)
	_, ok = c.Find("none")
	assert.False(t, ok)

	c, err = ReadContexts(filepath.Join(t.TempDir(), "none.yaml"))
	require.NoError(t, err)
	assert.Empty(t, c.List)
	for _, text := range []string{"", "# nothing\n", "{}", "null", "contexts:\n", "current-context:\n"} {
		_, err := ReadContexts(contextsFile(t, text, 0o600))
		require.NoError(t, err, text)
	}
}

// A password that others can read is to be warned of; without one there is
// nothing to hide.
func TestExposed(t *testing.T) {
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true} {
		c, err := ReadContexts(contextsFile(t, twoContexts, mode))
		require.NoError(t, err)
		assert.Equal(t, want, c.Exposed(), "%o", mode)
	}
	c, err := ReadContexts(contextsFile(t, "contexts: {lab: {etcd-endpoints: a}}", 0o644))
	require.NoError(t, err)
	assert.False(t, c.Exposed())
}

func TestMalformedContexts(t *testing.T) {
	for text, want := range map[string]string{
		"contexts:\n  a: [\n":                                  ":", // the library says which line
		"contexts:\n\tprod: x\n":                               ":2",
		"contexts: {}\n---\n{}\n":                              ":2",
		"- a\n":                                                ":1",
		"contexts:\n  prod: x\n":                               ":2",
		"contexts: [a]\n":                                      ":1",
		"current-context: [a]\n":                               ":1",
		"contxts: {}\n":                                        ":1",
		"contexts:\n  a b: {}\n":                               ":2",
		"contexts:\n  a: {}\n  b: {}\n  a: {}\n":               ":4",
		"contexts:\n  a:\n    etcd-endpoint: http://a:1\n":     ":3",
		"contexts:\n  a:\n    etcd-prefix: [x]\n":              ":3",
		"contexts:\n  a:\n    etcd-endpoints:\n    - {b: c}\n": ":4",
	} {
		file := contextsFile(t, text, 0o600)
		_, err := ReadContexts(file)
		require.ErrorIs(t, err, topology.ErrInvalid, text)
		assert.Contains(t, err.Error(), file+want, text)
	}
}

func TestChangeContexts(t *testing.T) {
	file := contextsFile(t, twoContexts, 0o644)
	change := func(f func(c *Contexts)) string {
		c, err := ReadContexts(file)
		require.NoError(t, err)
		f(c)
		require.NoError(t, c.Write())
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		return string(b)
	}
	assert.Equal(t, twoContexts, change(func(*Contexts) {}), "comments stay")
	text := change(func(c *Contexts) {
		c.Set("prod", map[string]string{EtcdEndpoints: "https://d:1", EtcdPassword: "", EtcdPrefix: "/x"})
	})
	assert.Equal(t, strings.NewReplacer(
		"      - https://a:2379\n      - https://b:2379\n", "      - https://d:1\n", "    etcd-password: secret\n",
		"    etcd-prefix: /x\n",
	).Replace(twoContexts), text)
	change(func(c *Contexts) { c.Set("new", map[string]string{EtcdEndpoints: "http://e:1, http://f:1"}) })
	c, err := ReadContexts(file)
	require.NoError(t, err)
	n, _ := c.Find("new")
	assert.Equal(t, "http://e:1,http://f:1", n.Values[EtcdEndpoints].Text)
	// A value that YAML would take for something else comes back as it was.
	change(func(c *Contexts) { c.Set("new", map[string]string{EtcdUsername: "0x10", EtcdPassword: "a: #b'\n"}) })
	c, err = ReadContexts(file)
	require.NoError(t, err)
	n, _ = c.Find("new")
	assert.Equal(t, "0x10", n.Values[EtcdUsername].Text)
	assert.Equal(t, "a: #b'\n", n.Values[EtcdPassword].Text)
	change(func(c *Contexts) { c.Use("lab") })
	assert.Contains(t, change(func(c *Contexts) { c.Delete("prod") }), "current-context: lab\n")
	assert.NotContains(t, change(func(c *Contexts) { c.Delete("lab") }), "current-context")
}

// A file that is a link into somebody's own repository stays one; a directory that
// is missing is made, for its owner alone.
func TestWriteContexts(t *testing.T) {
	dir := t.TempDir()
	target := contextsFile(t, twoContexts, 0o600)
	link := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.Symlink(target, link))
	c, err := ReadContexts(link)
	require.NoError(t, err)
	c.Use("lab")
	require.NoError(t, c.Write())
	info, err := os.Lstat(link)
	require.NoError(t, err)
	assert.Equal(t, os.ModeSymlink, info.Mode().Type())
	b, err := os.ReadFile(target)
	require.NoError(t, err)
	assert.Contains(t, string(b), "current-context: lab")

	c, err = ReadContexts(filepath.Join(dir, "new", "baize", "config.yaml"))
	require.NoError(t, err)
	c.Set("a", map[string]string{EtcdEndpoints: "http://a:1"})
	require.NoError(t, c.Write())
	info, err = os.Stat(filepath.Join(dir, "new", "baize"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

// The file in docs/settings.md is one.
func TestContextsInTheDocument(t *testing.T) {
	var page testkit.Block
	for _, b := range testkit.Blocks(t, "../../../docs/settings.md") {
		if b.Name == "config.yaml" {
			page = b
		}
	}
	c, err := ReadContexts(contextsFile(t, page.Text(), 0o600))
	require.NoError(t, err)
	assert.Equal(t, "prod", c.Current)
	assert.Equal(t, []string{"prod", "lab"}, c.Names())
	for _, n := range c.List {
		assert.NotEmpty(t, n.Values[EtcdEndpoints].Text)
	}
}
