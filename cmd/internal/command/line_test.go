package command

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ucli "github.com/urfave/cli/v2"
)

func testRoot() *ucli.Command { return rootCommand((&runner{}).app()) }

func TestParseLine(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"flags first": {
			"network create --subnet 10.1.0.0/16 blue", "network create --subnet=10.1.0.0/16 -- blue",
		},
		"flags last": {
			"network create blue --subnet 10.1.0.0/16", "network create --subnet=10.1.0.0/16 -- blue",
		},
		"flags around": {
			"network create --vni 5 blue --subnet 10.1.0.0/16", "network create --vni=5 --subnet=10.1.0.0/16 -- blue",
		},
		"equals sign": {
			"network create blue --subnet=10.1.0.0/16", "network create --subnet=10.1.0.0/16 -- blue",
		},
		"value with equals sign": {
			"subnet reserve 10.1.5.0/24 --network blue --comment a=b",
			"subnet reserve --network=blue --comment=a=b -- 10.1.5.0/24",
		},
		"repeated flag":           {"network create b --subnet x --subnet y", "network create --subnet=x --subnet=y -- b"},
		"global flag behind":      {"network list --etcd-prefix /x -o json", "--etcd-prefix=/x network list --output=json"},
		"global flag before":      {"--etcd-prefix /x network list", "--etcd-prefix=/x network list"},
		"short flag":              {"network list -o json", "network list --output=json"},
		"short flag, equals sign": {"network list -o=json", "network list --output=json"},
		"bool flag":               {"node remove host1 --force", "node remove --force -- host1"},
		"bool flag with value":    {"node remove --force=false host1", "node remove --force=false -- host1"},
		"bool flag before name":   {"node remove --force host1", "node remove --force -- host1"},
		"alias of a command":      {"net ls", "network list"},
		"two dashes":              {"node remove -- --force", "node remove -- --force"},
		"value that looks like one": {
			"subnet reserve p --network blue --comment -x", "subnet reserve --network=blue --comment=-x -- p",
		},
		"agent alone":              {"agent --node host1", "agent --node=host1"},
		"agent cleanup":            {"agent cleanup --bridge b", "agent --bridge=b cleanup"},
		"version flag":             {"--version", "version"},
		"version flag, short":      {"-v", "version"},
		"exec with dashes":         {"lab exec host1 -- ping -c 1 10.1.0.2", "lab exec -- host1 ping -c 1 10.1.0.2"},
		"exec without dashes":      {"lab exec host1 ping -c 1", "lab exec -- host1 ping -c 1"},
		"exec keeps later dashes":  {"lab exec host1 -- sh -- -c", "lab exec -- host1 sh -- -c"},
		"exec leaves --help alone": {"lab exec host1 baize --help", "lab exec -- host1 baize --help"},
		"raw arguments": {
			"lab host-init --lab x --member host1 -- y", "lab host-init -- --lab x --member host1 -- y",
		},
		"exec, own flag":           {"lab exec --name x host1 ls --name y", "lab exec --name=x -- host1 ls --name y"},
		"exec, global flag before": {"--log-level debug lab exec host1 ls", "--log-level=debug lab exec -- host1 ls"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l, err := parseLine(testRoot(), strings.Fields(tc.in))
			require.NoError(t, err)
			assert.False(t, l.help)
			assert.Equal(t, tc.want, strings.Join(l.args, " "))
		})
	}
}

func TestParseLineHelp(t *testing.T) {
	for in, want := range map[string]string{
		"--help":                    "baize",
		"help":                      "baize",
		"-h":                        "baize",
		"network --help":            "baize network",
		"help network create":       "baize network create",
		"network help create":       "baize network create",
		"network create --help":     "baize network create",
		"network create blue -h":    "baize network create",
		"network create --vni 3 -h": "baize network create",
	} {
		t.Run(in, func(t *testing.T) {
			l, err := parseLine(testRoot(), strings.Fields(in))
			require.NoError(t, err)
			assert.True(t, l.help)
			assert.Equal(t, want, name(l.path))
		})
	}
}

