package scripts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mkDockerOpts runs the script with a subnet.env (none when it is empty).
type mkDockerOpts struct {
	name   string
	subnet string // a file's text, or @NAME for a golden file of subnetenv
	args   []string
	env    []string
	route  string // what 'ip -4 route show exact …' prints
	want   string // the file that is written
	fails  string // part of the message: then no file is to be there
}

const (
	flannelEnv = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"

	bip  = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\n"
	masq = "DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n"
	mtu  = "DOCKER_OPT_MTU=\"--mtu=1472\"\n"
	opts = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n"
)

func without(line string) string { return strings.Replace(flannelEnv, line+"\n", "", 1) }

func instead(old, replacement string) string { return strings.Replace(flannelEnv, old, replacement, 1) }

var mkDockerOptsTests = []mkDockerOpts{
	// What flannel's own script writes for the same.
	{name: "both", subnet: flannelEnv, want: bip + masq + mtu + opts},
	{name: "each", subnet: flannelEnv, args: []string{"-i"}, want: bip + masq + mtu},
	{name: "combined", subnet: flannelEnv, args: []string{"-c"}, want: opts},
	{name: "each and combined", subnet: flannelEnv, args: []string{"-c", "-i"}, want: bip + masq + mtu + opts},
	{
		name:   "key",
		subnet: flannelEnv,
		args:   []string{"-k", "OPTIONS"},
		want:   bip + masq + mtu + strings.Replace(opts, "DOCKER_OPTS", "OPTIONS", 1),
	},
	{
		name:   "without masquerading",
		subnet: flannelEnv,
		args:   []string{"-m"},
		want:   bip + mtu + "DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n",
	},
	{
		name: "flannel masquerades", subnet: instead("IPMASQ=false", "IPMASQ=true"), args: []string{"-c"},
		want: "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=false --mtu=1472\"\n",
	},
	{
		name: "options that are there stay in front", subnet: flannelEnv, args: []string{"-c"}, env: []string{"DOCKER_OPTS=--debug"},
		want: "DOCKER_OPTS=\"--debug  --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n",
	},
	{
		name: "further options", subnet: flannelEnv + "DOCKER_OPT_DEBUG=--debug\n", env: []string{"DOCKER_OPT_Z=--log-level=warn"},
		want: bip + "DOCKER_OPT_DEBUG=\"--debug\"\n" + masq + mtu + "DOCKER_OPT_Z=\"--log-level=warn\"\n" +
			"DOCKER_OPTS=\" --bip=10.1.74.1/24 --debug --ip-masq=true --mtu=1472 --log-level=warn\"\n",
	},
	{
		name:   "the environment is not the subnet",
		subnet: flannelEnv,
		args:   []string{"-c"},
		env:    []string{"FLANNEL_SUBNET=10.9.9.1/24", "BAIZE_L2=true"},
		want:   opts,
	},
	{
		name:   "network not told, not needed",
		subnet: without("FLANNEL_NETWORK=10.1.0.0/16"),
		args:   []string{"-c"},
		want:   opts,
	},
	{
		name: "quotes, comments, other names",
		subnet: "# of today\n\nexport " +
			"FLANNEL_SUBNET=\"10.1.74.1/24\"\nFLANNEL_MTU='1472'\nFLANNEL_IPMASQ=false\nPATH=/nowhere\n",
		args: []string{"-c"},
		want: opts,
	},
	{
		name:   "route of another subnet",
		subnet: flannelEnv,
		args:   []string{"-c"},
		route:  "10.1.74.0/24 dev docker0 proto kernel",
		want:   opts,
	},

	// IPv6, which flannel's leaves out.
	{
		name: "dual stack", subnet: "@dual",
		want: "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_FIXED_CIDR_V6=\"--fixed-cidr-v6=fd00:10:1:74::/64\"\n" +
			"DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\nDOCKER_OPT_IPV6=\"--ipv6\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n" +
			"DOCKER_OPTS=\" --bip=10.1.74.1/24 --fixed-cidr-v6=fd00:10:1:74::/64 --ip-masq=true --ipv6 --mtu=1450\"\n",
	},
	{
		name: "IPv6 only", subnet: "@ipv6", args: []string{"-c"},
		want: "DOCKER_OPTS=\" --fixed-cidr-v6=fd00:10:1:74::/64 --ip-masq=false --ipv6 --mtu=1280\"\n",
	},

	// One Ethernet.
	{
		name: "domain", subnet: "@domain", args: []string{"-c", "-k", "BAIZE_DOCKER_OPTS"},
		want: "BAIZE_DOCKER_OPTS=\" --bip=10.1.74.1/16 --fixed-cidr=10.1.74.0/24 --fixed-cidr-v6=fd00:10:1:74::/64 " +
			"--ip-masq=true --ipv6 --mtu=1450\"\n",
	},
	{
		name:   "-w",
		subnet: flannelEnv,
		args:   []string{"-w", "-c"},
		want:   "DOCKER_OPTS=\" --bip=10.1.74.1/16 --fixed-cidr=10.1.74.0/24 --ip-masq=true --mtu=1472\"\n",
	},
	{
		name: "-w, off the octets", subnet: "FLANNEL_NETWORK=172.16.0.0/13\nFLANNEL_SUBNET=172.21.194.1/23\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n", args: []string{"-w", "-c"},
		want: "DOCKER_OPTS=\" --bip=172.21.194.1/13 --fixed-cidr=172.21.194.0/23 --ip-masq=true --mtu=1472\"\n",
	},
	{name: "BAIZE_L2=false", subnet: flannelEnv + "BAIZE_L2=false\n", args: []string{"-c"}, want: opts},

	// Failing closed.
	{name: "no file", fails: "is not there"},
	{name: "empty file", subnet: "\n", fails: "FLANNEL_MTU is missing"},
	{name: "no subnet", subnet: without("FLANNEL_SUBNET=10.1.74.1/24"), fails: "FLANNEL_SUBNET is missing"},
	{name: "no MTU", subnet: without("FLANNEL_MTU=1472"), fails: "FLANNEL_MTU is missing"},
	{name: "no masquerading", subnet: without("FLANNEL_IPMASQ=false"), fails: "FLANNEL_IPMASQ is missing"},
	{name: "cut off", subnet: strings.TrimSuffix(flannelEnv, "lse\n"), fails: "cut off"},
	{name: "garbage", subnet: "garbage\n" + flannelEnv, fails: "'garbage' is not NAME=value"},
	{name: "garbage for a name", subnet: "A B=1\n" + flannelEnv, fails: "is not NAME=value"},
	{name: "a command", subnet: flannelEnv + "X=$(touch pwned)\n", fails: "X is not a plain value"},
	{name: "line ends of another system", subnet: strings.ReplaceAll(flannelEnv, "\n", "\r\n"), fails: "is not"},
	{name: "no address", subnet: instead("10.1.74.1/24", "10.1.74/24"), fails: "is not ADDRESS/LENGTH"},
	{name: "an octet too large", subnet: instead("10.1.74.1/24", "10.1.274.1/24"), fails: "is not ADDRESS/LENGTH"},
	{name: "no length", subnet: instead("10.1.74.1/24", "10.1.74.1"), fails: "is not ADDRESS/LENGTH"},
	{name: "length too large", subnet: instead("10.1.74.1/24", "10.1.74.1/33"), fails: "is not ADDRESS/LENGTH"},
	{name: "MTU", subnet: instead("1472", "14k"), fails: "FLANNEL_MTU=14k"},
	{name: "masquerading", subnet: instead("false", "perhaps"), fails: "FLANNEL_IPMASQ=perhaps"},
	{name: "BAIZE_L2", subnet: flannelEnv + "BAIZE_L2=yes\n", fails: "BAIZE_L2=yes"},
	{name: "IPv6", subnet: flannelEnv + "FLANNEL_IPV6_SUBNET=10.1.2.1/24\n", fails: "FLANNEL_IPV6_SUBNET"},
	{
		name:   "-w without the network",
		subnet: without("FLANNEL_NETWORK=10.1.0.0/16"),
		args:   []string{"-w"},
		fails:  "FLANNEL_NETWORK= is not",
	},
	{
		name:   "-w with another network",
		subnet: instead("10.1.0.0/16", "10.2.0.0/16"),
		args:   []string{"-w"},
		fails:  "is not a part of 10.2.0.0/16",
	},
	{
		name:   "-w with a smaller network",
		subnet: instead("10.1.0.0/16", "10.1.74.0/25"),
		args:   []string{"-w"},
		fails:  "is not a part of",
	},
	{
		name:   "routed elsewhere",
		subnet: flannelEnv,
		route:  "10.1.74.0/24 via 192.168.1.9 dev eth0",
		fails:  "has this host's subnet already",
	},
	{name: "bad key", subnet: flannelEnv, args: []string{"-k", "A B"}, fails: "is not the name of a variable"},
	{name: "a word too many", subnet: flannelEnv, args: []string{"-c", "x"}, fails: "usage:"},
	{name: "unknown option", subnet: flannelEnv, args: []string{"-z"}, fails: "usage:"},
}

