package member

import (
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
)

// SystemPath is looked through after the lab's own executable: sudo and
// ordinary users' PATH leave out where the daemons are.
const SystemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// keptEnv are the variables that daemons inside get from ours.
var keptEnv = []string{"LANG", "LC_ALL", "TZ", "GORACE", "GOCOVERDIR", "GODEBUG", "GOTRACEBACK"}

// DaemonEnv is the environment of pid 1 and of what it runs. extra goes before own.
func DaemonEnv(get func(string) (string, bool), own, extra []string) []string {
	env := []string{"PATH=" + supervisor.Dir + "/bin:" + SystemPath, "HOME=/root"}
	for _, k := range keptEnv {
		if v, ok := get(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return append(append(env, without(own, extra)...), extra...)
}

// without is an environment without the variables that another has: of two of one name a
// program takes which it likes.
func without(env, other []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(other, func(o string) bool { return strings.HasPrefix(o, name+"=") })
	})
}

// ExecEnv is the environment of a command that a person runs in a host: their
// own, except that settings of Baize, Open vSwitch and Docker are the host's.
func ExecEnv(environ, own, extra []string) []string {
	path := SystemPath
	var env []string
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case k == "PATH" && v != "":
			path = v + ":" + SystemPath
		case k == "PATH", k == "HOSTNAME", k == "PWD", k == "OLDPWD", k == "NOTIFY_SOCKET",
			strings.HasPrefix(k, "BAIZE_"), strings.HasPrefix(k, "OVS_"), strings.HasPrefix(k, "DOCKER_"):
		default:
			env = append(env, kv)
		}
	}
	env = append(env, "PATH="+supervisor.Dir+"/bin:"+path)
	return append(append(env, without(own, extra)...), extra...)
}
