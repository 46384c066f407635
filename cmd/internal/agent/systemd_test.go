package agent

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology/fault"
)

// neverReady is a part that the node waits for.
type neverReady struct{ part.Part }

func (neverReady) Ready() bool { return false }

func (neverReady) Faults() []fault.Fault { return nil }

// notified runs f under a manager's socket and returns what it was told first; empty
// where that is nothing until f has ended.
func notified(t *testing.T, f func(ctx context.Context)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f(ctx) }()
	b := make([]byte, 1000)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Second)))
	n, err := conn.Read(b)
	cancel()
	<-ended
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return ""
	}
	require.NoError(t, err)
	return string(b[:n])
}

// Finding R10: Docker waits no longer than it must for a node that is not ready, and as
// long as it takes where it needs the agent's file.
func TestReadyAfter(t *testing.T) {
	log := logrus.New()
	log.SetOutput(new(strings.Builder))
	a := &Agent{parts: []part.Part{neverReady{}}, pulse: part.NewPulse(), log: logrus.NewEntry(log)}
	require.Empty(t, notified(t, a.awaitReady))
	a.cfg.ReadyAfter = 10 * time.Millisecond
	told := notified(t, a.awaitReady)
	require.True(t, strings.HasPrefix(told, "READY=1\n"), told)
	require.Contains(t, told, "not ready yet")
	a.cfg.DockerBridge = "docker0"
	require.Empty(t, notified(t, a.awaitReady))
}
