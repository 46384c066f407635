package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestAddresses(t *testing.T) {
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.168.77.1/24"), netip.MustParsePrefix("fd77::1/64")}, fabricAddrs())
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.168.77.11/24"), netip.MustParsePrefix("fd77::11/64")}, hostAddrs(1, 1))
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.168.77.254/24"), netip.MustParsePrefix("fd77::254/64")}, hostAddrs(MaxHosts, 1))
	assert.Equal(t, "02:ba:c0:a8:4d:0b", hostMAC(1).String())
	assert.Equal(t, "http://192.168.77.1:2379", etcdURL(false))
	assert.Equal(t, "http://[fd77::1]:2379", etcdURL(true))
	seen := map[string]bool{}
	for n := 1; n <= MaxHosts; n++ {
		assert.Equal(t, n, hostNumber(hostName(n)))
		for _, a := range hostAddrs(n, 1) {
			assert.False(t, seen[a.String()], a)
			seen[a.String()] = true
		}
	}
	for n, want := range map[int]string{1: "[192.168.77.11/24 fd77::11/64]", 2: "[192.168.78.12/24 fd78::12/64]", 3: "[192.168.77.13/24 fd77::13/64]"} {
		assert.Equal(t, want, fmt.Sprint(hostAddrs(n, 2)), "hosts take turns in the segments")
	}
	assert.Equal(t, "[192.168.78.2/24 fd78::2/64]", fmt.Sprint(routerAddrs(1)))
	for _, bad := range []string{"", "host", "host0", "host01", "host245", "host-1", "fabric", "xhost1", "host1x"} {
		assert.Zero(t, hostNumber(bad), bad)
	}
}

func TestNamesOfNamespacesBelongToOneLab(t *testing.T) {
	for _, c := range []struct{ lab, name, want string }{
		{"lab", "baize-lab-host1", "host1"},
		{"lab", "baize-lab-fabric", "fabric"},
		{"lab", "baize-lab-router", "router"},
		{"lab", "baize-lab-x-host1", ""},
		{"lab-x", "baize-lab-x-host1", "host1"},
		{"lab", "baize-lab2-host1", ""},
		{"lab", "baize-lab-c1", ""},
		{"lab", "host1", ""},
	} {
		assert.Equal(t, c.want, netnsMember(c.lab, c.name), "%s of %s", c.name, c.lab)
	}
}

