package agent

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/ovs"
)

// U13: endpoints appeared as docker-<id>, and what their containers are called was
// nowhere.
func TestEndpointsSayWhatTheirContainersAreCalled(t *testing.T) {
	web := names.Container{Name: "web", Service: "shop/front", Image: "nginx"}
	got := apiEndpoints([]ovs.Endpoint{
		{Name: "docker-e1", Labels: map[string]string{docker.LabelEndpoint: "e1"}},
		{Name: "docker-e2", Labels: map[string]string{docker.LabelEndpoint: "e2"}},
		{Name: "c1"},
	}, map[string]names.Container{"e1": web})
	assert.Equal(t, web, names.Container{Name: got[0].Container, Service: got[0].Service, Image: got[0].Image})
	for _, e := range got[1:] {
		assert.Empty(t, e.Container+e.Service+e.Image, "%s: the engine does not know it", e.Name)
	}
	assert.Len(t, apiEndpoints(nil, nil), 0)
}
