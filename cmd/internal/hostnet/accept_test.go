package hostnet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMasqRules(t *testing.T) {
	p := netip.MustParsePrefix
	assert.Empty(t, masqRules(netip.Prefix{}, nil))
	assert.Equal(t, []string{
		"-s 10.1.0.0/16 -d 10.1.0.0/16 -j RETURN", "-d 10.1.5.0/24 -j RETURN",
		"-s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE", "-d 10.1.0.0/16 -j MASQUERADE",
	}, masqRules(p("10.1.0.0/16"), []netip.Prefix{p("10.1.5.0/24")}))
	// The nat table has no chain of the operator's to come after.
	assert.Equal(
		t,
		"*nat\n:BAIZE-MASQ - [0:0]\n-A BAIZE-MASQ -d fd00::/48 -j RETURN\n-I POSTROUTING 1 -j BAIZE-MASQ\nCOMMIT\n",
		masqChain.Change(
			"-P POSTROUTING ACCEPT\n-A POSTROUTING -s 10.1.5.0/24 ! -o docker0 -j MASQUERADE\n",
			[]string{"-d fd00::/48 -j RETURN"},
		),
	)
}
