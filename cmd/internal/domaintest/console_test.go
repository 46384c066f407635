//go:build system

package domaintest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology/fault"
)

// TestConsoleOfAnAgent checks that an agent serves the console, and that one that cannot
// be served is a fault and stops nothing else.
func TestConsoleOfAnAgent(t *testing.T) {
	t.Parallel()
	const token = "/run/console-token"
	l := labkit.Up(t, lab.Config{
		Hosts: 2, NoProof: true, AgentArgs: []string{"--console", "127.0.0.1:7474", "--console-token-file", token},
	})
	console := func() (fault.Fault, bool) {
		for _, f := range l.AgentStatus("host1").Problems {
			if f.Code == fault.PartFailed && strings.Contains(f.Item, "console") {
				return f, true
			}
		}
		return fault.Fault{}, false
	}
	l.Await("the missing token is a fault", func() (bool, string) {
		f, found := console()
		return found && strings.Contains(f.String(), token), f.String()
	})
	assert.True(t, l.AgentStatus("host1").Ready)
	l.Reaches("host1/c1", l.Endpoint("host2/c1"))

	l.Must("host1", "sh", "-c", "echo correct-horse-battery >"+token)
	get := func(path, token string) (string, error) {
		return l.Run("host1", "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/7474 && printf "GET /api/v1/`+path+` HTTP/1.0\r\n`+
			`Host: localhost\r\nAuthorization: Bearer `+token+`\r\n\r\n" >&3 && cat <&3`)
	}
	ask := func(token string) (string, error) { return get("state", token) }
	l.Await("the console has both hosts", func() (bool, string) {
		out, err := ask("correct-horse-battery")
		return err == nil && strings.Contains(out, `"name":"host2"`), out
	})
	l.Await("the fault has gone", func() (bool, string) {
		f, found := console()
		return !found, f.String()
	})
	// Who looks sees what agents, probes and doctors say of all hosts.
	stop, stream := l.Start("host1", "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/7474 && printf "GET /api/v1/stream HTTP/1.0\r\n`+
		`Host: localhost\r\nAuthorization: Bearer correct-horse-battery\r\n\r\n" >&3 && cat <&3`)
	l.Await("the panels are there", func() (bool, string) {
		out := stream.String()
		return strings.Contains(out, "event: latency\ndata: {\"hosts\":[\"host1\",\"host2\"]") &&
			strings.Contains(out, "event: findings\ndata: [{\"outcome\"") && strings.Contains(out, "event: events\ndata: [{\"at\"") &&
			strings.Contains(out, `"a":"host1","b":"host2","encap":"vxlan","ab":`), out
	})
	stop()
	// It follows packets to the other host, and says where one ends.
	to := l.Endpoint("host2/c1").IPs[0]
	out, err := get("trace?from=host1/c1&protocol=icmp&to="+to.String(), "correct-horse-battery")
	assert.NoError(t, err)
	for _, want := range []string{`"delivered":true`, `"node":"host1"`, `"node":"host2"`} {
		assert.Contains(t, out, want)
	}
	out, err = get("trace?from=host1/c1&protocol=icmp&to="+to.Next().String(), "correct-horse-battery")
	assert.NoError(t, err)
	assert.Contains(t, out, `"delivered":false`)
	out, err = get("trace?from=host1/nobody&protocol=icmp&to="+to.String(), "correct-horse-battery")
	assert.NoError(t, err)
	assert.Contains(t, out, "there is none of that name")
	out, err = ask("guess")
	assert.NoError(t, err)
	assert.Contains(t, out, "401 Unauthorized")
}
