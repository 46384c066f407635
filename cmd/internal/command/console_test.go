package command

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

// The command serves what etcd has, says where, and ends as it is meant to.
func TestConsole(t *testing.T) {
	etcd := etcdtest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, []string{"console", "--listen", "127.0.0.1:0", "--etcd-endpoints", etcd, "--socket", "/nonexistent"},
			Streams{strings.NewReader(""), w, io.Discard})
		_ = w.Close()
	}()
	line := make([]byte, 200)
	n, err := out.Read(line)
	require.NoError(t, err)
	url := regexp.MustCompile(`^console: (http://127\.0\.0\.1:\d+/)\n`).FindStringSubmatch(string(line[:n]))
	require.NotNil(t, url, string(line[:n]))
	require.Zero(t, baize(t, "network", "create", "blue", "--subnet", "10.1.0.0/16", "--etcd-endpoints", etcd).code)
	require.Eventually(t, func() bool {
		resp, err := http.Get(url[1] + "api/v1/state")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(b), `"prefix":"10.1.0.0/16"`)
	}, 30*time.Second, 20*time.Millisecond)
	cancel()
	assert.Equal(t, cli.ExitOK, <-ended)
}

// What would show the cluster to everybody is refused before etcd is asked.
func TestConsoleRefuses(t *testing.T) {
	res := baize(t, "console", "--listen", "0.0.0.0:7474", "--etcd-endpoints", "http://127.0.0.1:1")
	assert.NotZero(t, res.code)
	assert.Contains(t, res.err, "give --tls-cert, --tls-key and --token-file")
	res = baize(t, "console", "--etcd-endpoints", "http://127.0.0.1:1", "--etcd-timeout", "100ms")
	assert.Equal(t, cli.ExitUnavailable, res.code)
	assert.Contains(t, res.err, "http://127.0.0.1:1")
}
