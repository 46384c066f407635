//go:build system

package packagetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// Every command of docs/first-hosts.md runs here as it is printed, on two hosts that
// have nothing but Debian, but for these. A root has no archive that it could reach,
// and no systemd: a service is started with the settings of the page, and in the order
// in which its unit's Wants= has it started.
var instead = map[string]struct{ run, because string }{
	"apt-get install etcd-server": {
		"install -m 755 /tmp/etcd /usr/bin/etcd",
		"no archive: it is the machine's own, of the package of that name",
	},
	"systemctl restart etcd": {
		`set -a; ETCD_NAME=$(hostname) ETCD_DATA_DIR=/var/lib/etcd/default; . /etc/default/etcd; set +a
/usr/bin/etcd >/tmp/etcd.log 2>&1 &
until (: </dev/tcp/192.0.2.1/2379) 2>/dev/null; do sleep 0.1; done`,
		"no systemd: the variables of etcd.service, and of the file that it reads",
	},
	"systemctl start baize": {
		`mkdir -p /run/openvswitch /var/log/openvswitch /etc/openvswitch
ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server --remote=punix:/run/openvswitch/db.sock --pidfile --detach --log-file=/dev/null
ovs-vsctl --no-wait init
ovs-vswitchd --pidfile --detach --log-file=/dev/null
baize with-settings /etc/default/baize agent >/tmp/agent.log 2>&1 &
until [ "$(baize status -o jsonpath={.agent.ready})" = true ]; do kill -0 $! || exit; sleep 0.1; done`,
		"no systemd: Open vSwitch, then the agent, which is waited for until it is ready",
	},
}

// elsewhere are commands whose first word no root has. domaintest.TestDockerDocs runs them on
// hosts with engines.
var elsewhere = []string{"docker"}

// bareHost is a host that has a clean root, and namespaces of its own.
type bareHost struct {
	t    *testing.T
	name string
	pid  string
	root string
}

// startBareHost makes a host of a clean root. It ends with the test.
func startBareHost(t *testing.T, archive, name string) *bareHost {
	t.Helper()
	h := &bareHost{t: t, name: name, root: unpack(t, archive)}
	cmd := exec.Command("sh", "-ec", `mount --make-rprivate /; mount --bind "$0" "$0"
mount -t proc proc "$0/proc"; mount -t sysfs sys "$0/sys"; mount --rbind /dev "$0/dev"; mount -t tmpfs run "$0/run"
hostname "$1"; ip link set lo up; touch "$0/run/up"; exec chroot "$0" sleep infinity`, h.root, name)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL,
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // process 1 of its namespace: all others end with it
		_ = cmd.Wait()
	})
	h.pid = strconv.Itoa(cmd.Process.Pid)
	testkit.Await(t, name+" is up", func() (bool, string) {
		_, err := os.Stat(filepath.Join("/proc", h.pid, "root/run/up"))
		return err == nil, fmt.Sprint(err)
	})
	return h
}

// types runs a command as somebody types it at the prompt of the host.
func (h *bareHost) types(text string) string {
	h.t.Helper()
	out, err := testkit.Try(2*time.Minute, []string{"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "HOME=/root"},
		"nsenter", "-t", h.pid, "-n", "-m", "-p", "-u", "-r", "-w", "bash", "-ec", "cd /root\n"+text)
	h.t.Logf("%s# %s\n%s", h.name, text, out)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(h.root, "tmp/agent.log"))
		h.t.Fatalf("%s: %s: %v\n%s\n%s", h.name, text, err, out, log)
	}
	return out
}

// userspace reports whether Open vSwitch has its datapath outside of the kernel, for
// which the page has commands of its own.
func userspace() bool {
	_, err := os.Stat("/sys/module/openvswitch")
	return err != nil
}

// firstHosts is U16: ten minutes from two bare hosts to a ping, as the page has it.
func firstHosts(t *testing.T, archive, dist string) {
	etcd, err := exec.LookPath("etcd")
	require.NoError(t, err, "scripts/install-deps.sh test installs it")
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err, "scripts/install-deps.sh test installs it")
	deb := only(t, dist, "*.deb")
	hosts := map[string]*bareHost{}
	for _, name := range []string{"host1", "host2"} {
		h := startBareHost(t, archive, name)
		run(t, nil, "install", "-m", "755", etcd, filepath.Join(h.root, "tmp/etcd"))
		run(t, nil, "install", "-m", "755", busybox, filepath.Join(h.root, "usr/bin/busybox"))
		run(t, nil, "ln", "-s", "busybox", filepath.Join(h.root, "usr/bin/ping")) // hosts have one, this root has none
		run(t, nil, "cp", deb, filepath.Join(h.root, "root"))
		// iptables is recommended, and there is no archive to have it from.
		conf := filepath.Join(h.root, "etc/apt/apt.conf.d/no-archive")
		require.NoError(t, os.WriteFile(conf, []byte("APT::Install-Recommends \"false\";\n"), 0o600))
		hosts[name] = h
	}
	run(t, nil, "ip", "link", "add", "eth0", "netns", hosts["host1"].pid, "type", "veth", "peer", "eth0", "netns", hosts["host2"].pid)
	for i, name := range []string{"host1", "host2"} {
		hosts[name].types(fmt.Sprintf("ip address add 192.0.2.%d/24 dev eth0\nip link set eth0 up", i+1))
	}

	names, replaced, ran := []string{"host1", "host2"}, 0, 0
	for _, c := range testkit.TypedAsRoot(t, "../../../docs/first-hosts.md") {
		first, _, _ := strings.Cut(c.Text, " ")
		if slices.Contains(elsewhere, first) || strings.Contains(c.Text, "br-phy") && !userspace() {
			continue
		}
		text := strings.ReplaceAll(c.Text, "_amd64.deb", filepath.Base(deb)[strings.LastIndex(filepath.Base(deb), "_"):])
		if other, ok := instead[text]; ok {
			text = other.run
			replaced++
		}
		for _, name := range names {
			if c.Host == "" || c.Host == name {
				out := hosts[name].types(text)
				if strings.Contains(text, " ping ") {
					assert.Contains(t, out, ", 0% packet loss")
				}
				ran++
			}
		}
	}
	assert.Equal(t, len(instead), replaced, "each command that is replaced is on the page once")
	assert.Greater(t, ran, 20)
	assert.Contains(t, hosts["host2"].types("baize topology"), "pin 10.1.200.1")
}
