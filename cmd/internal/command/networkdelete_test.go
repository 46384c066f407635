package command

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// A network that nodes use is marked, shown as that, and goes when they let go.
func TestNetworkDeleteInUse(t *testing.T) {
	s := cluster(t)
	res := baize(t, "network", "delete", "blue", "--wait", "300ms")
	assert.Equal(t, cli.ExitConflict, res.code)
	assert.Empty(t, res.out)
	for _, text := range []string{
		"network blue waits for:", "host1   its agent has not answered", "host3   its agent does not run",
		"in use on 3 nodes", "baize network delete --force blue", "baize network delete --cancel blue",
	} {
		assert.Contains(t, res.err, text)
	}
	require.NoError(t, s.AnswerDeletion(t.Context(), "blue", "host1", []string{"container web", "docker0"}))

	assert.Regexp(t, `blue .* deleting\n`, baize(t, "network", "list").out)
	show := baize(t, "network", "show", "blue").out
	assert.Contains(t, show, "being deleted; it waits for 3 nodes")
	assert.Regexp(t, `Held by host1: +container web, docker0`, show)
	assert.Contains(t, baize(t, "network", "show", "blue", "-o", "json").out, `"deleting": "when-unused"`)
	assert.Contains(t, baize(t, "topology").out, "being deleted\n")
	status := baize(t, "status")
	assert.Equal(t, exitProblems, status.code)
	assert.Contains(t, status.out, "network blue: it is being deleted, and waits for host1 (container web, docker0)")
	assert.Contains(t, baize(t, "status", "-o", "json").out, `"BZ0207"`)
	assert.Equal(t, cli.ExitConflict, baize(t, "subnet", "reserve", "10.1.9.0/24", "--network", "blue").code)
	res = baize(t, "network", "create", "blue", "--subnet", "10.9.0.0/16")
	assert.Equal(t, cli.ExitConflict, res.code)
	assert.Contains(t, res.err, "being deleted")

	res = baize(t, "network", "delete", "blue", "--wait", "0")
	assert.Equal(t, cli.ExitOK, res.code, res.err)
	assert.Contains(t, res.out, "network blue is being deleted")

	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, node := range []string{"host1", "host2", "host3"} {
			assert.NoError(t, s.LetGo(t.Context(), "blue", node))
		}
	}()
	res = baize(t, "network", "delete", "blue")
	<-done
	if res.code != cli.ExitNotFound { // it was gone before
		assert.Equal(t, result{0, "network blue deleted\n", ""}, res)
	}
	assert.Equal(t, cli.ExitNotFound, baize(t, "network", "delete", "blue").code)
}

func TestNetworkDeleteCancel(t *testing.T) {
	s := cluster(t)
	res := baize(t, "network", "delete", "blue", "--cancel")
	assert.Equal(t, result{0, "network blue is not being deleted\n", ""}, res)
	require.Zero(t, baize(t, "network", "delete", "blue", "--wait", "0").code)
	res = baize(t, "network", "delete", "--cancel", "blue")
	require.Zero(t, res.code, res.err)
	assert.Contains(t, res.out, "network blue stays")
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	assert.Empty(t, snap.Networks["blue"].Deleting)
}

// Who interrupts the command only stops to wait: it says so, and how to keep the network.
func TestNetworkDeleteInterrupted(t *testing.T) {
	s := cluster(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() {
		defer interrupt()
		for snap, err := s.Snapshot(ctx); ctx.Err() == nil; snap, err = s.Snapshot(ctx) {
			if assert.NoError(t, err); snap.Networks["blue"].Deleting != "" {
				return
			}
		}
	}()
	var out, errOut bytes.Buffer
	code := Run(ctx, []string{"network", "delete", "blue"}, Streams{strings.NewReader(""), &out, &errOut})
	assert.Equal(t, cli.ExitInterrupted, code)
	assert.Empty(t, out.String())
	assert.Contains(t, errOut.String(), "network blue is being deleted all the same; 'baize network delete --cancel blue' keeps it")
	assert.True(t, strings.HasSuffix(errOut.String(), "baize: interrupted\n"), errOut.String())
}

// --force asks, and takes the network from agents that do not give it.
func TestNetworkDeleteForce(t *testing.T) {
	s := cluster(t)
	res := baize(t, "network", "delete", "blue", "--force", "--wait", "300ms")
	assert.Equal(t, cli.ExitOK, res.code)
	assert.Contains(t, res.out, "containers lose this interface")
	assert.Contains(t, res.out, "3, of which 1 without an agent that runs")
	assert.Contains(t, res.out, "nothing was changed")
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	assert.Empty(t, snap.Networks["blue"].Deleting)

	var out, errOut bytes.Buffer
	code := Run(t.Context(), []string{"network", "delete", "blue", "--force", "--wait", "300ms"},
		Streams{strings.NewReader("y\n"), &out, &errOut})
	assert.Equal(t, cli.ExitOK, code, errOut.String())
	assert.Contains(t, out.String(), "network blue deleted\n")
	snap, err = s.Snapshot(t.Context())
	require.NoError(t, err)
	assert.NotContains(t, snap.Networks, "blue")
	assert.Empty(t, snap.Holders("blue"))
	assert.Contains(t, snap.Networks, "red")

	// What a node that is down has is taken at once, the rest when it is given.
	require.Zero(t, baize(t, "network", "delete", "red", "--force", "--yes", "--wait", "0").code)
	snap, err = s.Snapshot(t.Context())
	require.NoError(t, err)
	assert.Equal(t, topology.DeleteNow, snap.Networks["red"].Deleting)
	for _, h := range snap.Holders("red") {
		assert.True(t, h.Alive)
	}
}

// A network that goes by itself says so.
func TestNetworkOfDockerIsShown(t *testing.T) {
	s := cluster(t)
	_, err := s.CreateNetwork(t.Context(), topology.Network{
		Name: "shop", IPv4: netip.MustParsePrefix("10.77.0.0/16"), CreatedBy: topology.CreatedByDocker,
	})
	require.NoError(t, err)
	assert.Contains(t, baize(t, "network", "show", "shop").out, "Docker; it goes with the last node that uses it")
	assert.Contains(t, baize(t, "network", "show", "shop", "-o", "json").out, `"createdBy": "docker"`)
	assert.NotContains(t, baize(t, "network", "show", "blue").out, "Docker")
}