func TestMkDockerOpts(t *testing.T) {
	tools := []string{"env", "sed", "sort", "mkdir", "mktemp", "chmod", "mv", "rm", "cat"}
	script, err := filepath.Abs("mk-docker-opts.sh")
	require.NoError(t, err)
	for _, shell := range []string{"dash", "bash"} {
		path, err := exec.LookPath(shell)
		require.NoError(t, err, "apt-get install %s", shell)
		for _, tt := range mkDockerOptsTests {
			t.Run(shell+"/"+tt.name, func(t *testing.T) {
				dir := t.TempDir()
				from, to := filepath.Join(dir, "subnet.env"), filepath.Join(dir, "run", "docker.env")
				if golden, ok := strings.CutPrefix(tt.subnet, "@"); ok {
					b, err := os.ReadFile("../cmd/internal/subnetenv/testdata/" + golden + ".env")
					require.NoError(t, err)
					tt.subnet = string(b)
				}
				if tt.subnet != "" {
					require.NoError(t, os.WriteFile(from, []byte(tt.subnet), 0o644))
				}
				if tt.fails != "" { // an old file must not pass for the answer
					require.NoError(t, os.Mkdir(filepath.Dir(to), 0o755))
					require.NoError(t, os.WriteFile(to, []byte(opts), 0o644))
				}
				t.Chdir(dir)
				fakes := map[string]string{"ip": fmt.Sprintf("echo '%s'", tt.route)}
				out, code := runWith(t, path, script, tools, fakes, tt.env, append([]string{"-f", from, "-d", to}, tt.args...)...)
				assert.NoFileExists(t, "pwned")
				if tt.fails != "" {
					assert.NotZero(t, code)
					assert.Contains(t, out, tt.fails)
					if !strings.Contains(out, "usage:") {
						assert.NoFileExists(t, to)
					}
				} else {
					assert.Equal(t, 0, code, out)
					assert.Empty(t, out)
					b, err := os.ReadFile(to)
					require.NoError(t, err)
					assert.Equal(t, tt.want, string(b))
					info, err := os.Stat(to)
					require.NoError(t, err)
					assert.Equal(t, os.FileMode(0o644), info.Mode())
				}
				if left, err := os.ReadDir(filepath.Dir(to)); err == nil {
					assert.LessOrEqual(t, len(left), 1, "temporary files stay")
				}
			})
		}
	}
}

// Where the answer goes is no regular file: it is written to, not replaced.
func TestMkDockerOptsToPipe(t *testing.T) {
	dir := t.TempDir()
	from, link := filepath.Join(dir, "subnet.env"), filepath.Join(dir, "link")
	require.NoError(t, os.WriteFile(from, []byte(flannelEnv), 0o644))
	require.NoError(t, os.Symlink("/dev/stdout", link))
	tools := []string{"env", "sed", "sort", "cat", "rm"}
	out, code := run(t, "mk-docker-opts.sh", tools, nil, nil, "-f", from, "-d", link, "-c")
	assert.Equal(t, 0, code, out)
	assert.Equal(t, opts, out)
	_, err := os.Readlink(link)
	assert.NoError(t, err)
}