func TestMembersAreKnownByTheirCommandLine(t *testing.T) {
	line := func(args ...string) []byte { return []byte(strings.Join(args, "\x00") + "\x00") }
	m, ok := parseCmdline(line(append([]string{"/usr/bin/baize"}, initArgs("lab", "host1", "/run/baize-lab/lab/host1")...)...))
	assert.True(t, ok)
	assert.Equal(t, member{lab: "lab", name: "host1", dir: "/run/baize-lab/lab/host1"}, m)
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

func TestResize(t *testing.T) {
	for _, c := range []struct {
		have []string
		n    int
		want []string
	}{
		{nil, 3, []string{"host1", "host2", "host3"}},
		{[]string{"host1", "host2", "host3"}, 2, []string{"host1", "host2"}},
		{[]string{"host1", "host3"}, 3, []string{"host1", "host2", "host3"}},
		{[]string{"host10", "host9"}, 1, []string{"host9"}},
		{[]string{"host2"}, 1, []string{"host2"}},
	} {
		assert.Equal(t, c.want, resize(c.have, c.n))
	}
}

func TestMerge(t *testing.T) {
	fresh, err := state{}.merge(Config{})
	require.NoError(t, err)
	assert.Equal(t, state{Hosts: []string{"host1", "host2", "host3"}, Transport: topology.VXLAN, Networks: []NetworkSpec{DefaultNetworkSpec(netip.Prefix{})}, Endpoints: 1}, fresh)

	same, err := fresh.merge(Config{})
	require.NoError(t, err)
	assert.Equal(t, fresh, same, "nothing asked for, nothing changed")

	changed, err := fresh.merge(Config{Hosts: 4, Endpoints: 2, Transport: topology.GRE, IPv6Underlay: true, AgentArgs: []string{"--log-level=debug"}})
	require.NoError(t, err)
	assert.Len(t, changed.Hosts, 4)
	assert.Equal(t, []string{"c1", "c2"}, changed.endpointNames(0))
	assert.Equal(t, topology.GRE, changed.transport(changed.Networks[0]))
	again, err := changed.merge(Config{})
	require.NoError(t, err)
	assert.Equal(t, changed, again)

	none, err := fresh.merge(Config{Endpoints: -1})
	require.NoError(t, err)
	assert.Empty(t, none.endpointNames(0))

	two, err := state{}.merge(Config{Segments: 2})
	require.NoError(t, err)
	again, err = two.merge(Config{Segments: 2, Hosts: 4})
	require.NoError(t, err)
	assert.Equal(t, 2, again.Segments)
	for _, c := range []Config{{Segments: 1}, {FRR: true}} {
		_, err = two.merge(c)
		require.ErrorIs(t, err, topology.ErrConflict)
	}

	_, err = fresh.merge(Config{Networks: []NetworkSpec{DefaultNetworkSpec(netip.MustParsePrefix("10.9.0.0/16"))}})
	require.ErrorIs(t, err, topology.ErrConflict)
	assert.ErrorContains(t, err, "lab down")
}

func TestEndpointNames(t *testing.T) {
	s := state{Endpoints: 1, Networks: []NetworkSpec{{Name: "blue"}, {Name: "red", Endpoints: 2}}}
	assert.Equal(t, []string{"c1"}, s.endpointNames(0))
	assert.Equal(t, []string{"red-c1", "red-c2"}, s.endpointNames(1))
}

func TestStateFile(t *testing.T) {
	dir := t.TempDir()
	_, err := readState(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	want, err := state{}.merge(Config{Hosts: 2})
	require.NoError(t, err)
	require.NoError(t, want.write(dir))
	got, err := readState(dir)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing temporary is left")

	require.NoError(t, os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600))
	_, err = readState(dir)
	require.ErrorIs(t, err, topology.ErrInvalid)
	assert.ErrorContains(t, err, "lab down")
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{{Name: "../etc"}, {Hosts: MaxHosts + 1}, {Hosts: -1}, {Segments: 3}} {
		_, err := c.withDefaults()
		assert.ErrorIs(t, err, topology.ErrInvalid)
	}
	c, err := Config{}.withDefaults()
	require.NoError(t, err)
	assert.Equal(t, "/run/baize-lab/lab", c.dir())
	assert.True(t, filepath.IsAbs(c.Binary))
}

func TestOpenNamesTheLabsThatExist(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(base, "green"), 0o755))
	require.NoError(t, state{Hosts: []string{"host1"}}.write(filepath.Join(base, "green")))
	_, err := Open(Config{Name: "blue", BaseDir: base})
	require.ErrorIs(t, err, topology.ErrNotFound)
	assert.ErrorContains(t, err, "--name blue")
	assert.ErrorContains(t, err, "green")
	l, err := Open(Config{Name: "green", BaseDir: base})
	require.NoError(t, err)
	require.Len(t, l.Hosts(), 1)
	assert.Equal(t, "unix://"+base+"/green/etcd.sock", l.EtcdEndpoint())
}

func TestCommandLines(t *testing.T) {
	n := DefaultNetworkSpec(netip.MustParsePrefix("10.9.0.0/16"))
	for want, got := range map[string][]string{
		"etcd --data-dir /d --unsafe-no-fsync --listen-client-urls http://192.168.77.1:2379,http://[fd77::1]:2379,unix:///s": etcdArgs("/d", "/s"),
		"agent --vtep x": agentArgs([]string{"--vtep", "x"}),
		"network create blue --subnet 10.9.0.0/16 --subnet fd00:10:1::/48 --transport gre --vni 7":      networkCreateArgs(n, topology.GRE, "7", false),
		"network create blue --subnet 10.9.0.0/16 --subnet fd00:10:1::/48 --transport vxlan --mtu 1430": networkCreateArgs(n, topology.VXLAN, "", true),
		"network show blue -o json":                  networkShowArgs("blue"),
		"network update blue --transport geneve":     networkUpdateArgs("blue", topology.Geneve),
		"endpoint add --network blue --netns c1":     endpointAddArgs("blue", "c1"),
		"endpoint remove blue/c1":                    endpointRemoveArgs("blue", "c1"),
		"agent cleanup":                              agentCleanupArgs(nil),
		"agent --bgp 65001 cleanup":                  agentCleanupArgs([]string{"--bgp", "65001"}),
		"node remove host3 --force":                  nodeRemoveArgs("host3"),
		"nsenter -t 7 -m -u -i -n -p -- ovs-vsctl x": enter(member{pid: 7}, []string{"ovs-vsctl", "x"}),
	} {
		assert.Equal(t, want, strings.Join(got, " "))
	}
}

