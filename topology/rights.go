package topology

import (
	"slices"
	"strings"
)

// Right is what a role may do with keys in etcd. Every right is one to read; Write is
// one to put and delete as well.
type Right struct {
	// Key is a whole key, with the cluster's prefix. Below means all keys that begin
	// with it, which is a directory then, with its slash.
	Key   string
	Below bool
	Write bool
}

// String is the right as etcdctl writes it: "readwrite /baize/v1/pins/*".
func (r Right) String() string {
	what, star := "read ", ""
	if r.Write {
		what = "readwrite "
	}
	if r.Below {
		star = "*"
	}
	return what + r.Key + star
}

// DockerNetworks begins the names of networks that engines make up by themselves.
const DockerNetworks = "docker-"

// NodeRights are the rights of a node's agent, below a cluster's prefix: to read
// everything, and to write what it has to. With networks it may have a part of these
// only, and makes none for its Docker engine.
//
// etcd's roles are by range of keys. What nodes lease of one network lies in one range,
// so each of them can write all of it.
func NodeRights(prefix, node string, networks []string) []Right {
	prefix += "/"
	may := func(key string, below bool) Right { return Right{Key: prefix + key, Below: below, Write: true} }
	out := []Right{
		{Key: prefix, Below: true},
		may(NodeKey(node), false), may(AliveKey(node), false),
		may(AnswersDir(node), true), may(DirQuestions, true),
	}
	shared := []string{DirSubnets, DirPins, DirClaims}
	if len(networks) == 0 {
		for _, dir := range append(shared, DirNames) {
			out = append(out, may(dir, true))
		}
		return append(out, may(DirNetworks+DockerNetworks, true))
	}
	for _, n := range slices.Compact(slices.Sorted(slices.Values(networks))) {
		for _, dir := range shared {
			out = append(out, may(dir+n+"/", true))
		}
		out = append(out, may(NamesKey(n, node), false))
	}
	return out
}

// ReaderRights are those of people who look: at everything below a prefix.
func ReaderRights(prefix string) []Right { return []Right{{Key: prefix + "/", Below: true}} }

// OperatorRights are those of people who change things: everything below a prefix.
func OperatorRights(prefix string) []Right {
	return []Right{{Key: prefix + "/", Below: true, Write: true}}
}

// Covers reports whether a right is part of another one.
func (r Right) Covers(o Right) bool {
	if o.Write && !r.Write {
		return false
	}
	if r.Below {
		return strings.HasPrefix(o.Key, r.Key)
	}
	return r.Key == o.Key && !o.Below
}

// The roles' names in etcd. One etcd may have several clusters, so a cluster with another
// prefix than [DefaultPrefix] has it in them: "lab-v1-reader".

// NodeRole is the role of a node's agent.
func NodeRole(prefix, node string) string { return roleBase(prefix) + "-node-" + node }

// ReaderRole is that of people who look.
func ReaderRole(prefix string) string { return roleBase(prefix) + "-reader" }

// OperatorRole is that of people who change things.
func OperatorRole(prefix string) string { return roleBase(prefix) + "-operator" }

// ParseRole says whose role it is: "node host1", "operator", "reader"; nothing where it
// is none of this cluster.
func ParseRole(prefix, role string) (of, node string) {
	switch role {
	case ReaderRole(prefix):
		return "reader", ""
	case OperatorRole(prefix):
		return "operator", ""
	}
	if node, ok := strings.CutPrefix(role, NodeRole(prefix, "")); ok && nameRE.MatchString(node) {
		return "node", node
	}
	return "", ""
}

func roleBase(prefix string) string {
	if prefix == DefaultPrefix {
		return "baize"
	}
	return strings.ReplaceAll(strings.Trim(prefix, "/"), "/", "-")
}
