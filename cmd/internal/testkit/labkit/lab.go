package labkit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// Limits of a lab's beginning and end, on a machine that is busy with others.
const (
	upLimit   = 6 * time.Minute
	downLimit = 2 * time.Minute
)

// Lab is a lab of a test.
type Lab struct {
	*lab.Lab
	T *testing.T
}

var labs atomic.Int64

// baseDirs is how the directories of tests' labs begin; the process follows.
const baseDirs = "/run/baize-test-"

// removeAbandoned removes the labs of tests that were killed: nothing else ends
// them, and they keep the processors busy.
func removeAbandoned(baseDirs string) error {
	dirs, err := filepath.Glob(baseDirs + "*")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), downLimit)
	defer cancel()
	for _, base := range dirs {
		pid, err := strconv.Atoi(strings.TrimPrefix(base, baseDirs))
		if err != nil || unix.Kill(pid, 0) == nil {
			continue // not ours, or still at work
		}
		left, err := os.ReadDir(base) // a lab that was not up yet as well
		if err != nil {
			return err
		}
		for _, l := range left {
			if _, err := lab.Down(ctx, lab.Config{Name: l.Name(), BaseDir: base}); l.IsDir() && err != nil {
				return fmt.Errorf("remove lab %s, which a test left in %s: %w", l.Name(), base, err)
			}
		}
		if err := os.RemoveAll(base); err != nil {
			return err
		}
	}
	return nil
}

// Config completes a configuration with a name and a directory of the test's
// own, and the executable.
func Config(t *testing.T, config lab.Config) lab.Config {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	config.Name = fmt.Sprintf("t%d-%d", os.Getpid(), labs.Add(1))
	config.BaseDir = baseDirs + strconv.Itoa(os.Getpid())
	config.Binary = exe
	if raceAll && !slices.ContainsFunc(config.Env, isAgentVar) {
		config = Race(t, config)
	}
	return config
}

// Up makes a lab that is removed with the test.
func Up(t *testing.T, config lab.Config) *Lab {
	t.Helper()
	return UpAs(t, Config(t, config))
}

// slowStep is how long a step of Up takes that a reader of the log wants to know of.
const slowStep = 10 * time.Second

// UpAs makes a lab of a configuration that Config has completed, or makes one
// that runs what the configuration says.
func UpAs(t *testing.T, config lab.Config) *Lab {
	t.Helper()
	t.Cleanup(func() { down(t, config) })
	ctx, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	start := time.Now()
	l, err := lab.Up(ctx, config)
	require.NoError(t, err)
	t.Logf("lab %s is up after %v", config.Name, time.Since(start).Round(time.Millisecond))
	for _, step := range l.Steps {
		if step.Elapsed > slowStep {
			t.Logf("%v of it: %s", step.Elapsed.Round(time.Millisecond), step.Step)
		}
	}
	return &Lab{l, t}
}

