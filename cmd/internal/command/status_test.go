package command

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology/fault"
)

// The agent knows since when; what is computed here from etcd does not.
func TestStatusShowsAFaultOnce(t *testing.T) {
	f := fault.Fault{Code: fault.RecordConflict, Item: "networks/red", What: "VNI 100 is used by network blue already"}
	seen := f
	seen.Since = time.Now()
	item := statusItem{}
	item.add(seen)
	item.add(f)
	require.Equal(t, []fault.Fault{seen}, item.Problems)
}

// The status is watched as listings are: it follows etcd and the agent, also while
// neither answers, and ends with Ctrl-C.
func TestStatusWatch(t *testing.T) {
	etcd(t)
	f := &fakeAgent{status: healthy()}
	sock := filepath.Join(t.TempDir(), "agent.sock")
	t.Setenv("BAIZE_SOCKET", sock)
	stop := f.serveAt(t, sock)
	tty, seen, ended := terminalSized(t, pty.Winsize{Rows: 40, Cols: 120}, nil, "status", "--watch")
	wait := func(parts ...string) {
		t.Helper()
		testkit.Await(t, strings.Join(parts, ", "), func() (bool, string) {
			drawings := strings.Split(seen(), "\x1b[H")
			last := drawings[len(drawings)-1]
			for _, p := range parts {
				if !strings.Contains(last, p) {
					return false, last
				}
			}
			return true, ""
		})
	}
	wait("Node host1: \x1b[32mready\x1b[0m", "0 networks", "No problems.")
	require.Equal(t, 0, baize(t, "network", "create", "green", "--subnet", "10.3.0.0/16").code)
	wait("1 network")
	stop()
	wait("its agent does not answer", "1 network", "1 problem")
	_, err := tty.Write([]byte{3}) // Ctrl-C
	require.NoError(t, err)
	require.NoError(t, <-ended, "the way it is meant to end")
	assert.Contains(t, seen(), "\x1b[?25h", "the cursor is back")
}
