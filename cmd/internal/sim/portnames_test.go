package sim_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// started is what an engine asks of a node for a container that starts: an address, an
// endpoint, its device. It returns the endpoint as the node has it then.
func started(t *testing.T, n *sim.Node, endpoint, container string) ovs.Endpoint {
	t.Helper()
	return joined(t, n, promised(t, n, endpoint), container)
}

// promised is what an engine asks before a container joins: an address and an endpoint.
func promised(t *testing.T, n *sim.Node, endpoint string) ovs.Endpoint {
	t.Helper()
	a, err := n.Attach().Reserve(t.Context(), attach.Reservation{Network: "blue", Family: topology.IPv4})
	require.NoError(t, err)
	e := ovs.Endpoint{Name: endpoint, Network: "blue", IPs: []netip.Addr{a}, MAC: topology.MACOf(a)}
	require.NoError(t, n.Attach().Promise(t.Context(), e))
	return e
}

func joined(t *testing.T, n *sim.Node, e ovs.Endpoint, container string) ovs.Endpoint {
	t.Helper()
	_, err := n.Attach().HandOver(t.Context(), e, container)
	require.NoError(t, err)
	for _, have := range n.Attach().Endpoints() {
		if have.Name == e.Name {
			require.Contains(t, n.Devices(), have.Port)
			return have
		}
	}
	t.Fatalf("the node has no endpoint %s", e.Name)
	return e
}

// Finding U13: a container's port has its name.
func TestPortNamedAfterContainer(t *testing.T) {
	scenario(t, "and no two have one name", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		ports := map[string]bool{}
		for endpoint, container := range map[string]string{
			"docker-1": "web", "docker-2": "web", "docker-3": "accounting-db-1", "docker-4": "accounting-db-2",
			"docker-5": "twelve-chars-and-more", "docker-6": "twelve-chars-and-less", "docker-7": "", "docker-8": "a/b",
		} {
			e := started(t, n, endpoint, container)
			require.LessOrEqual(t, len(e.Port), 15)
			require.False(t, ports[e.Port], "two ports are called %s", e.Port)
			ports[e.Port] = true
		}
		require.True(t, ports["bz-web"], "%v", ports)
		w.Settle()
		require.Empty(t, n.Faults())
	})
	scenario(t, "again after a restart of the container", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		for _, endpoint := range []string{"docker-1", "docker-2", "docker-3"} {
			e := started(t, n, endpoint, "web")
			require.Equal(t, "bz-web", e.Port)
			require.NoError(t, n.Attach().Detach(t.Context(), e))
			n.Attach().Forget(ovs.Endpoint{Name: endpoint, Network: "blue"})
			require.NotContains(t, n.Devices(), "bz-web")
		}
		w.Settle()
		require.Empty(t, n.Faults())
	})
	scenario(t, "whatever agent was killed meanwhile", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		e := started(t, n, "docker-1", "web")
		n.Kill()
		n.Start()
		w.Settle()
		// The engine never got the answer, and asks again.
		e.Port = ""
		again := joined(t, n, e, "web")
		require.Equal(t, "bz-web", again.Port)
		require.Len(t, n.Devices(), 2, "its own, and that of the namespace")
		// It gives up: nothing is left.
		require.NoError(t, n.Attach().Detach(t.Context(), again))
		n.Attach().Forget(e)
		w.Settle()
		require.Len(t, n.Devices(), 1)
		require.Empty(t, n.Attach().Pending())
		require.Empty(t, n.Faults())
	})
	scenario(t, "also of a device that a killed agent left", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		e := promised(t, n, "docker-1")
		n.Switch.StopOVSDB()
		gaveUp := refusedLater(t, n, e)
		synctest.Wait()
		require.Contains(t, n.Devices(), "bz-web")
		n.Kill()
		<-gaveUp
		n.Switch.StartOVSDB()
		n.Start()
		w.Settle()
		givesUp(t, n, e)
		w.Settle()
		require.NotContains(t, n.Devices(), "bz-web")
		require.Empty(t, n.Attach().Pending())
		require.Empty(t, n.Faults())
	})
	scenario(t, "also of one whose port was not in the file yet", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		e := promised(t, n, "docker-1")
		n.SetDisk(time.Second)
		n.Switch.StopOVSDB()
		gaveUp := refusedLater(t, n, e)
		for !slices.Contains(n.Devices(), "bz-web") {
			time.Sleep(10 * time.Millisecond)
		}
		n.Kill() // that it has a port is not written yet
		<-gaveUp
		n.SetDisk(0)
		n.Switch.StartOVSDB()
		n.Start()
		w.Settle()
		givesUp(t, n, e)
		w.Settle()
		require.NotContains(t, n.Devices(), "bz-web")
		require.Empty(t, n.Faults())
	})
}

