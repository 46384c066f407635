package doctor

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// remedied adds the commands that mend a fault of the agent's or of the records, where
// there are some.
func remedied(f Finding) Finding {
	if len(f.Commands) > 0 {
		return f
	}
	f.Remedy = cmp.Or(f.Remedy, "docs/troubleshooting.md has a paragraph on this code")
	switch f.Code {
	case fault.RestoreWaitForeign:
		f.Commands = []string{"ovs-vsctl --no-wait remove Open_vSwitch . other_config flow-restore-wait"}
		f.Remedy = "remove it, unless somebody is restoring flows at this moment"
	case fault.StoreFull:
		f.Remedy = "make room in etcd, then clear the alarm (docs/production.md)"
		f.Commands = []string{"etcdctl defrag", "etcdctl alarm disarm"}
	case fault.StoreUnavailable:
		f.Commands = []string{"systemctl start etcd"}
		if strings.Contains(f.What, "says nothing") {
			f.Commands = []string{"systemctl restart etcd"}
		}
	case fault.RecordMalformed:
		if key := strings.TrimPrefix(f.Item, "key "); strings.Contains(key, "/") && !strings.Contains(key, " ") {
			f.Commands = []string{"etcdctl del " + arg(keyPrefix+key)}
		}
	case fault.RecordOrphaned:
		// The item is one of them; who lost their network are all of a directory.
		if parts := strings.Split(f.Item, "/"); len(parts) == 3 && strings.Contains(f.What, "network that does not exist") {
			f.Commands = []string{"etcdctl del --prefix " + arg(keyPrefix+parts[0]+"/"+parts[1]+"/")}
		}
	case fault.NodeDown:
		if f.Remedy == "" {
			f.Remedy = "look at the host and its agent"
		}
	}
	return f
}

// plain are words that mean nothing else to a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// arg is a word of a command. What other programs have named may be anything, and must
// not become a command of its own.
func arg(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// keyPrefix stands for the cluster's prefix in commands, until complete puts it in.
const keyPrefix = "PREFIX/"

// complete puts in where etcd is and where the cluster's keys are.
func (s Store) complete(commands []string) {
	for i, c := range commands {
		if !strings.HasPrefix(c, "etcdctl ") {
			continue
		}
		if len(s.Endpoints) > 0 {
			c = strings.Replace(c, "etcdctl ", "etcdctl --endpoints="+strings.Join(s.Endpoints, ",")+" ", 1)
		}
		commands[i] = strings.ReplaceAll(c, keyPrefix, s.Prefix+"/")
	}
}
