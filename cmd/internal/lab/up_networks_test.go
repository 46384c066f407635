package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// inFabricRuns makes a script what runs in a lab's fabric, for "VERB NOUN" as in
// "network show". The function returned says what was run.
func inFabricRuns(t *testing.T, script string) (l *Lab, ran func() []string) {
	t.Helper()
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	text := "#!/bin/sh\nuntil [ \"$1\" = -- ]; do shift; done\nshift 2\n" +
		"echo \"$*\" >>" + log + "\ncase \"$1 $2\" in\n" + script + "\nesac\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "nsenter"), []byte(text), 0o755))
	t.Setenv("PATH", bin)
	l = &Lab{cfg: Config{Name: "x", BaseDir: t.TempDir()}}
	require.NoError(t, os.Mkdir(l.Dir(), 0o755))
	var err error
	l.state, err = state{}.merge(Config{})
	require.NoError(t, err)
	return l, func() []string {
		b, err := os.ReadFile(log)
		require.NoError(t, err)
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
}

// A network is created where there is none, and only there: what a slow etcd
// makes baize say on standard error, or an etcd that is not there, is no reason.
func TestNetworksAreCreatedWhereThereAreNone(t *testing.T) {
	const create = "network create blue --subnet 10.1.0.0/16 --subnet fd00:10:1::/48 --transport vxlan"
	for name, c := range map[string]struct {
		script string
		ran    []string
		fails  string
	}{
		"none": {
			"'network show') echo 'no such network' >&2; exit 3 ;;",
			[]string{"network show blue -o json", create}, "",
		},
		"there, slowly": {
			`'network show') echo 'reading ...' >&2; echo '{"transport": "vxlan"}'; echo 'reading: done in 2s' >&2 ;;`,
			[]string{"network show blue -o json"}, "",
		},
		"another transport": {
			`'network show') echo 'reading ...' >&2; echo '{"transport": "gre"}' ;;`,
			[]string{"network show blue -o json", "network update blue --transport vxlan"}, "",
		},
		"no answer": {
			"'network show') echo 'etcd does not answer' >&2; exit 5 ;;",
			[]string{"network show blue -o json"}, "network show blue -o json: exit status 5: etcd does not answer",
		},
		"no JSON": {"'network show') echo x ;;", []string{"network show blue -o json"}, "network blue: invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			l, ran := inFabricRuns(t, c.script)
			err := l.upNetworks(t.Context(), member.Member{})
			if c.fails == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.fails)
			}
			assert.Equal(t, c.ran, ran())
			assert.Len(t, l.state.Networks, 1, "no network is forgotten")
		})
	}
}

// A node that never registered is not there to be removed; everything else that
// fails is an error, whatever it says.
func TestANodeThatIsNotThereIsRemoved(t *testing.T) {
	for code, fails := range map[string]bool{"0": false, "3": false, "1": true, "5": true} {
		l, ran := inFabricRuns(t, "'node remove') echo 'etcd: host not found' >&2; exit "+code+" ;;")
		err := l.removeNode(t.Context(), member.Member{}, "host9")
		assert.Equal(t, fails, err != nil, "exit code %s: %v", code, err)
		assert.Equal(t, []string{"node remove host9 --force --yes"}, ran())
	}
}