func TestParseLineErrors(t *testing.T) {
	for in, want := range map[string]string{
		"netwrok list":                   `baize: unknown command "netwrok": did you mean network?`,
		"network creat blue":             `baize network: unknown command "creat": did you mean create?`,
		"network":                        `baize network: needs a command: create, list, show, update, rename, delete`,
		"frobnicate":                     `baize: unknown command "frobnicate"`,
		"network create blue --subent x": `baize network create: unknown flag --subent: did you mean --subnet?`,
		"network list --etcd-endpoint x": "baize network list: unknown flag --etcd-endpoint: " +
			"did you mean --etcd-endpoints?",
		"network list --subent=x":           `baize network list: unknown flag --subent`,
		"network list -z":                   `baize network list: unknown flag -z`,
		"network create blue --subnet":      `baize network create: flag --subnet needs a value`,
		"network create b --subnet --vni 3": `baize network create: flag --subnet needs a value`,
		"network create --subnet x":         `baize network create: needs NAME`,
		"network create a b --subnet x":     `baize network create: unexpected argument "b": it takes only NAME`,
		"network list blue":                 `baize network list: takes no argument: "blue"`,
		"network -- list":                   `baize network: unknown command "list": did you mean list?`,
		"agent clenup":                      `baize agent: unknown command "clenup": did you mean cleanup?`,
		"lab exec":                          `baize lab exec: needs HOST[/ENDPOINT] and COMMAND`,
	} {
		t.Run(in, func(t *testing.T) {
			_, err := parseLine(testRoot(), strings.Fields(in))
			var usage *usageError
			require.ErrorAs(t, err, &usage)
			assert.Equal(t, want, err.Error())
		})
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"network", "network", 0}, {"netwrok", "network", 1}, {"subent", "subnet", 1},
		{"kitten", "sitting", 3},
	} {
		assert.Equal(t, tc.want, distance(tc.a, tc.b), "%s %s", tc.a, tc.b)
		assert.Equal(t, tc.want, distance(tc.b, tc.a), "%s %s", tc.b, tc.a)
	}
}

func TestArity(t *testing.T) {
	for in, want := range map[string][2]int{
		"": {0, 0}, "NAME": {1, 1}, "[NAME]": {0, 1}, "NAME...": {1, unlimited},
		"HOST -- COMMAND...": {2, unlimited}, "bash|zsh|fish": {1, 1},
	} {
		_, least, most := arity(in)
		assert.Equal(t, want, [2]int{least, most}, in)
	}
}

// Every flag has its variable and an explanation; every command has a usage;
// the names of flags are what package flag can take.
func TestEveryFlagHasAVariable(t *testing.T) {
	count := 0
	var walk func(path []*ucli.Command)
	walk = func(path []*ucli.Command) {
		c := path[len(path)-1]
		assert.NotEmpty(t, c.Usage, name(path))
		assert.NotEqual(t, '.', c.Usage[len(c.Usage)-1], name(path))
		seen := map[string]bool{}
		for _, f := range c.Flags {
			count++
			d, ok := f.(ucli.DocGenerationFlag)
			require.True(t, ok, "%s --%s", name(path), f.Names()[0])
			if env := d.GetEnvVars(); assert.Len(t, env, 1, "%s --%s", name(path), f.Names()[0]) {
				// A few have a prefix more, and one is a plural: what BAIZE_NODE and BAIZE_NETWORK
				// say is not meant for them.
				assert.Regexp(t, "^BAIZE_((NETWORK|NODE|SUBNET|PIN|ENDPOINT|AUTH|ROUTE|NAME|CONTEXT|LAB|PROBE|PING|WAY|TRACE|EVENT|CONSOLE|CAPTURE|TOPOLOGY|STATUS)_)?"+
					strings.TrimPrefix(EnvVar(f.Names()[0]), "BAIZE_")+"(S)?$", env[0])
			}
			assert.NotEmpty(t, d.GetUsage(), "%s --%s", name(path), f.Names()[0])
			for _, n := range f.Names() {
				assert.False(t, seen[n], "%s has --%s twice", name(path), n)
				seen[n] = true
				if len(path) > 1 {
					_, global := findFlag(path[:1], n)
					assert.Nil(t, global, "%s hides the global flag --%s", name(path), n)
				}
			}
		}
		if len(c.Subcommands) == 0 && len(path) > 1 {
			assert.NotNil(t, c.Action, name(path))
		}
		for _, s := range c.Subcommands {
			walk(append(path[:len(path):len(path)], s))
		}
	}
	walk([]*ucli.Command{testRoot()})
	assert.Greater(t, count, 50)
}

func TestEnvVar(t *testing.T) {
	assert.Equal(t, "BAIZE_ETCD_ENDPOINTS", EnvVar("etcd-endpoints"))
}
