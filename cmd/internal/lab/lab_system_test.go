//go:build system

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/machine"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// testLab is the configuration of a lab of a test's own; it is removed with
// the test, and what the machine has then has to be what it had.
func testLab(t *testing.T, hosts int) Config {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "bzt-lab-")
	require.NoError(t, err)
	require.NoError(t, os.Remove(base)) // the lab makes it
	c := Config{
		Name: fmt.Sprintf("t%d-%s", os.Getpid(), filepath.Base(base)[8:]), Hosts: hosts, BaseDir: base, NoProof: true,
	}
	before := machineState(t, c.Name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			showLogs(t, c)
		}
		_, err := Down(ctx, c)
		require.NoError(t, err)
		assert.Equal(t, before, machineState(t, c.Name), "the lab left something behind")
		assert.NoDirExists(t, base)
	})
	return c
}

// machineState is all that a lab might leave: processes, mounts, names of
// namespaces, links, its hold on the machine's settings.
func machineState(t *testing.T, name string) map[string]string {
	t.Helper()
	run := func(argv ...string) string {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		require.NoErrorf(t, err, "%v: %s", argv, out)
		return string(out)
	}
	var ours []string
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(name)) {
			ours = append(ours, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	var ns []string
	for _, line := range strings.Split(run("ip", "netns", "list"), "\n") {
		if strings.HasPrefix(line, "baize-"+name) {
			ns = append(ns, line)
		}
	}
	var mine []string
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, name) {
			mine = append(mine, line)
		}
	}
	return map[string]string{
		"processes": strings.Join(ours, "\n"), "mounts": strings.Join(mine, "\n"), "namespaces": strings.Join(ns, "\n"),
		"links": run("ip", "-o", "link", "show", "type", "veth"), "registered": fmt.Sprint(registered(name)),
	}
}

// registered reports whether the machine's settings are held for a lab.
func registered(name string) bool {
	return slices.ContainsFunc(machine.Labs(), func(dir string) bool { return filepath.Base(dir) == name })
}

func showLogs(t *testing.T, c Config) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(c.BaseDir, c.Name, "*", "log", "*.log"))
	for _, f := range files {
		t.Logf("%s:\n%s", f, member.Tail(f, 15))
	}
}

func up(t *testing.T, c Config) *Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l, err := Up(ctx, c)
	require.NoError(t, err)
	return l
}

func pids(t *testing.T, l *Lab) map[string]int {
	t.Helper()
	all, err := l.running()
	require.NoError(t, err)
	out := map[string]int{}
	for name, m := range all {
		out[name] = m.PID
	}
	return out
}

func steps(l *Lab) []string {
	var out []string
	for _, e := range l.Steps {
		out = append(out, e.Step)
	}
	return out
}

func TestUpAndDown(t *testing.T) {
	t.Parallel()
	c := testLab(t, 3)
	c.NoProof = false
	start := time.Now()
	l := up(t, c)
	t.Logf("up with 3 hosts and proof: %v", time.Since(start))
	for _, s := range l.Steps {
		t.Logf("  %8v %s", s.Elapsed.Round(time.Millisecond), s.Step)
	}

	// 3 hosts, one endpoint each, 6 directions, 2 families.
	require.Len(t, l.Proof.Paths, 12)
	assert.Empty(t, l.Proof.Failed())
	for _, p := range l.Proof.Paths {
		assert.EqualValues(t, 4<<20, p.Bytes)
		assert.Positive(t, p.RTT)
	}

	out, err := l.Host("host2").Exec(t.Context(), "ovs-vsctl", "show")
	require.NoError(t, err)
	assert.Contains(t, out, "br-phy")
	out, err = l.Host("host2").Exec(t.Context(), "sh", "-c", `hostname; echo $BAIZE_NODE; echo $BAIZE_ETCD_ENDPOINTS
command -v baize; getent hosts host3; tr '\0' ' ' </proc/1/cmdline`)
	require.NoError(t, err)
	assert.Contains(t, out, "host2\nhost2\nhttp://192.168.77.1:2379\n/run/baize-lab/bin/baize\nfd77::13")
	assert.Contains(t, out, "lab host-init")
	names, err := exec.Command("ip", "netns", "list").Output()
	require.NoError(t, err)
	assert.Contains(t, string(names), member.MachineName(c.Name, "host1"))

	s, err := l.Status()
	require.NoError(t, err)
	assert.Empty(t, s.Problems)
	assert.True(t, s.Fabric.Ready())
	require.Len(t, s.Hosts, 3)
	assert.True(t, s.Hosts[2].Ready())
	require.Len(t, s.Endpoints, 3)
	assert.Equal(t, "host1/c1", s.Endpoints[0].String())
	assert.Equal(t, DefaultNetwork, s.Endpoints[0].Network)

	assert.True(t, registered(c.Name))
	rmem, err := os.ReadFile("/proc/sys/net/core/rmem_default")
	require.NoError(t, err)
	buffer, err := strconv.Atoi(strings.TrimSpace(string(rmem)))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, buffer, 4<<20)

	before := pids(t, l)
	again := up(t, Config{Name: c.Name, BaseDir: c.BaseDir, NoProof: true})
	assert.Equal(t, before, pids(t, again), "a second up is to touch nothing")
	assert.Empty(t, again.Steps)

	start = time.Now()
	removed, err := Down(t.Context(), c)
	require.NoError(t, err)
	t.Logf("down with 3 hosts: %v", time.Since(start))
	assert.True(t, removed)
	removed, err = Down(t.Context(), c)
	require.NoError(t, err)
	assert.False(t, removed, "there was nothing left")
	_, err = Open(c)
	assert.ErrorIs(t, err, topology.ErrNotFound)
}

