//go:build kubernetes

package kubernetes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

// TestShow is what 'baize lab up --kubernetes' gives to people: a cluster, a kubectl that
// goes into it, and nothing of both after 'baize lab down'.
func TestShow(t *testing.T) {
	baize, err := labkit.Build("baize", "../../..", "./cmd/baize")
	require.NoError(t, err)
	_, err = labkit.Build("baize-cni", "../../..", "./cmd/baize-cni")
	require.NoError(t, err)
	// Where the program was built: XDG_CACHE_HOME/baize/kubernetes/VERSION.
	env := []string{"XDG_CACHE_HOME=" + filepath.Clean(filepath.Join(filepath.Dir(program), "../../.."))}
	name := fmt.Sprintf("kube-show-%d", os.Getpid())
	down := []string{baize, "lab", "down", "--name", name}
	t.Cleanup(func() { _, _ = testkit.Try(testkit.Patience, nil, down...) })

	out, err := testkit.Try(5*time.Minute, env, baize, "lab", "up", "--name", name, "--hosts", "2", "--kubernetes")
	require.NoError(t, err, out)
	kubectl := filepath.Join(kubernetes.Dir(name), "kubectl")
	assert.Contains(t, out, kubectl+" get nodes")
	run := func(args ...string) string {
		out, err := testkit.Try(testkit.Patience, nil, append([]string{kubectl}, args...)...)
		require.NoError(t, err, out)
		return out
	}
	assert.Equal(t, 2, strings.Count(run("get", "nodes"), " Ready "))
	run("create", "deployment", "web", "--replicas", "4", "--image", kubernetes.Image, "--", "httpd", "-f", "-p", "8080")
	run("rollout", "status", "deployment/web", "--timeout=50s")

	// As it is printed.
	second := "run second --image " + kubernetes.Image + " --annotations baize.network/networks=blue -- sleep 1000000"
	assert.Contains(t, out, kubectl+" "+second)
	run(strings.Fields(second)...)
	run("wait", "--for=condition=Ready", "pod/second", "--timeout=50s")
	assert.Contains(t, run("exec", "second", "--", "ip", "addr", "show", "dev", "net1"), "inet 10.1.")

	out, err = testkit.Try(testkit.Patience, env, baize, "lab", "up", "--name", name, "--kubernetes")
	require.Error(t, err)
	assert.Contains(t, out, "it has a cluster already")
	out, err = testkit.Try(2*testkit.Patience, nil, down...)
	require.NoError(t, err, out)
	assert.NoDirExists(t, kubernetes.Dir(name))
	left, err := filepath.Glob("/sys/fs/cgroup/*/baize-" + name + "-*")
	require.NoError(t, err)
	assert.Empty(t, left)
}
