//go:build system

package domaintest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// etcdCluster is what docs/production.md says: three real etcd servers with TLS,
// on the hosts of a lab. They look at each other's addresses: one machine's
// loopback is no place for them.
type etcdCluster struct {
	*domain
	dir  string
	page map[string]string // blocks by name
	stop map[int]func()
}

// put moves the page's addresses and directories to the lab.
func (e *etcdCluster) put(text string) string {
	return strings.NewReplacer("192.0.2.", "192.168.77.1", "/etc/etcd/", e.dir+"/", "/var/lib/etcd/", e.dir+"/data/").
		Replace(text)
}

func (e *etcdCluster) sh(host, script string) {
	e.T.Helper()
	e.Must(host, "sh", "-ec", "cd "+e.dir+"\n"+script)
}

// start starts member n with the settings of the first one, "with its own name
// and address".
func (e *etcdCluster) start(n int) {
	e.T.Helper()
	argv := []string{"env", "-i", "PATH=" + os.Getenv("PATH")}
	for line := range strings.Lines(e.page["etcd1.env"]) {
		if !strings.HasPrefix(line, "ETCD_INITIAL_CLUSTER=") {
			line = strings.NewReplacer("etcd1", fmt.Sprintf("etcd%d", n), "192.0.2.1:", fmt.Sprintf("192.0.2.%d:", n), "default", fmt.Sprintf("default%d", n)).
				Replace(line)
		}
		argv = append(argv, e.put(strings.TrimSpace(line)))
	}
	require.NoError(e.T, os.MkdirAll(filepath.Join(e.dir, "data"), 0o700))
	log, err := os.OpenFile(filepath.Join(e.dir, fmt.Sprintf("etcd%d.log", n)), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(e.T, err)
	argv, environment, err := e.ExecCommand(fmt.Sprintf("host%d", n), append(argv, "etcd"))
	require.NoError(e.T, err)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = environment, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(e.T, cmd.Start(), "apt-get install etcd-server")
	e.stop[n] = func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = log.Close()
		delete(e.stop, n)
	}
}

// baize runs a command on a host with the settings file of a node; the host's own
// agent has another etcd.
func (e *etcdCluster) baize(args ...string) (string, error) {
	e.T.Helper()
	settings := strings.ReplaceAll(e.put(e.page["node.env"]), "PASSWORD", "of-baize")
	file := filepath.Join(e.dir, "node.env")
	require.NoError(e.T, os.WriteFile(file, []byte(settings), 0o600))
	env := []string{"env", "-u", "BAIZE_ETCD_ENDPOINTS", "BAIZE_SOCKET=/none", "BAIZE_SETTINGS=" + file, "baize"}
	return e.Run("host3", append(env, args...)...)
}

func TestProductionEtcd(t *testing.T) {
	t.Parallel()
	e := &etcdCluster{
		domain: up(t, topology.VXLAN, lab.Config{Endpoints: -1}),
		dir:    t.TempDir(),
		page:   map[string]string{},
		stop:   map[int]func(){},
	}
	for _, b := range testkit.Blocks(t, "../../../docs/production.md") {
		e.page[b.Name] = b.Text()
	}
	for _, name := range []string{"certificates.sh", "etcd1.env", "auth.sh", "node.env"} {
		require.NotEmpty(t, e.page[name], name)
	}
	e.sh("host1", e.put(e.page["certificates.sh"]))
	t.Cleanup(func() {
		for _, stop := range e.stop {
			stop()
		}
		if t.Failed() {
			for n := range 3 {
				log, _ := os.ReadFile(filepath.Join(e.dir, fmt.Sprintf("etcd%d.log", n+1)))
				t.Logf("etcd%d: %s", n+1, log[max(0, len(log)-2000):])
			}
		}
	})
	for n := 1; n <= 3; n++ {
		e.start(n)
	}
	health := e.put(
		"ETCDCTL_API=3 etcdctl --endpoints https://192.0.2.1:2379 --cacert ca.crt --cert node.crt --key node.key " +
			"endpoint health --cluster",
	)
	e.Await("three members are well", func() (bool, string) {
		out, err := e.Run("host1", "sh", "-c", "cd "+e.dir+"; "+health+" 2>&1")
		return err == nil && strings.Count(out, "is healthy") == 3, out
	})
	e.sh("host1", "export ROOT_PASSWORD=of-root BAIZE_PASSWORD=of-baize\n"+e.put(e.page["auth.sh"]))

	works := func(name, subnet string) {
		t.Helper()
		// A cluster that has lost its leader elects another one.
		e.Await("network "+name, func() (bool, string) {
			out, err := e.baize("network", "create", name, "--subnet", subnet)
			return err == nil || strings.Contains(fmt.Sprint(err), "already"), fmt.Sprint(out, err)
		})
		out, err := e.baize("network", "list")
		require.NoError(t, err, out)
		require.Contains(t, out, subnet)
	}
	works("blue", "10.1.0.0/16")
	e.stop[1]()
	works("red", "10.2.0.0/16")
	e.stop[2]()
	out, err := e.baize("network", "create", "green", "--subnet", "10.3.0.0/16")
	require.Error(t, err, "without a majority nothing is written")
	assert.Contains(t, out+err.Error(), "etcd")
	e.start(1)
	works("green", "10.3.0.0/16")
	// What else is in this etcd is not Baize's to see.
	out, err = e.baize("network", "list", "--etcd-prefix", "/other")
	require.Error(t, err)
	assert.Contains(t, out+err.Error(), "permission denied")
}
