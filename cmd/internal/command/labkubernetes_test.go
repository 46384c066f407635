package command

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/lab"
)

// labUpOf is what a lab would be made with.
func labUpOf(t *testing.T, line ...string) (cfg lab.Config, k *labKubernetes, err error) {
	t.Helper()
	r := &runner{}
	app := r.app()
	r.root = rootCommand(app)
	l, err := parseLine(r.root, append([]string{"lab", "up"}, line...))
	require.NoError(t, err)
	for _, c := range app.Commands {
		for _, s := range c.Subcommands {
			if c.Name == "lab" && s.Name == "up" {
				s.Action = func(ctx *ucli.Context) (err error) {
					if cfg, err = r.labUpConfig(ctx); err == nil {
						k, err = r.labKubernetesOf(ctx, &cfg)
					}
					return err
				}
			}
		}
	}
	err = app.RunContext(t.Context(), append([]string{app.Name}, l.args...))
	return cfg, k, err
}

// A lab with a cluster makes its network itself, and what is missing is named before
// anything is made.
func TestLabKubernetes(t *testing.T) {
	_, k, err := labUpOf(t, "--hosts", "2")
	require.NoError(t, err)
	assert.Nil(t, k)

	for _, line := range [][]string{
		{"--kubernetes", "--docker"}, {"--kubernetes", "--transport", "route"}, {"--kubernetes", "--flannel"},
	} {
		_, _, err := labUpOf(t, line...)
		require.ErrorContains(t, err, "leave "+line[1]+" out")
	}
	_, _, err = labUpOf(t, "--dual-stack")
	require.ErrorContains(t, err, "goes with --kubernetes")

	_, _, err = labUpOf(t, "--ipv6-only")
	require.ErrorContains(t, err, "goes with --kubernetes")
	_, _, err = labUpOf(t, "--kubernetes", "--ipv6-only", "--dual-stack")
	require.ErrorContains(t, err, "either --dual-stack or --ipv6-only")

	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	_, _, err = labUpOf(t, "--kubernetes")
	require.ErrorContains(t, err, "make lab-kubernetes")
	program := filepath.Join(cache, "baize/kubernetes/v1.34.3/kubernetes")
	require.NoError(t, os.MkdirAll(filepath.Dir(program), 0o755))
	require.NoError(t, os.WriteFile(program, nil, 0o755))
	t.Setenv("PATH", t.TempDir())
	cfg, k, err := labUpOf(t, "--kubernetes", "--dual-stack")
	require.ErrorContains(t, err, "apt-get install busybox-static containerd")
	assert.Equal(t, program, k.options.Program)
	assert.True(t, k.options.Dual)
	assert.True(t, k.options.OwnNetworks, "the lab has etcd")
	assert.Equal(t, -1, cfg.Endpoints)
	assert.True(t, cfg.NoProof)
}
