package member

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMembersAreKnownByTheirCommandLine(t *testing.T) {
	line := func(args ...string) []byte { return []byte(strings.Join(args, "\x00") + "\x00") }
	m, ok := parseCmdline(
		line(append([]string{"/usr/bin/baize"}, initArgs("lab", "host1", "/run/baize-lab/lab/host1")...)...),
	)
	assert.True(t, ok)
	assert.Equal(t, Member{Lab: "lab", Name: "host1", Dir: "/run/baize-lab/lab/host1"}, m)
	for name, b := range map[string][]byte{
		"empty":      nil,
		"a shell":    line("sh", "-c", "baize lab host-init --lab lab --member host1 --dir /x"),
		"too long":   line("baize", "lab", "host-init", "--lab", "a", "--member", "b", "--dir", "c", "d"),
		"lab exec":   line("baize", "lab", "exec", "--lab", "a", "--member", "b", "--dir", "c"),
		"other flag": line("baize", "lab", "host-init", "--lab", "a", "--role", "b", "--dir", "c"),
	} {
		_, ok := parseCmdline(b)
		assert.False(t, ok, name)
	}
}

func TestOwnProcessIsAlive(t *testing.T) {
	assert.False(t, ended(os.Getpid()))
	letter, ppid, err := stat(os.Getpid())
	require.NoError(t, err)
	assert.Equal(t, os.Getppid(), ppid)
	assert.NotZero(t, letter)
	_, ok := memberAt(os.Getpid())
	assert.False(t, ok)
}