func TestHostsComeAndGo(t *testing.T) {
	t.Parallel()
	c := testLab(t, 1)
	l := up(t, c)
	host1 := pids(t, l)["host1"]

	c.Hosts = 3
	l = up(t, c)
	assert.Equal(t, host1, pids(t, l)["host1"])
	assert.Len(t, l.Hosts(), 3)

	require.NoError(t, l.RemoveHost(t.Context(), "host2"))
	assert.NotContains(t, pids(t, l), "host2")
	assert.NoDirExists(t, filepath.Join(l.Dir(), "host2"))
	_, err := l.Host("host2").Exec(t.Context(), "true")
	require.ErrorIs(t, err, topology.ErrNotFound)
	assert.ErrorContains(t, err, "host1, host3")
	require.ErrorIs(t, l.RemoveHost(t.Context(), "host2"), topology.ErrNotFound)

	h, err := l.AddHost(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "host2", h.Name(), "the lowest free number")
	p, err := l.Prove(t.Context())
	require.NoError(t, err)
	assert.Len(t, p.Paths, 12)

	c.Hosts = 2
	l = up(t, c)
	assert.NotContains(t, pids(t, l), "host3")
	assert.Contains(t, steps(l), "host3: remove")
	out, err := exec.Command(
		"ip", "netns", "exec", member.MachineName(c.Name, member.Fabric), "ip", "-o", "link", "show", "type", "veth",
	).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, 2, strings.Count(string(out), "\n"), string(out))
}

func TestWhatDiedIsMadeAnew(t *testing.T) {
	t.Parallel()
	c := testLab(t, 2)
	l := up(t, c)
	id := filepath.Join(l.Host("host1").Dir(), "lib-baize", "node-id")
	require.NoError(t, os.WriteFile(id, []byte("x"), 0o600))
	require.NoError(t, l.Host("host1").Crash(t.Context()))
	_, err := l.Host("host1").Exec(t.Context(), "true")
	require.ErrorIs(t, err, topology.ErrUnavailable)

	l = up(t, c)
	assert.Contains(t, steps(l), "host1: make the host")
	assert.NotContains(t, steps(l), "host2: make the host")
	assert.FileExists(t, id, "the node keeps its identity")
	_, err = l.Prove(t.Context())
	require.NoError(t, err)

	// Without the fabric nothing holds together.
	fabric, err := l.member(member.Fabric)
	require.NoError(t, err)
	require.NoError(t, member.Kill(t.Context(), []member.Member{fabric}))
	l = up(t, c)
	assert.Contains(t, steps(l), "host2: make the host")
	_, err = l.Prove(t.Context())
	require.NoError(t, err)
}

