package hostnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAcceptChange(t *testing.T) {
	const docker = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n"
	rules := []string{"-i bn-routed -j ACCEPT", "-o bn-routed -j ACCEPT"}
	ours := "-N BAIZE-FORWARD\n-A BAIZE-FORWARD -i bn-routed -j ACCEPT\n-A BAIZE-FORWARD -o bn-routed -j ACCEPT\n"
	written := "*filter\n:BAIZE-FORWARD - [0:0]\n-A BAIZE-FORWARD -i bn-routed -j ACCEPT\n-A BAIZE-FORWARD -o bn-routed -j ACCEPT\n"
	for name, c := range map[string]struct {
		have  string
		rules []string
		want  string
	}{
		"nothing":            {"-P FORWARD ACCEPT\n", nil, ""},
		"first":              {"-P FORWARD ACCEPT\n", rules, written + "-I FORWARD 1 -j BAIZE-FORWARD\nCOMMIT\n"},
		"behind DOCKER-USER": {docker, rules, written + "-I FORWARD 2 -j BAIZE-FORWARD\nCOMMIT\n"},
		"there":              {strings.Replace(docker, "DOCKER-USER\n-A FORWARD -j DOCKER-I", "DOCKER-USER\n-A FORWARD -j BAIZE-FORWARD\n-A FORWARD -j DOCKER-I", 1) + ours, rules, ""},
		"Docker came later": {
			docker + "-A FORWARD -j BAIZE-FORWARD\n" + ours, rules,
			written + "-D FORWARD -j BAIZE-FORWARD\n-I FORWARD 2 -j BAIZE-FORWARD\nCOMMIT\n",
		},
		"another rule": {"-A FORWARD -j BAIZE-FORWARD\n" + ours, rules[:1], strings.Replace(written, "-A BAIZE-FORWARD -o bn-routed -j ACCEPT\n", "", 1) + "-D FORWARD -j BAIZE-FORWARD\n-I FORWARD 1 -j BAIZE-FORWARD\nCOMMIT\n"},
		"removed":      {"-A FORWARD -j BAIZE-FORWARD\n" + ours, nil, "*filter\n:BAIZE-FORWARD - [0:0]\n-D FORWARD -j BAIZE-FORWARD\n-X BAIZE-FORWARD\nCOMMIT\n"},
	} {
		assert.Equal(t, c.want, acceptChain.change(c.have, c.rules), name)
	}
}

func TestForwards(t *testing.T) {
	const none = "-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n-N DOCKER-USER\n-A INPUT -j DROP\n"
	assert.False(t, forwards(""))
	assert.False(t, forwards(none))
	assert.True(t, forwards(none+"-A FORWARD -j REJECT\n"))
	assert.True(t, forwards("-P INPUT ACCEPT\n-P FORWARD DROP\n"))
}

func TestMasqRules(t *testing.T) {
	p := netip.MustParsePrefix
	assert.Empty(t, masqRules(netip.Prefix{}, nil))
	assert.Equal(t, []string{
		"-s 10.1.0.0/16 -d 10.1.0.0/16 -j RETURN", "-d 10.1.5.0/24 -j RETURN",
		"-s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE", "-d 10.1.0.0/16 -j MASQUERADE",
	}, masqRules(p("10.1.0.0/16"), []netip.Prefix{p("10.1.5.0/24")}))
	// The nat table has no chain of the operator's to come after.
	assert.Equal(t, "*nat\n:BAIZE-MASQ - [0:0]\n-A BAIZE-MASQ -d fd00::/48 -j RETURN\n-I POSTROUTING 1 -j BAIZE-MASQ\nCOMMIT\n",
		masqChain.change("-P POSTROUTING ACCEPT\n-A POSTROUTING -s 10.1.5.0/24 ! -o docker0 -j MASQUERADE\n", []string{"-d fd00::/48 -j RETURN"}))
}