func TestEnvironments(t *testing.T) {
	own := hostEnv("host2", true, 1)
	assert.Equal(t, []string{"BAIZE_ETCD_ENDPOINTS=http://[fd77::1]:2379", "BAIZE_NODE=host2", "HOSTNAME=host2", "BAIZE_VTEP=fd77::12"}, own)

	env := execEnv([]string{"TERM=xterm", "PATH=/opt/bin", "BAIZE_SOCKET=/elsewhere", "OVS_RUNDIR=/x", "HOSTNAME=me", "PWD=/root"}, hostEnv("host1", false, 1), []string{"A=b"})
	assert.Equal(t, []string{"TERM=xterm", "PATH=/run/baize-lab/bin:/opt/bin:" + systemPath, "BAIZE_ETCD_ENDPOINTS=http://192.168.77.1:2379", "BAIZE_NODE=host1", "HOSTNAME=host1", "A=b"}, env)

	get := func(k string) (string, bool) { return "C.UTF-8", k == "LANG" }
	assert.Equal(t, []string{"PATH=/run/baize-lab/bin:" + systemPath, "HOME=/root", "LANG=C.UTF-8", "X=1"}, daemonEnv(get, []string{"X=1"}, nil))
}

func TestEtcHosts(t *testing.T) {
	got := string(etcHosts([]string{"host1", "host3"}, 1))
	assert.Contains(t, got, "192.168.77.13\thost3\nfd77::13\thost3\n")
	assert.Contains(t, got, "192.168.77.1\tfabric\n")
	assert.NotContains(t, got, "host2")
}

func TestMountpoints(t *testing.T) {
	const info = `21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:4 net:[4026532177] /run/netns/a\040b rw shared:5 - nsfs nsfs rw
31 21 0:4 net:[4026532178] /run/netns/c rw - nsfs nsfs rw
32 21 0:40 / /tmp/nsfs rw - tmpfs nsfs rw
`
	assert.Equal(t, []string{"/run/netns/a b", "/run/netns/c"}, mountpoints(info, "nsfs"))
}

func TestTail(t *testing.T) {
	f := filepath.Join(t.TempDir(), "log")
	assert.Empty(t, tail(f, 3))
	require.NoError(t, os.WriteFile(f, []byte(strings.Repeat("x", 9000)+"\none\ntwo\nthree\n"), 0o600))
	assert.Equal(t, "two\nthree", tail(f, 2))
}

func TestLockKeepsOthersAway(t *testing.T) {
	c := Config{Name: "x", BaseDir: filepath.Join(t.TempDir(), "labs")}
	unlock, err := lock(t.Context(), c)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*lockPoll)
	defer cancel()
	_, err = lock(ctx, c)
	require.ErrorIs(t, err, topology.ErrInUse)
	assert.ErrorContains(t, err, "process")

	taken := make(chan func(bool), 1)
	go func() {
		if u, err := lock(context.Background(), c); err == nil {
			taken <- u
		}
	}()
	unlock(true) // the directory goes under the one who waits
	select {
	case u := <-taken:
		assert.FileExists(t, c.lockFile())
		u(true)
	case <-time.After(10 * time.Second):
		t.Fatal("the lock was never given")
	}
	assert.NoDirExists(t, c.BaseDir)
}

func TestStepsAreReported(t *testing.T) {
	var events []Event
	l := &Lab{cfg: Config{Progress: func(e Event) { events = append(events, e) }}}
	end := l.begin("%s: work", "host1")
	require.NoError(t, end(nil))
	err := l.begin("more")(&topology.Error{Kind: topology.ErrFull, What: "no room"})
	require.ErrorIs(t, err, topology.ErrFull)
	assert.EqualError(t, err, "more: no room")
	require.Len(t, events, 3)
	assert.Equal(t, Event{Step: "host1: work", Total: 1}, events[0])
	assert.True(t, events[1].Ended)
	assert.Equal(t, 2, events[2].Total)
}

func TestProofNamesWhatFails(t *testing.T) {
	p := &Proof{Paths: []Path{{From: "host1/c1", To: "host2/c1", RTT: time.Millisecond}, {From: "host2/c1", To: "host1/c1", Error: "no answer"}}}
	assert.Len(t, p.Failed(), 1)
	assert.Equal(t, time.Millisecond, p.MedianRTT())
	err := p.err("lab")
	require.ErrorIs(t, err, topology.ErrUnavailable)
	assert.ErrorContains(t, err, "1 of 2 paths")
	assert.ErrorContains(t, err, "host2/c1 to host1/c1")
	b, err := json.Marshal(p)
	require.NoError(t, err)
	assert.Contains(t, string(b), `"rttNanoseconds":1000000`)
}

func TestHostInitIsForUpOnly(t *testing.T) {
	err := HostInit([]string{"--lab", "x", "--member", "host1", "--dir", t.TempDir()}, os.Stderr)
	require.ErrorIs(t, err, topology.ErrInvalid)
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