func TestServices(t *testing.T) {
	t.Parallel()
	c := testLab(t, 2)
	l := up(t, c)
	h := l.Host("host1")
	for _, service := range []string{ServiceVswitchd, ServiceOVSDB, ServiceAgent} {
		require.NoError(t, h.Kill(t.Context(), service, unix.SIGKILL))
		require.NoError(t, h.AwaitService(t.Context(), service))
	}
	_, err := l.Prove(t.Context())
	require.NoError(t, err, "after every service was killed")
	s, err := l.Status()
	require.NoError(t, err)
	for _, svc := range s.Hosts[0].Services {
		assert.GreaterOrEqual(t, svc.Starts, 2, svc.Name)
		assert.Equal(t, "killed by SIGKILL", svc.Last)
	}

	require.NoError(t, h.StopService(t.Context(), ServiceAgent))
	s, err = l.Status()
	require.NoError(t, err)
	assert.Len(t, s.Problems, 1)
	up(t, c) // leaves it stopped
	m, err := l.member("host1")
	require.NoError(t, err)
	assert.True(t, m.Stopped(ServiceAgent))
	require.NoError(t, h.StartService(t.Context(), ServiceAgent))
	require.ErrorIs(t, h.StopService(t.Context(), "frob"), topology.ErrNotFound)

	// etcd comes back by itself.
	require.NoError(t, l.Host(member.Fabric).Kill(t.Context(), ServiceEtcd, unix.SIGKILL))
	require.NoError(t, l.Host(member.Fabric).AwaitService(t.Context(), ServiceEtcd))

	// The cable.
	ping := func() error {
		_, err := l.Host("host2").Exec(t.Context(), "ping", "-c1", "-W1", "192.168.77.11")
		return err
	}
	require.NoError(t, ping())
	require.NoError(t, h.Unplug())
	require.Error(t, ping())
	require.NoError(t, h.Plug())
	require.Eventually(t, func() bool { return ping() == nil }, 10*time.Second, 50*time.Millisecond)
}

func TestPid1EndsInOrder(t *testing.T) {
	t.Parallel()
	c := testLab(t, 1)
	l := up(t, c)
	m, err := l.member("host1")
	require.NoError(t, err)
	require.NoError(t, unix.Kill(m.PID, unix.SIGTERM))
	require.Eventually(t, func() bool { return pids(t, l)["host1"] == 0 }, 20*time.Second, 20*time.Millisecond)
	log := member.Tail(filepath.Join(m.Dir, "log", "init.log"), 12)
	at := func(s string) int { return strings.Index(log, s+": stopped") }
	assert.Less(t, at(ServiceAgent), at(ServiceVswitchd), log)
	assert.Less(t, at(ServiceVswitchd), at(ServiceOVSDB), log)
	assert.Contains(t, log, "all services are stopped")
}

// TestKilledHalfWay kills an Up at many moments, and completes or removes what
// is left.
func TestKilledHalfWay(t *testing.T) {
	t.Parallel()
	c := testLab(t, 2)
	config, err := json.Marshal(struct {
		Name, BaseDir string
		Hosts         int
		NoProof       bool
	}{c.Name, c.BaseDir, c.Hosts, true})
	require.NoError(t, err)
	for _, after := range []time.Duration{0, 10, 30, 60, 100, 200, 300, 450, 600, 800, 1100} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), upVar+"="+string(config))
		require.NoError(t, cmd.Start())
		moment := time.NewTimer(after * time.Millisecond)
		<-moment.C
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		if after%20 == 0 {
			l := up(t, c)
			p, err := l.Prove(t.Context())
			require.NoError(t, err, "completed after %d ms", after)
			assert.Len(t, p.Paths, 4)
		}
		_, err := Down(t.Context(), c)
		require.NoError(t, err)
		left, err := member.Find(c.Name)
		require.NoError(t, err)
		assert.Empty(t, left, "after %d ms", after)
		assert.NoDirExists(t, c.BaseDir)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	c := testLab(t, 1)
	l := up(t, c)
	var exit *exec.ExitError
	_, err := l.Host("host1").Exec(t.Context(), "sh", "-c", "exit 42")
	require.True(t, errors.As(err, &exit))
	assert.Equal(t, 42, exit.ExitCode())
	_, err = l.Host("host1").Endpoint("c1").Exec(t.Context(), "sh", "-c", "exit 43")
	require.True(t, errors.As(err, &exit))
	assert.Equal(t, 43, exit.ExitCode())

	out, err := l.Host("host1").Endpoint("c1").Exec(t.Context(), "ip", "-o", "-4", "addr", "show", "eth0")
	require.NoError(t, err)
	assert.Contains(t, out, "10.1.1.")
	out, err = l.Host("host1").Exec(t.Context(), "ip", "-o", "-4", "addr", "show")
	require.NoError(t, err)
	assert.NotContains(t, out, "10.1.1.")
	assert.Contains(t, out, "192.168.77.11/24")

	// As the command line does it: standard input and output are passed on.
	argv, env, err := l.ExecCommand("host1/c1", []string{"tr", "a-z", "A-Z"})
	require.NoError(t, err)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin = env, strings.NewReader("hello\n")
	shouted, err := cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, "HELLO\n", string(shouted))

	for target, remedy := range map[string]string{"host9": "host1", "host1/c9": "c1", "frob": "host1"} {
		_, _, err := l.ExecCommand(target, []string{"true"})
		require.ErrorIs(t, err, topology.ErrNotFound, target)
		assert.ErrorContains(t, err, remedy)
	}

	// A command that is given up leaves no process behind.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = l.Host("host1").Exec(ctx, "sh", "-c", "sleep 4242 & wait")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool {
		out, err := l.Host("host1").Exec(t.Context(), "ps", "-ef")
		return err == nil && !strings.Contains(out, "sleep 4242")
	}, 5*time.Second, 50*time.Millisecond)
}

