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
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
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

// A network that is removed while names are read costs the others none of theirs. What an
// engine tells between its answer's begin and its own listening is asked for again.
func TestNamesWhileANetworkGoes(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	engine := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/networks":
				_, _ = fmt.Fprint(w, `[{"Id":"gone"},{"Id":"n1"}]`)
			case "/networks/n1":
				_, _ = fmt.Fprint(w, `{"Id":"n1","Containers":{"c1":{"Name":"web","EndpointID":"e1"}}}`)
			case "/containers/c1/json":
				_, _ = fmt.Fprint(w, `{"NetworkSettings":{"Networks":{"shop":{"EndpointID":"e1"}}}}`)
			case "/events":
				if r.URL.Query().Get("since") != "" {
					_, _ = fmt.Fprint(w, `{"Action":"connect"}`)
				}
			default:
				http.Error(w, "no such network", http.StatusNotFound)
			}
		})}}
	engine.Start()
	defer engine.Close()
	p := New(nil, filepath.Join(t.TempDir(), "docker.json"), socket, quiet())
	complete, changed, err := p.readNames(t.Context())
	require.NoError(t, err)
	require.True(t, complete)
	require.True(t, changed)
	require.Equal(t, []string{"web"}, p.Called().Get().ByEndpoint["e1"])
	told := 0
	_ = p.engine.follow(t.Context(), func() { told++ })
	require.Equal(t, 2, told, "at the begin, and what came before the engine listened")
}

// Finding U13: the port of a container is named after it. An engine that does not tell in
// time costs one container's start that time, and not every one's.
func TestNameOfAContainerThatStarts(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	var asked atomic.Int64
	var hangs atomic.Bool
	over := make(chan struct{})
	engine := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if hangs.Load() {
				<-over
			}
			// As engines answer before the container is in the network.
			_, _ = fmt.Fprintf(w, `{"Id":%q,"Containers":{"ep-%s":{"Name":"web","EndpointID":%q}}}`, netID, epID, epID)
		})}}
	engine.Start()
	defer engine.Close()
	defer close(over)

	n := &node{networks: []topology.Network{blue}}
	p := New(n, filepath.Join(t.TempDir(), "docker.json"), socket, quiet())
	p.networks[netID] = network{Network: "blue"}
	join := func(id string) string {
		p.created[id] = planned{ovs.Endpoint{Name: "docker-" + id[:12], Network: "blue"}, time.Now()}
		_, refused := call(t, p.Handler(), "NetworkDriver.Join",
			`{"NetworkID":"`+netID+`","EndpointID":"`+id+`","SandboxKey":"/var/run/docker/netns/1","Options":{}}`)
		require.Empty(t, refused)
		return n.endpoints[len(n.endpoints)-1].Port
	}
	require.Equal(t, "p-web", join(epID))
	other := "f" + epID[1:]
	require.Equal(t, "p-docker-"+other[:12], join(other), "the engine does not list it")
	hangs.Store(true)
	require.Equal(t, "p-docker-"+epID[:12], join(epID))
	before := asked.Load()
	require.Equal(t, "p-docker-"+epID[:12], join(epID))
	require.Equal(t, before, asked.Load())
}
