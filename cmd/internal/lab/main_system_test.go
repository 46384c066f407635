//go:build system

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/pid1"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver"
)

// upVar makes the process an Up of the configuration in it, to be killed.
const upVar = "BAIZE_TEST_LAB_UP"

// TestMain makes the test executable a baize of its own: the lab starts it as
// pid 1 of hosts, as etcd and as agent. What is under test here is the lab;
// its agent only says that it is ready, and 'endpoint add' joins the endpoint
// to the underlay's own Ethernet, so that traffic between hosts is real.
func TestMain(m *testing.M) {
	if config := os.Getenv(upVar); config != "" && len(os.Args) == 1 {
		os.Exit(exitCode(upOf(config)))
	}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(exitCode(fakeBaize(os.Args[1:])))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "lab tests: these need root: run them with sudo, or without -tags system")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return cli.ExitCode(err)
}

func upOf(config string) error {
	var c Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	_, err := Up(context.Background(), c)
	return err
}

func fakeBaize(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f := flag.NewFlagSet("baize", flag.ContinueOnError)
	network, netns := f.String("network", "", ""), f.String("netns", "", "")
	transport := f.String("transport", "", "")
	dir, urls := f.String("data-dir", "", ""), f.String("listen-client-urls", "", "")
	f.Bool("unsafe-no-fsync", false, "")
	f.Bool("force", false, "")
	f.Bool("yes", false, "")
	f.String("vni", "", "")
	f.String("mtu", "", "")
	f.String("o", "", "")
	f.Func("subnet", "", func(string) error { return nil })
	var words []string
	for rest := args; len(rest) > 0; {
		if !strings.HasPrefix(rest[0], "-") {
			words, rest = append(words, rest[0]), rest[1:]
			continue
		}
		if strings.Join(words, " ") == "lab host-init" || words[0] == "probe" {
			break
		}
		if err := f.Parse(rest); err != nil {
			return err
		}
		rest = f.Args()
	}
	words = append(words, "", "", "")
	record := filepath.Join(supervisor.Dir, "network-"+words[2])
	switch command := words[0] + " " + words[1]; {
	case command == "lab host-init":
		return pid1.Main(args[2:], os.Stderr)
	case words[0] == "etcd":
		return etcdserver.Run(
			ctx, etcdserver.Config{Dir: *dir, ClientURLs: strings.Split(*urls, ","), Fast: true, UnsafeNoFsync: true}, nil,
		)
	case command == "agent cleanup", command == "node remove":
		_, err := fmt.Println("done", words[2])
		return err
	case words[0] == "agent":
		return fakeAgent(ctx)
	case command == "network create", command == "network update":
		return os.WriteFile(record, []byte(`{"transport":"`+*transport+`"}`), 0o600)
	case command == "network show":
		b, err := os.ReadFile(record)
		if errors.Is(err, fs.ErrNotExist) {
			return &topology.Error{Kind: topology.ErrNotFound, Item: "network " + words[2], What: "does not exist"}
		}
		fmt.Println(string(b))
		return err
	case command == "endpoint add":
		return fakeEndpoint(*network, *netns)
	case command == "endpoint remove":
		_, name, _ := strings.Cut(words[2], "/")
		return script("ovs-vsctl --timeout=10 --if-exists del-port br-phy v%[1]s; ip link del v%[1]s 2>/dev/null || :", name)
	case command == "probe serve":
		return probe.ServeMain(ctx, args[2:], os.Stdout)
	case command == "probe send":
		return probe.SendMain(ctx, args[2:], os.Stdout)
	}
	return fmt.Errorf("unknown command %v", args)
}

// fakeAgent fails to become ready where the file says so.
func fakeAgent(ctx context.Context) error {
	if _, err := os.Stat("/var/lib/baize/broken"); err == nil {
		return errors.New("this agent is broken on purpose")
	}
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1\nSTATUS=forwarding")); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// fakeEndpoint joins a namespace to br-phy: 10.1.HOST.x, fd00:10:1:HOST::x.
func fakeEndpoint(network, netns string) error {
	node := os.Getenv("BAIZE_NODE")
	n := member.HostNumber(node)
	sum := fnv.New32a()
	fmt.Fprint(sum, network, netns)
	last := strconv.Itoa(10 + int(sum.Sum32()%200))
	port := "v" + netns
	return script(`ip link add %[1]s type veth peer name eth0 netns %[2]s
ip link set %[1]s up
ethtool -K %[1]s tx off >/dev/null
ip netns exec %[2]s ethtool -K eth0 tx off >/dev/null
ip -n %[2]s addr add 10.1.%[3]d.%[4]s/16 dev eth0
ip -n %[2]s addr add fd00:10:1:%[3]d::%[4]s/48 dev eth0 nodad
ip -n %[2]s link set eth0 up
sysctl -qw net.ipv6.conf.%[1]s.disable_ipv6=1
ovs-vsctl --timeout=10 --may-exist add-port br-phy %[1]s`, port, netns, n, last)
}

// script runs shell commands, one script at a time on a host.
func script(format string, args ...any) error {
	out, err := exec.Command(
		"flock", supervisor.Dir+"/fake.lock", "sh", "-ec", fmt.Sprintf(format, args...),
	).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
