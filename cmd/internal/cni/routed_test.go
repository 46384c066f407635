package cni

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What host-local is told: this host's subnets, and what the runtime wants by one way.
func TestRoutedIPAM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subnet.env")
	require.NoError(t, os.WriteFile(file, []byte("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n"+
		"FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\n"+
		"FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"), 0o600))
	const ranges = `"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:0:1::/64"}]]}`
	for name, c := range map[string]struct{ config, env, plugin, want, envLeft string }{
		"nothing": {"", "IgnoreUnknown=1", hostLocal, ranges, "IgnoreUnknown=1"},
		"CNI_ARGS": {
			"", "IP=10.244.1.9", hostLocal, `"runtimeConfig":{"ips":["10.244.1.9"]},` + ranges, "",
		},
		"args before CNI_ARGS": {
			`,"args":{"cni":{"ips":["10.244.1.8"]}},"runtimeConfig":{"bandwidth":{}}`, "IP=10.244.1.9", hostLocal,
			`"runtimeConfig":{"ips":["10.244.1.8"],"bandwidth":{}},` + ranges, "",
		},
		"a plugin of one's own": {`,"ipam":{"type":"static"}`, "", "static", `"ipam":{"type":"static"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CNI_ARGS", c.env)
			a := args(`,"subnetFile":"`+file+`"`+c.config, c.env)
			conf, err := parse(a, true)
			require.NoError(t, err)
			env, err := conf.readSubnets()
			require.NoError(t, err)
			plugin, text, err := conf.ipamConfig(a.StdinData, subnets(env))
			require.NoError(t, err)
			assert.Equal(t, c.plugin, plugin)
			assert.JSONEq(t, `{"cniVersion":"1.0.0","name":"net","type":"baize-cni","subnetFile":"`+file+`",`+c.want+`}`,
				string(text))
			assert.Equal(t, c.envLeft, os.Getenv("CNI_ARGS"))
		})
	}
}

// A file that is not there yet says "try again", and what has no meaning is refused.
func TestRoutedRefused(t *testing.T) {
	a := args(`,"subnetFile":"/nowhere/subnet.env"`, "")
	conf, err := parse(a, true)
	require.NoError(t, err)
	_, err = conf.readSubnets()
	var e *types.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, types.ErrTryAgainLater, e.Code)
	assert.Contains(t, e.Msg, "/nowhere/subnet.env")
	assert.NotEmpty(t, conf.someSubnets(), "DEL goes on without it")
	for _, key := range []string{`"network":"blue"`, `"allow":["10.1.0.0/16"]`} {
		_, err := parse(args(`,"subnetFile":"/x",`+key, ""), true)
		require.ErrorAs(t, err, &e, key)
		assert.Equal(t, types.ErrUnsupportedField, e.Code)
	}
}
