package member

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestEnter(t *testing.T) {
	assert.Equal(
		t, "nsenter -t 7 -m -u -i -n -p -- ovs-vsctl x", strings.Join(Member{PID: 7}.Enter([]string{"ovs-vsctl", "x"}), " "),
	)
}

func TestEnvironmentInside(t *testing.T) {
	own := []string{"BAIZE_ETCD_ENDPOINTS=http://192.168.77.1:2379", "BAIZE_NODE=host1", "HOSTNAME=host1"}
	env := ExecEnv(
		[]string{"TERM=xterm", "PATH=/opt/bin", "BAIZE_SOCKET=/elsewhere", "OVS_RUNDIR=/x", "HOSTNAME=me", "PWD=/root"}, own,
		[]string{"A=b"},
	)
	assert.Equal(t, []string{
		"TERM=xterm", "PATH=/run/baize-lab/bin:/opt/bin:" + SystemPath, "BAIZE_ETCD_ENDPOINTS=http://192.168.77.1:2379",
		"BAIZE_NODE=host1", "HOSTNAME=host1", "A=b",
	}, env)

	get := func(k string) (string, bool) { return "C.UTF-8", k == "LANG" }
	assert.Equal(
		t, []string{"PATH=/run/baize-lab/bin:" + SystemPath, "HOME=/root", "LANG=C.UTF-8", "X=1"},
		DaemonEnv(get, []string{"X=1"}, nil),
	)
	assert.Equal(
		t, []string{"Y=1", "XY=1", "X=2"}, DaemonEnv(get, []string{"Y=1", "X=1"}, []string{"XY=1", "X=2"})[3:],
		"one's own settings go before the lab's",
	)
}
