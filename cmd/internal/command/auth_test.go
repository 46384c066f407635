package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// did runs a command that must succeed.
func did(t *testing.T, args ...string) string {
	t.Helper()
	res := baize(t, args...)
	require.Equal(t, 0, res.code, "%v: %s", args, res.err)
	return res.out
}

// refusal runs a command that must be refused, and returns why.
func refusal(t *testing.T, args ...string) string {
	t.Helper()
	res := baize(t, args...)
	require.NotEqual(t, 0, res.code, "%v: %s", args, res.out)
	return res.err
}

// From an etcd that takes everything from everybody to one with roles, and back.
func TestAuth(t *testing.T) {
	cluster(t)
	dir := filepath.Join(t.TempDir(), "passwords")
	file := func(user string) string { return filepath.Join(dir, user+".password") }
	as := func(user string, args ...string) []string {
		return append(args, "--etcd-username", user, "--etcd-password-file", file(user))
	}
	assert.Contains(t, did(t, "auth", "status"), "off: etcd takes everything")
	assert.Contains(t, refusal(t, "auth", "init"), "user root is new: say --passwords DIRECTORY or --certificates")
	assert.Contains(t, refusal(t, "auth", "enable", "--yes"), "there is no user root")
	assert.Contains(t, did(t, "auth", "init", "--dry-run", "--passwords", dir),
		"grant role baize-node-host1 readwrite /baize/v1/nodes/host1\n")
	assert.NoDirExists(t, dir)
	assert.Contains(t, did(t, "auth", "status"), "host1, host2, host3", "a rehearsal has made none")

	out := did(t, "auth", "init", "--passwords", dir)
	assert.Contains(t, out, "give user host1 role baize-node-host1\n")
	assert.Contains(t, out, "authentication is off")
	for _, user := range []string{"root", "host1", "host2", "host3"} {
		info, err := os.Stat(file(user))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	assert.Contains(t, did(t, "auth", "init", "--passwords", dir), "nothing to do")
	did(t, "auth", "add", "alice", "--role", "operator", "--passwords", dir)
	did(t, "auth", "add", "bob", "--role", "reader", "--passwords", dir)
	assert.Contains(t, refusal(t, "auth", "add", "carol", "--role", "king"), "none of node, operator, reader")
	assert.Contains(t, refusal(t, "auth", "add", "root"), "everything already")
	assert.Contains(t, refusal(t, "auth", "add", "bob", "--passwords", dir), "etcd user bob", "a person is no node")

	assert.Contains(t, refusal(t, "auth", "enable", "--yes"), "--etcd-username root")
	did(t, "auth", "remove", "host3", "--yes")
	assert.Contains(t, refusal(t, as("root", "auth", "enable", "--yes")...), "host3")
	require.NoError(t, os.Remove(file("host3")))
	did(t, "auth", "add", "host3", "--passwords", dir)
	assert.Contains(t, did(t, as("root", "auth", "enable", "--dry-run")...), "before  off\n  after   on")
	assert.Contains(t, did(t, as("root", "auth", "enable", "--yes")...), "authentication is on")

	assert.Contains(t, refusal(t, "node", "list"), "etcd wants a user")
	assert.Contains(t, did(t, as("bob", "node", "list")...), "host1")
	why := refusal(t, as("bob", "network", "update", "blue", "--mtu", "1400")...)
	assert.Contains(t, why, "etcd key /baize/v1/networks/blue: permission denied: user bob may not write it")
	assert.Contains(t, why, "baize-operator")
	did(t, as("alice", "network", "update", "blue", "--mtu", "1400")...)
	did(t, as("alice", "node", "remove", "host3")...)
	assert.Contains(t, refusal(t, as("alice", "auth", "status")...), "root")
	assert.Contains(t, refusal(t, as("host1", "network", "create", "pink", "--subnet", "10.50.0.0/16")...),
		"/baize/v1/networks/pink")

	did(t, as("root", "auth", "add", "host1", "--network", "blue,red")...)
	var status authItem
	require.NoError(t, json.Unmarshal([]byte(did(t, as("root", "auth", "status", "-o", "json")...)), &status))
	assert.True(t, status.Enabled)
	assert.Empty(t, status.NodesWithoutUser)
	for _, u := range status.Users {
		if u.User == "host1" {
			assert.Contains(t, u.Rights, "readwrite /baize/v1/subnets/red/*")
			assert.NotContains(t, u.Rights, "readwrite /baize/v1/subnets/*")
		}
	}
	assert.Contains(t, refusal(t, as("root", "auth", "remove", "hots1", "--yes")...), "host1")
	did(t, as("root", "auth", "remove", "bob", "--yes")...)
	assert.Contains(t, refusal(t, as("bob", "node", "list")...), "authentication failed for user bob")
	assert.Contains(t, did(t, as("root", "auth", "disable", "--yes")...), "authentication is off")
	assert.Contains(t, did(t, "auth", "disable", "--yes"), "off already")
	did(t, "node", "list")
}

// Where an earlier run broke off, the password that it wrote down is the user's.
func TestPasswordIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "host1.password")
	first, err := passwordIn(file)
	require.NoError(t, err)
	assert.Greater(t, len(first), 20)
	again, err := passwordIn(file)
	require.NoError(t, err)
	assert.Equal(t, first, again)
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = passwordIn(file)
	require.ErrorContains(t, err, "is empty")
	assert.False(t, strings.Contains(err.Error(), first))
}

func TestAuthForFlannel(t *testing.T) {
	cluster(t)
	dir := t.TempDir()
	out := did(t, "auth", "init", "--flannel", "--passwords", dir)
	assert.Contains(t, out, "grant role baize-node-host1 readwrite /coreos.com/network/subnets/*\n")
	assert.Contains(t, out, "grant role baize-node-host1 read /coreos.com/network/*\n")
	assert.Contains(t, out, "grant role baize-operator readwrite /coreos.com/network/*\n")
	assert.Contains(t, did(t, "auth", "add", "host1"), "nothing to do", "rights elsewhere stay")
	out = did(t, "auth", "add", "host1", "--network", "blue", "--etcd-prefix", "/lab/v1", "--passwords", dir, "--user", "host1")
	assert.Contains(t, out, "give user host1 role lab-v1-node-host1")
}