// refusedLater hands an endpoint over, which gets nowhere, and returns what is closed then.
func refusedLater(t *testing.T, n *sim.Node, e ovs.Endpoint) <-chan struct{} {
	gaveUp := make(chan struct{})
	go func() {
		defer close(gaveUp)
		_, err := n.Attach().HandOver(t.Context(), e, "web")
		assert.Error(t, err)
	}()
	return gaveUp
}

// givesUp is an engine that deletes an endpoint whose container does not start.
func givesUp(t *testing.T, n *sim.Node, e ovs.Endpoint) {
	t.Helper()
	for _, have := range n.Attach().Endpoints() {
		if have.Name == e.Name {
			require.NoError(t, n.Attach().Detach(t.Context(), have))
		}
	}
	n.Attach().Forget(e)
}

// Ports of containers of other engines have their names, too (U13): of a pod, of a container
// of Podman's, of one whose runtime has an alias or a short ID for it.
func TestPortNamedAfterAttachment(t *testing.T) {
	now := hostnet.SinceBoot()
	ask := func(t *testing.T, n *sim.Node, a api.Attachment, name string, aliases []string, began int64) (api.Endpoint, error) {
		return n.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Network: "blue", Netns: "/run/netns/" + a.Container, Attachment: &a, Began: began, Container: name, Aliases: aliases,
		})
	}
	scenario(t, "whatever its engine tells", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		for _, x := range []struct {
			container, name string
			aliases         []string
			want            string
		}{
			{"0123456789abcdef", "default/web", nil, "bz-web"},
			{"0123456789abcdee", "other/web", nil, "bz-[a-z2-7]{6}-web"},
			{"0123456789abcded", "podmans", []string{"x"}, "bz-podmans"},
			{"0123456789abcdec", "shop/front-7d4b9c-x2vqp", nil, "bz-[a-z2-7]{6}-x2vqp"},
			{"0123456789abcdeb", "", []string{"front", "Web"}, "bz-front"},
			{"ctr-one", "", nil, "bz-ctr-one"},
			{"0123456789abcdea", "", nil, "bz[0-9a-f]{11}"},
		} {
			e, err := ask(t, n, of(x.container), x.name, x.aliases, now)
			require.NoError(t, err)
			require.Regexp(t, "^"+x.want+"$", e.Port)
			require.Contains(t, n.Devices(), e.Port)
			found, err := n.Agent().CheckAttachment(t.Context(), of(x.container))
			require.NoError(t, err)
			require.Equal(t, e.Port, found.Port)
			_, err = ask(t, n, of(x.container), x.name, x.aliases, now)
			require.ErrorIs(t, err, topology.ErrExists)
		}
		w.Settle()
		require.Empty(t, n.Faults())
	})
	scenario(t, "again after a restart of the container, and of the agent", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		before := len(n.Devices())
		for i := range int64(3) {
			e, err := ask(t, n, of("c1"), "shop/web", nil, now+10*i)
			require.NoError(t, err)
			require.Equal(t, "bz-web", e.Port)
			n.Kill()
			n.Start()
			w.Settle()
			unplug(t, n, "c1", now+10*i+1)
			require.Len(t, n.Devices(), before)
		}
	})
	scenario(t, "not where plugins could not find it", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		n.OldKernel()
		before := len(n.Devices())
		e, err := ask(t, n, of("c1"), "shop/web", nil, now)
		require.NoError(t, err)
		require.Equal(t, hostnet.HostIfname("blue/"+e.Name), e.Port)
		require.Empty(t, n.Attach().Pending())
		unplug(t, n, "c1", now+1)
		w.Settle()
		require.Len(t, n.Devices(), before)
	})
	scenario(t, "it ends without an agent", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		e, err := ask(t, n, of("c1"), "shop/web", nil, now)
		require.NoError(t, err)
		n.Stop()
		n.RemoveDevice(hostnet.HostIfname("blue/" + e.Name)) // as plugins do
		require.NotContains(t, n.Devices(), "bz-web")
		n.Start()
		w.Settle()
		require.Zero(t, count(t, n))
		again, err := ask(t, n, of("c1"), "shop/web", nil, now+1)
		require.NoError(t, err)
		require.Equal(t, "bz-web", again.Port)
		require.Equal(t, e.IPs, again.IPs)
	})
}

