package docker

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/names"
)

// An engine that is too busy to tell of a container is asked again, although it
// says nothing more.
func TestNamesOfABusyEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	var asked atomic.Int64
	over := make(chan struct{})
	engine := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			answer := ""
			switch r.URL.Path {
			case "/events":
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				<-over
			case "/networks":
				answer = `[{"Id":"n1"}]`
			case "/networks/n1":
				answer = `{"Id":"n1","Containers":{"c1":{"Name":"web","EndpointID":"e1"}}}`
			case "/containers/c1/json":
				if asked.Add(1) == 1 {
					http.Error(w, "busy", http.StatusServiceUnavailable)
					return
				}
				answer = `{"NetworkSettings":{"Networks":{"shop":{"EndpointID":"e1","Aliases":["store"]}}},` +
					`"Config":{"Image":"nginx:1","Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"front"}}}`
			}
			_, _ = fmt.Fprint(w, answer)
		})}}
	engine.Start()
	defer engine.Close()
	defer close(over)

	p := New(nil, filepath.Join(t.TempDir(), "docker.json"), socket, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.nameLoop(ctx)
	}()
	require.Eventually(t, func() bool { return len(p.Called().Get().ByEndpoint["e1"]) > 0 }, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, []string{"store", "web"}, p.Called().Get().ByEndpoint["e1"])
	require.Equal(t, names.Container{Name: "web", Service: "shop/front", Image: "nginx:1"},
		p.Called().Get().Containers["e1"], "U13: what people call it")
	cancel()
	<-done
}
