package packagetest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
)

// What systemd and NetworkManager leave alone are the devices that there are (S11).
// Tunnel ports are none: in the kernel they are Open vSwitch's own devices.
func TestDevicesLeftAlone(t *testing.T) {
	ours := []string{hostnet.HostPrefix + "*", kernel.PortPrefix + "*", ovs.DefaultBridge}
	for file, line := range map[string]string{
		"60-baize.link":    `(?m)^OriginalName=(.*)$`,
		"60-baize.network": `(?m)^Name=(.*)$`,
		"60-baize-nm.conf": `(?m)^unmanaged-devices\+=(.*)$`,
	} {
		text, err := os.ReadFile(filepath.Join("../../../scripts/packages", file))
		require.NoError(t, err)
		match := regexp.MustCompile(line).FindSubmatch(text)
		require.NotNil(t, match, file)
		names := strings.FieldsFunc(string(match[1]), func(r rune) bool { return r == ' ' || r == ';' })
		for i, name := range names {
			names[i] = strings.TrimPrefix(name, "interface-name:")
		}
		assert.ElementsMatch(t, ours, names, file)
	}
}
