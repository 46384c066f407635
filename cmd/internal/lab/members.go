package lab

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

// refuseNamesake: two labs of one name would fight for names of namespaces.
func (l *Lab) refuseNamesake() error {
	all, err := member.Find(l.cfg.Name)
	if err != nil {
		return err
	}
	for _, m := range all {
		if filepath.Dir(m.Dir) != l.cfg.dir() {
			return &topology.Error{
				Kind: topology.ErrExists, Item: "lab " + l.cfg.Name, What: "one of that name runs in " + filepath.Dir(m.Dir),
				Remedy: "choose another name with --name",
			}
		}
	}
	return nil
}

// running returns the members of this lab by name. Of two with one name, which
// nothing but a broken lock can cause, one is taken.
func (l *Lab) running() (map[string]member.Member, error) {
	all, err := member.Find(l.cfg.Name)
	out := map[string]member.Member{}
	for _, m := range all {
		out[m.Name] = m
	}
	return out, err
}

// member finds a running member.
func (l *Lab) member(name string) (member.Member, error) {
	all, err := l.running()
	if err != nil {
		return member.Member{}, err
	}
	if m, ok := all[name]; ok {
		return m, nil
	}
	l.mu.Lock()
	hosts := slices.Clone(l.state.Hosts)
	l.mu.Unlock()
	if name != member.Fabric && name != member.Router && !slices.Contains(hosts, name) {
		return member.Member{}, noHost(l.cfg.Name, name, hosts)
	}
	return member.Member{}, &topology.Error{
		Kind: topology.ErrUnavailable, Item: "host " + name, What: "it does not run", Remedy: remake(l.cfg.Name),
	}
}

// remake is the remedy for what does not run.
func remake(lab string) string { return "'" + CommandLine(lab, "up") + "' makes it anew" }

func noHost(lab, name string, have []string) error {
	return &topology.Error{
		Kind: topology.ErrNotFound, Item: "host " + name, What: "lab " + lab + " has no such host",
		Remedy: "it has " + strings.Join(have, ", "),
	}
}
