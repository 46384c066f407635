// Package ovstest runs a real Open vSwitch in a temporary directory, for tests.
//
// The datapath "system" is OVS's own dummy: it needs neither root nor a kernel
// module and touches no interface of the machine. Bridges, tunnel ports, OpenFlow
// and ofproto/trace are the real ones, and a port of type "" or "internal" has a
// dummy behind it, whether a device of its name exists or not. Do not give a
// bridge datapath_type=netdev: that is the real userspace datapath.
package ovstest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds how long a daemon may take to answer, callTimeout how
// long one command may take.
const (
	startTimeout = 20 * time.Second
	callTimeout  = 20 * time.Second
)

// OVS is one running Open vSwitch: an ovsdb-server and an ovs-vswitchd. Its
// methods may be called from the test's own goroutine only.
type OVS struct {
	t        testing.TB
	dir      string
	ovsdb    *daemon
	vswitchd *daemon
}

// Start runs an Open vSwitch until the test ends. It fails the test when Open
// vSwitch is not installed.
func Start(t testing.TB) *OVS {
	t.Helper()
	for _, bin := range []string{"ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovs-appctl"} {
		if _, err := find(bin); err != nil {
			t.Fatalf("%s is not installed (apt-get install --no-install-recommends openvswitch-switch)", bin)
		}
	}
	// Not t.TempDir(): with a long test name its paths pass the 107 bytes of a
	// unix socket's name.
	dir, err := os.MkdirTemp("", "bzt-ovs-")
	if err != nil {
		t.Fatal(err)
	}
	o := &OVS{t: t, dir: dir}
	t.Cleanup(func() {
		o.vswitchd.kill(syscall.SIGKILL)
		o.ovsdb.kill(syscall.SIGKILL)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	o.must("ovsdb-tool", "create", o.path("conf.db"), schema(t))
	o.StartOVSDB()
	// ovs_version is written by the start script of the packages.
	_, version, _ := strings.Cut(strings.SplitN(o.must("ovs-vswitchd", "--version"), "\n", 2)[0], ") ")
	o.Vsctl("--no-wait", "init", "--", "set", "Open_vSwitch", ".", "ovs_version="+version)
	o.StartVswitchd()
	return o
}

// schema is where the packages install vswitch.ovsschema.
func schema(t testing.TB) string {
	t.Helper()
	for _, p := range []string{
		"/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema",
	} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Fatal("vswitch.ovsschema is not installed (apt-get install --no-install-recommends openvswitch-switch)")
	return ""
}

func (o *OVS) path(name string) string { return filepath.Join(o.dir, name) }

// Endpoint returns the OVSDB endpoint, "unix:/…/db.sock".
func (o *OVS) Endpoint() string { return "unix:" + o.path("db.sock") }

// RunDir returns the directory with the sockets and pidfiles, OVS_RUNDIR.
func (o *OVS) RunDir() string { return o.dir }

// StartOVSDB starts ovsdb-server and returns once it answers.
func (o *OVS) StartOVSDB() {
	o.t.Helper()
	// A socket left by a killed server would look like an answer.
	os.Remove(o.path("db.sock"))
	o.ovsdb = o.start("ovsdb-server", o.path("conf.db"), "--remote=punix:"+o.path("db.sock"))
	o.await(o.ovsdb, "ovs-appctl", "-t", "ovsdb-server", "version")
}

// StartVswitchd starts ovs-vswitchd and returns once it answers.
func (o *OVS) StartVswitchd() {
	o.t.Helper()
	o.vswitchd = o.start("ovs-vswitchd", o.Endpoint(), "--enable-dummy=system", "--disable-system")
	o.await(o.vswitchd, "ovs-appctl", "-t", "ovs-vswitchd", "version")
}

// KillOVSDB kills ovsdb-server as kill -9 does and waits for its end.
func (o *OVS) KillOVSDB() { o.ovsdb.kill(syscall.SIGKILL) }

// KillVswitchd kills ovs-vswitchd as kill -9 does and waits for its end.
func (o *OVS) KillVswitchd() { o.vswitchd.kill(syscall.SIGKILL) }

// PauseOVSDB stops ovsdb-server without ending it: it accepts connections and
// answers nothing. The function returned lets it run on.
func (o *OVS) PauseOVSDB() (resume func()) { return o.ovsdb.pause() }

// PauseVswitchd does the same with ovs-vswitchd.
func (o *OVS) PauseVswitchd() (resume func()) { return o.vswitchd.pause() }

// Vsctl runs ovs-vsctl and returns its output without the last newline. A
// failure fails the test.
func (o *OVS) Vsctl(args ...string) string {
	o.t.Helper()
	return o.must("ovs-vsctl", append([]string{"--db=" + o.Endpoint(), "--timeout=15"}, args...)...)
}

// Ofctl runs ovs-ofctl -O OpenFlow14. A failure fails the test.
func (o *OVS) Ofctl(args ...string) string {
	o.t.Helper()
	return o.must("ovs-ofctl", append([]string{"-O", "OpenFlow14", "--timeout=15"}, args...)...)
}

// Appctl runs ovs-appctl against ovs-vswitchd. A failure fails the test.
func (o *OVS) Appctl(args ...string) string {
	o.t.Helper()
	return o.must("ovs-appctl", append([]string{"-t", "ovs-vswitchd", "--timeout=15"}, args...)...)
}

func (o *OVS) must(name string, args ...string) string {
	o.t.Helper()
	out, err := o.run(name, args...)
	if err != nil {
		o.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (o *OVS) run(name string, args ...string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = o.env()
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimRight(out, "\n")), err
}

func (o *OVS) env() []string {
	return append(os.Environ(), "OVS_RUNDIR="+o.dir, "OVS_LOGDIR="+o.dir, "OVS_DBDIR="+o.dir)
}

// find looks where Debian puts the daemons as well: /usr/sbin is not in the
// PATH of an ordinary user.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	p := filepath.Join("/usr/sbin", name)
	_, err := os.Stat(p)
	return p, err
}

// await polls until the command works: the daemons have no other sign of
// being ready when they do not detach.
func (o *OVS) await(d *daemon, name string, args ...string) {
	o.t.Helper()
	var out string
	var err error
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-d.done:
			o.t.Fatalf("%s ended at once:\n%s", d.name, d.log())
		default:
		}
		if out, err = o.run(name, args...); err == nil {
			return
		}
	}
	o.t.Fatalf("%s does not answer: %v\n%s\n%s", d.name, err, out, d.log())
}