// Ports of endpoints that people add have the endpoints' names (U13).
func TestPortNamedAfterEndpoint(t *testing.T) {
	ask := func(t *testing.T, n *sim.Node, network, name string) (api.Endpoint, error) {
		t.Helper()
		return n.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Network: network, Netns: "/run/netns/" + name, Name: name,
		})
	}
	scenario(t, "and no two have one name", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		require.NoError(t, w.CreateNetwork("red"))
		w.Settle()
		require.Equal(t, "bz-web", started(t, n, "docker-1", "web").Port)
		for _, x := range []struct{ network, name, want string }{
			{"blue", "db", "bz-db"},
			{"red", "db", "bz-[a-z2-7]{6}-db"},
			{"blue", "web", "bz-[a-z2-7]{6}-web"},
			{"blue", "twelve.chars", "bz-twelve.chars"},
			{"blue", "accounting-db-1", "bz-[a-z2-7]{6}-db-1"},
		} {
			e, err := ask(t, n, x.network, x.name)
			require.NoError(t, err)
			require.Regexp(t, "^"+x.want+"$", e.Port)
			require.LessOrEqual(t, len(e.Port), 15)
			require.Contains(t, n.Devices(), e.Port)
			_, err = ask(t, n, x.network, x.name)
			require.ErrorIs(t, err, topology.ErrExists)
		}
		w.Settle()
		require.Empty(t, n.Faults())
	})
	scenario(t, "again after it was removed, and whatever agent runs", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		before := n.Devices()
		for range 3 {
			e, err := ask(t, n, "blue", "web")
			require.NoError(t, err)
			require.Equal(t, "bz-web", e.Port)
			n.Kill()
			n.Start()
			w.Settle()
			_, err = ask(t, n, "blue", "web")
			require.ErrorIs(t, err, topology.ErrExists)
			require.NoError(t, n.Agent().RemoveEndpoint(t.Context(), "blue/web"))
			require.Equal(t, before, n.Devices())
		}
	})
	scenario(t, "also of a device that only the kernel remembers", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		first, before := n.Wanted["blue/c-host1"], n.Devices()
		require.Equal(t, "bz-c-host1", first.Port)
		n.Kill()
		n.LoseEndpointsFile()
		n.Switch.Wipe()
		n.Start()
		w.Pass(time.Minute)
		require.Equal(t, before, n.Devices())
		require.NoError(t, n.Add("blue", "c-host1"))
		require.Equal(t, first, n.Wanted["blue/c-host1"])
		require.Equal(t, before, n.Devices())
		w.Settle()
		require.Empty(t, n.Faults())
	})
	scenario(t, "not of one that an older agent made", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		n.OldKernel() // the port of its endpoint has a name as an older agent gives it
		e, err := ask(t, n, "blue", "web")
		require.NoError(t, err)
		require.Equal(t, hostnet.HostIfname("blue/web"), e.Port)
		require.Empty(t, n.Attach().Pending())
		n.Kill()
		n.NewKernel()
		n.Start()
		w.Settle()
		list, err := n.Agent().Endpoints(t.Context())
		require.NoError(t, err)
		require.Contains(t, list, e)
		_, err = ask(t, n, "blue", "web")
		require.ErrorIs(t, err, topology.ErrExists)
		require.NoError(t, n.Agent().RemoveEndpoint(t.Context(), "blue/web"))
		e, err = ask(t, n, "blue", "web")
		require.NoError(t, err)
		require.Equal(t, "bz-web", e.Port)
		w.Settle()
		require.Empty(t, n.Faults())
	})
}