func down(t *testing.T, config lab.Config) {
	ctx, cancel := context.WithTimeout(context.Background(), downLimit)
	defer cancel()
	logs := readLogs(openLogs(filepath.Join(config.BaseDir, config.Name, "*")))
	for _, file := range slices.Sorted(maps.Keys(logs)) {
		text := logs[file]
		if !reportRace(t, file, text) && t.Failed() && !strings.HasSuffix(file, ".daemon.log") {
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			t.Logf("%s:\n%s", file, strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
	_, err := lab.Down(ctx, config)
	assert.NoError(t, err)
	_ = os.Remove(config.BaseDir) // with the last lab
}

// RemoveHost is lab.Lab's. A race in the host, be it at its end, fails the test.
func (l *Lab) RemoveHost(ctx context.Context, name string) error {
	l.T.Helper()
	logs := openLogs(l.Host(name).Dir()) // they go with the host
	err := l.Lab.RemoveHost(ctx, name)
	for file, text := range readLogs(logs) {
		reportRace(l.T, file, text)
	}
	return err
}

// openLogs opens the logs of hosts, whose directories match a pattern.
func openLogs(hosts string) (logs []*os.File) {
	files, _ := filepath.Glob(filepath.Join(hosts, "log", "*.log"))
	for _, file := range files {
		if f, err := os.Open(file); err == nil {
			logs = append(logs, f)
		}
	}
	return logs
}

// readLogs returns the texts of logs by their names, and closes them.
func readLogs(logs []*os.File) map[string][]byte {
	texts := map[string][]byte{}
	for _, f := range logs {
		if text, err := io.ReadAll(f); err == nil {
			texts[f.Name()] = text
		}
		_ = f.Close()
	}
	return texts
}

// reportRace fails the test where a log has a race in it.
func reportRace(t testing.TB, file string, log []byte) bool {
	report := dataRace(log)
	if report != nil {
		t.Errorf("%s: DATA RACE%s", file, report[:min(len(report), 4000)])
	}
	return report != nil
}

// dataRace returns the first report of the race detector in a log, but for those of
// GoBGP 4.8.0 alone: it reads its lists of routes while it changes their marks of
// graceful restart, and nothing of ours can guard that.
func dataRace(log []byte) []byte {
	for _, report := range bytes.Split(log, []byte("WARNING: DATA RACE"))[1:] {
		report, _, _ = bytes.Cut(report, []byte("=================="))
		accesses := 0
		theirs := 0
		lines := bytes.Split(report, []byte("\n"))
		for i, line := range lines[:len(lines)-1] {
			if !bytes.Contains(line, []byte(" at 0x")) {
				continue
			}
			accesses++
			if bytes.Contains(lines[i+1], []byte("github.com/osrg/gobgp/")) {
				theirs++
			}
		}
		if accesses == 0 || theirs < accesses {
			return report
		}
	}
	return nil
}

// In makes a subtest's failures its own.
func (l *Lab) In(t *testing.T) *Lab { return &Lab{l.Lab, t} }

// Run runs a command in a host (host1) or endpoint (host1/c1).
func (l *Lab) Run(target string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	host, endpoint, inside := strings.Cut(target, "/")
	if inside {
		return l.Host(host).Endpoint(endpoint).Exec(ctx, argv...)
	}
	return l.Host(host).Exec(ctx, argv...)
}

// Must is Run of what has to succeed.
func (l *Lab) Must(target string, argv ...string) string {
	l.T.Helper()
	out, err := l.Run(target, argv...)
	require.NoError(l.T, err, "%s: %v", target, argv)
	return out
}

// Await waits for a condition; on failure it says what was last seen.
func (l *Lab) Await(what string, condition func() (ok bool, saw string)) {
	l.T.Helper()
	testkit.Await(l.T, what, condition)
}

// AwaitRun waits until a command succeeds.
func (l *Lab) AwaitRun(what, target string, argv ...string) {
	l.T.Helper()
	l.Await(what, func() (bool, string) {
		out, err := l.Run(target, argv...)
		return err == nil, fmt.Sprint(out, err)
	})
}

// Start starts a command in a host or endpoint; it ends with the test at the
// latest.
func (l *Lab) Start(target string, argv ...string) (stop func(), out *testkit.Output) {
	l.T.Helper()
	out = &testkit.Output{}
	host, endpoint, inside := strings.Cut(target, "/")
	start := l.Host(host).Start
	if inside {
		start = l.Host(host).Endpoint(endpoint).Start
	}
	stop, err := start(context.Background(), out, argv...)
	require.NoError(l.T, err, "%s: %v", target, argv)
	l.T.Cleanup(stop)
	return stop, out
}

// Agent is the agent of a host, by its socket.
func (l *Lab) Agent(host string) *api.Client {
	l.T.Helper()
	pid, err := l.Host(host).PID()
	require.NoError(l.T, err)
	return api.NewClient(fmt.Sprintf("/proc/%d/root%s", pid, api.DefaultSocket))
}

// AgentStatus is what the agent of a host says.
func (l *Lab) AgentStatus(host string) api.Status {
	l.T.Helper()
	ctx, cancel := context.WithTimeout(l.T.Context(), testkit.Patience)
	defer cancel()
	st, err := l.Agent(host).Status(ctx)
	require.NoError(l.T, err)
	return st
}

// Endpoint returns what the agent knows of host/name.
func (l *Lab) Endpoint(name string) lab.EndpointStatus {
	l.T.Helper()
	host, endpoint, _ := strings.Cut(name, "/")
	st := l.AgentStatus(host)
	for _, e := range st.Endpoints {
		if e.Name != endpoint {
			continue
		}
		out := lab.EndpointStatus{Name: e.Name, Node: e.Node, Network: e.Network, IPs: e.IPs, MAC: e.MAC}
		for _, n := range st.Networks {
			if n.Name == e.Network {
				out.MTU = n.MTU
			}
		}
		return out
	}
	require.Fail(l.T, "no endpoint "+name)
	return lab.EndpointStatus{}
}

// Endpoints returns the endpoints of a network that the lab attached; of all
// networks for "".
func (l *Lab) Endpoints(network string) []lab.EndpointStatus {
	l.T.Helper()
	s, err := l.Status()
	require.NoError(l.T, err)
	var out []lab.EndpointStatus
	for _, e := range s.Endpoints {
		if network == "" || e.Network == network {
			out = append(out, e)
		}
	}
	return out
}

// Explain shows what the agents say after a failure.
func (l *Lab) Explain() {
	l.T.Helper()
	for _, h := range l.Hosts() {
		out, err := l.Run(h.Name(), "baize", "status")
		l.T.Logf("%s: %s %v", h.Name(), out, err)
	}
}