// daemon is a child process.
type daemon struct {
	name string
	out  string // file with what it printed
	pid  int
	done chan struct{}
}

func (o *OVS) start(name string, args ...string) *daemon {
	o.t.Helper()
	path, err := find(name)
	if err != nil {
		o.t.Fatal(err)
	}
	pidfile := o.path(name + ".pid")
	// A pidfile left by a killed daemon makes the next one refuse to start if
	// the kernel gave the number to somebody else.
	os.Remove(pidfile)
	d := &daemon{name: name, out: o.path(name + ".out"), done: make(chan struct{})}
	out, err := os.Create(d.out)
	if err != nil {
		o.t.Fatal(err)
	}
	//nolint:forbidigo // a daemon: it ends with the test
	cmd := exec.Command(path, append(args, "--pidfile="+pidfile, "--no-chdir", "-vconsole:warn", "-vsyslog:off")...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = o.env(), out, out, o.dir
	// The kernel kills the daemon with the thread that started it, so nothing
	// is left when the test binary is killed. The thread therefore has to stay.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(d.done)
		defer out.Close()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		d.pid = cmd.Process.Pid
		started <- nil
		_ = cmd.Wait() // killed: the error says so and is expected
	}()
	if err := <-started; err != nil {
		o.t.Fatal(err)
	}
	return d
}

func (d *daemon) kill(sig syscall.Signal) {
	if d == nil {
		return
	}
	select {
	case <-d.done:
		return
	default:
	}
	_ = syscall.Kill(d.pid, sig)
	<-d.done
}

func (d *daemon) pause() func() {
	_ = syscall.Kill(d.pid, syscall.SIGSTOP)
	return sync.OnceFunc(func() { _ = syscall.Kill(d.pid, syscall.SIGCONT) })
}

func (d *daemon) log() string {
	b, _ := os.ReadFile(d.out)
	return string(b)
}
