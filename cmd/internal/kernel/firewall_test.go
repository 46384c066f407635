package kernel_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/kernel"
)

func TestChainChange(t *testing.T) {
	const docker = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n"
	rules := []string{"-i bn-routed -j ACCEPT", "-o bn-routed -j ACCEPT"}
	ours := "-N BAIZE-FORWARD\n-A BAIZE-FORWARD -i bn-routed -j ACCEPT\n-A BAIZE-FORWARD -o bn-routed -j ACCEPT\n"
	written := "*filter\n:BAIZE-FORWARD - [0:0]\n" +
		"-A BAIZE-FORWARD -i bn-routed -j ACCEPT\n-A BAIZE-FORWARD -o bn-routed -j ACCEPT\n"
	for name, c := range map[string]struct {
		have  string
		rules []string
		want  string
	}{
		"nothing":            {"-P FORWARD ACCEPT\n", nil, ""},
		"first":              {"-P FORWARD ACCEPT\n", rules, written + "-I FORWARD 1 -j BAIZE-FORWARD\nCOMMIT\n"},
		"behind DOCKER-USER": {docker, rules, written + "-I FORWARD 2 -j BAIZE-FORWARD\nCOMMIT\n"},
		"there": {
			strings.Replace(docker, "-A FORWARD -j DOCKER-I", "-A FORWARD -j BAIZE-FORWARD\n-A FORWARD -j DOCKER-I", 1) + ours,
			rules, "",
		},
		"Docker came later": {
			docker + "-A FORWARD -j BAIZE-FORWARD\n" + ours, rules,
			written + "-D FORWARD -j BAIZE-FORWARD\n-I FORWARD 2 -j BAIZE-FORWARD\nCOMMIT\n",
		},
		"another rule": {
			"-A FORWARD -j BAIZE-FORWARD\n" + ours, rules[:1],
			strings.Replace(written, "-A BAIZE-FORWARD -o bn-routed -j ACCEPT\n", "", 1) +
				"-D FORWARD -j BAIZE-FORWARD\n-I FORWARD 1 -j BAIZE-FORWARD\nCOMMIT\n",
		},
		"removed": {
			"-A FORWARD -j BAIZE-FORWARD\n" + ours, nil,
			"*filter\n:BAIZE-FORWARD - [0:0]\n-D FORWARD -j BAIZE-FORWARD\n-X BAIZE-FORWARD\nCOMMIT\n",
		},
	} {
		assert.Equal(t, c.want, kernel.AcceptChain.Change(c.have, c.rules), name)
	}
}

func TestChainForces(t *testing.T) {
	const none = "-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n-A INPUT -j DROP\n"
	assert.False(t, kernel.AcceptChain.Forces(""))
	assert.False(t, kernel.AcceptChain.Forces(none))
	assert.True(t, kernel.AcceptChain.Forces(none+"-A FORWARD -j REJECT\n"))
	assert.False(t, kernel.AcceptChain.Forces(none+"-A FORWARD -j BAIZE-FORWARD\n"), "our own")
	assert.True(t, kernel.AcceptChain.Forces("-P INPUT ACCEPT\n-P FORWARD DROP\n"))
}
