//go:build system

package domaintest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// etcdMembers is how many members an etcdUnderAgents has.
const etcdMembers = 3

// etcdUnderAgents is a lab whose agents have an etcd of three members, which run in the
// fabric. The disk of the last one is small.
type etcdUnderAgents struct {
	*domain
	dir       string
	endpoints string
	stop      map[int]func()
	networks  int
	guests    int
}

func (e *etcdUnderAgents) url(n, port int) string {
	return fmt.Sprintf("http://192.168.77.1:%d", port+10*n)
}

func (e *etcdUnderAgents) client(n int) string { return e.url(n, 3379) }

// start starts a member.
func (e *etcdUnderAgents) start(n int) {
	e.T.Helper()
	var cluster []string
	for m := 1; m <= etcdMembers; m++ {
		cluster = append(cluster, fmt.Sprintf("m%d=%s", m, e.url(m, 3380)))
	}
	argv, environment, err := e.ExecCommand("fabric", []string{
		"etcd", "--name", fmt.Sprint("m", n), "--data-dir", filepath.Join(e.dir, fmt.Sprint("disk", n), "etcd"),
		"--listen-client-urls", e.client(n), "--advertise-client-urls", e.client(n),
		"--listen-peer-urls", e.url(n, 3380), "--initial-advertise-peer-urls", e.url(n, 3380),
		"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-token", "test", "--logger", "zap",
	})
	require.NoError(e.T, err)
	log, err := os.OpenFile(filepath.Join(e.dir, fmt.Sprintf("m%d.log", n)), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(e.T, err)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = environment, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(e.T, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	e.stop[n] = func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		_ = log.Close()
	}
}

func (e *etcdUnderAgents) etcdctl(args ...string) (string, error) {
	return e.Run("fabric", append([]string{"etcdctl", "--command-timeout=5s", "--endpoints=" + e.endpoints}, args...)...)
}

// serves waits until a majority answers.
func (e *etcdUnderAgents) serves() {
	e.T.Helper()
	e.Await("etcd serves", func() (bool, string) {
		out, err := e.etcdctl("put", "/test", "x")
		return err == nil, fmt.Sprint(out, err)
	})
}

// leader is the number of the member that leads.
func (e *etcdUnderAgents) leader() (n int) {
	e.T.Helper()
	e.Await("a leader", func() (bool, string) {
		out, err := e.etcdctl("endpoint", "status", "-w", "json")
		var all []struct {
			Endpoint string
			Status   struct {
				Header struct {
					MemberID uint64 `json:"member_id"`
				} `json:"header"`
				Leader uint64 `json:"leader"`
			}
		}
		if err != nil || json.Unmarshal([]byte(out), &all) != nil {
			return false, fmt.Sprint(out, err)
		}
		for _, x := range all {
			for m := 1; m <= etcdMembers; m++ {
				if x.Status.Leader == x.Status.Header.MemberID && x.Endpoint == e.client(m) {
					n = m
				}
			}
		}
		return n > 0, out
	})
	return n
}

func (e *etcdUnderAgents) env(args ...string) []string {
	return append([]string{"env", "BAIZE_ETCD_ENDPOINTS=" + e.endpoints, "baize"}, args...)
}

// upOnEtcd makes the lab, with an endpoint c on each host, in the network shop.
func upOnEtcd(t *testing.T) *etcdUnderAgents {
	e := &etcdUnderAgents{
		domain: up(t, topology.VXLAN, lab.Config{Endpoints: -1, NoProof: true}), dir: t.TempDir(), stop: map[int]func(){},
	}
	t.Cleanup(func() {
		for n, stop := range e.stop {
			stop()
			if log, _ := os.ReadFile(filepath.Join(e.dir, fmt.Sprintf("m%d.log", n))); t.Failed() {
				t.Logf("member %d: %s", n, log[max(0, len(log)-1500):])
			}
		}
	})
	var urls []string
	for n := 1; n <= etcdMembers; n++ {
		urls = append(urls, e.client(n))
	}
	e.endpoints = strings.Join(urls, ",")
	small := filepath.Join(e.dir, fmt.Sprint("disk", etcdMembers))
	require.NoError(t, os.MkdirAll(small, 0o700))
	// Two files of the log, which etcd makes with all their room at once, and a bit.
	e.Must("fabric", "mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", small)
	for n := 1; n <= etcdMembers; n++ {
		e.start(n)
	}
	e.serves()
	for _, h := range e.Hosts() {
		require.NoError(t, h.StopService(t.Context(), lab.ServiceAgent))
		_, out := e.Start(h.Name(), e.env("agent")...)
		e.Await("the agent of "+h.Name()+" is ready", func() (bool, string) {
			said, err := e.Run(h.Name(), "baize", "status", "-o", "jsonpath={.agent.ready}")
			return strings.TrimSpace(said) == "true", fmt.Sprint(said, err, out)
		})
	}
	e.Must("host1", e.env("network", "create", "shop", "--subnet", "10.9.0.0/16")...)
	for _, h := range e.Hosts() {
		e.add(h.Name(), "c")
	}
	return e
}

// add attaches a namespace, and returns its address.
func (e *etcdUnderAgents) add(host, name string) netip.Addr {
	e.T.Helper()
	e.Must(host, "ip", "netns", "add", name)
	e.AwaitRun("endpoint "+name+" on "+host, host, "baize", "endpoint", "add", name, "--network", "shop", "--netns", name)
	return e.addr(host, name)
}

func (e *etcdUnderAgents) addr(host, name string) netip.Addr {
	e.T.Helper()
	var all []api.Endpoint
	require.NoError(e.T, json.Unmarshal([]byte(e.Must(host, "baize", "endpoint", "list", "-o", "json")), &all))
	for _, x := range all {
		if x.Name == name {
			return x.IPs[0]
		}
	}
	require.Fail(e.T, "no endpoint "+name+" on "+host)
	return netip.Addr{}
}

// guest comes to host3, is reached from host1, and goes.
func (e *etcdUnderAgents) guest() {
	e.T.Helper()
	e.guests++
	name := fmt.Sprint("guest", e.guests)
	began := time.Now()
	ip := e.add("host3", name)
	assert.Less(e.T, time.Since(began), 5*time.Second, "nobody waits for etcd")
	e.AwaitRun("it is reached", "host1", "ip", "netns", "exec", "c", "ping", "-c", "1", "-W", "1", ip.String())
	e.Must("host3", "baize", "endpoint", "remove", name)
	e.Must("host3", "ip", "netns", "del", name)
}

// create makes a network, and returns the revision of its record.
func (e *etcdUnderAgents) create(what string) int64 {
	e.T.Helper()
	e.networks++
	name := fmt.Sprint("n", e.networks)
	e.AwaitRun(what+": a network is made", "host1",
		e.env("network", "create", name, "--subnet", fmt.Sprintf("10.%d.0.0/16", 100+e.networks))...)
	return e.revision(name)
}

// followed changes the topology and waits until all agents know.
func (e *etcdUnderAgents) followed(what string) {
	e.T.Helper()
	revision := e.create(what)
	for _, h := range e.Hosts() {
		e.Await(what+": the agent of "+h.Name()+" knows it", func() (bool, string) {
			s := e.AgentStatus(h.Name())
			return s.Etcd.Connected && s.Etcd.Revision >= revision, fmt.Sprint(s.Etcd)
		})
	}
}

// revision is that of a network's record.
func (e *etcdUnderAgents) revision(network string) int64 {
	e.T.Helper()
	out, err := e.etcdctl("get", "-w", "json", "/baize/v1/networks/"+network)
	require.NoError(e.T, err, out)
	var x struct {
		Kvs []struct {
			ModRevision int64 `json:"mod_revision"`
		}
	}
	require.NoError(e.T, json.Unmarshal([]byte(out), &x))
	require.Len(e.T, x.Kvs, 1)
	return x.Kvs[0].ModRevision
}

// Whatever becomes of etcd, no packet is lost, endpoints come and go, and what changes
// later is followed: its leader is killed, it is compacted, all of it is restarted, a host
// is cut off from it, one member's disk fills up.
func TestEtcdUnderAgents(t *testing.T) {
	t.Parallel()
	e := upOnEtcd(t)
	pings := []labkit.Pings{
		e.Ping(e.Netns("host1/c"), e.addr("host2", "c"), 10*time.Millisecond),
		e.Ping(e.Netns("host2/c"), e.addr("host1", "c"), 10*time.Millisecond),
	}
	status := func(host string) (s lab.EndpointStatus) {
		s.Node, s.Name = host, "c"
		return s
	}
	stream := e.Trickle(status("host1"), status("host2"), e.addr("host2", "c"))
	stream(func() {
		for _, x := range []struct {
			name string
			test func(*etcdUnderAgents)
		}{
			{"the leader is killed", testEtcdLeader}, {"it is compacted", testEtcdCompacted},
			{"all members are restarted", testEtcdRestarted}, {"a host is cut off", testEtcdCutOff},
			{"a disk fills up", testEtcdDisk},
		} {
			t.Run(x.name, func(t *testing.T) {
				outer := e.domain
				defer func() { e.domain = outer }()
				e.domain = outer.in(t)
				x.test(e)
			})
		}
		labkit.GoOn(50, pings...)
	})
	for _, p := range pings {
		assert.Empty(t, p.Ends().Missing, p.Name)
	}
	for _, h := range e.Hosts() {
		assert.True(t, e.AgentStatus(h.Name()).Ready, h.Name())
	}
}

func testEtcdLeader(e *etcdUnderAgents) {
	n := e.leader()
	e.stop[n]()
	e.guest()
	e.followed("another leader")
	e.start(n)
}

func testEtcdCompacted(e *etcdUnderAgents) {
	e.serves()
	revision := e.AgentStatus("host1").Etcd.Revision
	require.NoError(e.T, e.Host("host3").Unplug()) // its watch is behind
	for range 5 {
		e.serves()
	}
	_, err := e.etcdctl("compact", fmt.Sprint(revision+4))
	require.NoError(e.T, err)
	require.NoError(e.T, e.Host("host3").Plug())
	e.guest()
	e.followed("compacted")
}

func testEtcdRestarted(e *etcdUnderAgents) {
	for n := 1; n <= etcdMembers; n++ {
		e.stop[n]()
	}
	e.guest()
	for n := 1; n <= etcdMembers; n++ {
		e.start(n)
	}
	e.followed("restarted")
	e.guest()
}

func testEtcdCutOff(e *etcdUnderAgents) {
	for _, rule := range []string{
		"add table inet cut", "add chain inet cut output { type filter hook output priority 0; }",
		"add chain inet cut input { type filter hook input priority 0; }",
		"add rule inet cut output tcp dport 3379-3420 drop", "add rule inet cut input tcp sport 3379-3420 drop",
	} {
		e.Must("host3", "nft", rule)
	}
	revision := e.create("cut off")
	e.guest()
	require.Less(e.T, e.AgentStatus("host3").Etcd.Revision, revision, "nobody has told it")
	e.Must("host3", "nft", "delete", "table", "inet", "cut")
	e.followed("back again")
}

// testEtcdDisk fills a member's disk under load, until the member fails.
func testEtcdDisk(e *etcdUnderAgents) {
	disk := filepath.Join(e.dir, fmt.Sprint("disk", etcdMembers))
	_, _ = e.Run("fabric", "dd", "if=/dev/zero", "of="+disk+"/full", "bs=1M")
	value := strings.Repeat("x", 100_000)
	e.Await("the member with the full disk fails", func() (bool, string) {
		for i := range 20 {
			_, _ = e.etcdctl("put", fmt.Sprint("/load/", i), value)
		}
		_, err := e.Run("fabric", "etcdctl", "--command-timeout=2s", "--endpoints="+e.client(etcdMembers), "endpoint", "health")
		return err != nil, "it is healthy"
	})
	log, err := os.ReadFile(filepath.Join(e.dir, fmt.Sprintf("m%d.log", etcdMembers)))
	require.NoError(e.T, err)
	require.Contains(e.T, string(log), "no space left on device")
	e.guest()
	e.followed("with a full disk")
}