func TestProbeBetweenHosts(t *testing.T) {
	t.Parallel()
	c := testLab(t, 2)
	l := up(t, c)
	s, err := l.Status()
	require.NoError(t, err)
	to := s.Endpoints[1].IPs
	stop, err := l.Host("host2").Endpoint("c1").Start(t.Context(), os.Stderr, "baize", "probe", "serve")
	require.NoError(t, err)
	defer stop()
	for _, ip := range to {
		require.Eventually(t, func() bool {
			out, err := l.Host("host1").Endpoint("c1").Exec(
				t.Context(), "baize", "probe", "send", "--to", "["+ip.String()+"]:7000", "--bytes", "20M",
			)
			return err == nil && strings.Contains(out, `"bytes":20971520`)
		}, 20*time.Second, 50*time.Millisecond)
		out, err := l.Host("host1").Endpoint("c1").Exec(
			t.Context(), "baize", "probe", "send", "--to", ip.String(), "--datagrams", "100", "--interval", "1ms",
		)
		require.NoError(t, err)
		assert.Contains(t, out, `"received":100`)
	}
}

func TestErrorsNameStepHostAndLog(t *testing.T) {
	t.Parallel()
	c := testLab(t, 1)
	dir := filepath.Join(c.BaseDir, c.Name, "host1", "lib-baize")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "broken"), nil, 0o600))
	// Enough for all steps before, on a busy machine; the last one takes what is left.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := Up(ctx, c)
	require.ErrorContains(t, err, "host1: start the agent")
	assert.ErrorContains(t, err, "this agent is broken on purpose")
	// Set right, the same lab comes up.
	require.NoError(t, os.Remove(filepath.Join(dir, "broken")))
	up(t, c)
}

func TestOneNameOneLab(t *testing.T) {
	t.Parallel()
	c := testLab(t, 1)
	up(t, c)
	other := c
	other.BaseDir += "-other"
	t.Cleanup(func() { _ = os.RemoveAll(other.BaseDir) })
	_, err := Up(t.Context(), other)
	require.ErrorIs(t, err, topology.ErrExists)
	assert.ErrorContains(t, err, c.BaseDir)
}

func TestLabsSideBySide(t *testing.T) {
	t.Parallel()
	a, b := testLab(t, 1), testLab(t, 1)
	b.Name = a.Name + "-host1" // the nastiest name there is
	t.Cleanup(func() { _, _ = Down(context.Background(), b) })
	b.IPv6Underlay = true
	one, two := up(t, a), up(t, b)
	out, err := two.Host("host1").Exec(t.Context(), "sh", "-c", "echo $BAIZE_ETCD_ENDPOINTS $BAIZE_VTEP")
	require.NoError(t, err)
	assert.Equal(t, "http://[fd77::1]:2379 fd77::11\n", out)
	before := pids(t, two)
	require.NoError(t, one.Down(t.Context()))
	assert.Equal(t, before, pids(t, two))
	entries, err := os.ReadDir(member.NetnsDir)
	require.NoError(t, err)
	assert.True(
		t, slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == member.MachineName(b.Name, "host1") }),
	)
	_, err = Down(t.Context(), b)
	require.NoError(t, err)
}

func TestTransportAndNetworks(t *testing.T) {
	t.Parallel()
	c := testLab(t, 1)
	c.Networks = []NetworkSpec{
		DefaultNetworkSpec(netip.Prefix{}), {Name: "red", Prefixes: DefaultNetworkSpec(netip.Prefix{}).Prefixes, VNI: 77},
	}
	l := up(t, c)
	s, err := l.Status()
	require.NoError(t, err)
	require.Len(t, s.Endpoints, 2)
	assert.Equal(t, "red", s.Endpoints[1].Network)
	assert.Equal(t, "red-c1", s.Endpoints[1].Name)

	l = up(t, Config{Name: c.Name, BaseDir: c.BaseDir, NoProof: true, Transport: topology.GRE})
	assert.Contains(t, steps(l), "network red: change to gre")
	c.Networks = []NetworkSpec{{Name: DefaultNetwork}}
	_, err = Up(t.Context(), c)
	require.ErrorIs(t, err, topology.ErrConflict)
}
