package command

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

const (
	flagPasswords, flagCertificates = "passwords", "certificates"
	roleNode, roleOperator          = "node", "operator"
	roleReader                      = "reader"

	authentication = "authentication of etcd"
)

func (r *runner) authCommand() *ucli.Command {
	plan := &ucli.BoolFlag{Name: flagDryRun, Usage: "change nothing, and show what would be changed"}
	passwords := &ucli.StringFlag{
		Name: flagPasswords, Usage: "write the password of each new user into a file in this `DIRECTORY`: USER.password",
	}
	certificates := &ucli.BoolFlag{
		Name: flagCertificates, Usage: "new users have no password: the common name of their client certificate is the user",
	}
	return &ucli.Command{
		Name: "auth", Usage: "give each node and person a user in etcd, with the rights they need",
		Description: `By etcd's own users and roles. A node's agent may write what it has to and no
more; an operator may change the topology, a reader may see it. docs/security.md
says what a node can still do to others.

  baize auth init --passwords /root/baize
  baize auth enable --etcd-username root --etcd-password-file root.password`,
		Subcommands: []*ucli.Command{
			{
				Name: "init", Usage: "make the roles, a user for each node, and root",
				Description: `Nothing changes for anybody yet: give each node its user (BAIZE_ETCD_USERNAME and
BAIZE_ETCD_PASSWORD_FILE in /etc/default/baize, and restart its agent), then run
'baize auth enable'. It can be run again: users that are there stay as they are.
With authentication on it is root's.

  baize auth init --passwords /root/baize
  baize auth init --certificates --dry-run`,
				Flags: append(sourceRightsFlags(), passwords, certificates, plan), Action: r.authInit,
			},
			r.authAddCommand(passwords, certificates, plan),
			r.authRemoveCommand(plan),
			{
				Name: "status", Usage: "show whether etcd wants a user, and who may do what",
				Flags: []ucli.Flag{outputFlag(formatsItem...)}, Action: r.authStatus,
			},
			{
				Name: "enable", Usage: "have etcd want a user from everybody",
				Description: `Run it as root, so that it is known that you can turn it off again. It is refused
while a node has no user. An agent without one cannot write any more, and says so;
its forwarding goes on.

  baize auth enable --etcd-username root --etcd-password-file root.password`,
				Flags: []ucli.Flag{
					&ucli.BoolFlag{Name: "force", Usage: "even where nodes have no user"}, yesFlag(), plan,
				},
				Action: r.authEnable,
			},
			{
				Name: "disable", Usage: "have etcd take everything from everybody again; users and roles stay",
				Flags: []ucli.Flag{yesFlag(), plan}, Action: r.authDisable,
			},
		},
	}
}

// authRemoveCommand takes the flag that it shares with the others.
func (r *runner) authRemoveCommand(plan ucli.Flag) *ucli.Command {
	return &ucli.Command{
		Name: "remove", Aliases: []string{"rm"}, ArgsUsage: "NAME",
		Usage: "take the user of a node or a person away",
		Description: `An agent that runs with the user cannot write any more; its forwarding goes on.
A user that has other roles keeps them.

  baize auth remove host4`,
		Flags: []ucli.Flag{yesFlag(), plan}, Action: r.authRemove,
	}
}

// authAddCommand takes the flags that it shares with the others.
func (r *runner) authAddCommand(shared ...ucli.Flag) *ucli.Command {
	return &ucli.Command{
		Name: "add", Usage: "make a user for a node or a person, or give one other rights", ArgsUsage: "NAME",
		Description: `For a node before its agent starts for the first time, and for people:

  baize auth add host4 --passwords /root/baize
  baize auth add alice --role operator --passwords /root/baize
  baize auth add host4 --network blue --network red

With --network a node may have a part of these networks only, and write nothing in
others; its Docker engine makes no networks.`,
		Flags: slices.Concat(sourceRightsFlags(), []ucli.Flag{
			&ucli.StringFlag{Name: "role", Usage: "`ROLE` is node, operator or reader", Value: roleNode},
			&ucli.StringFlag{Name: "user", Usage: "the `USER` in etcd; one that is there gets the role (default NAME)"},
			&ucli.StringSliceFlag{
				Name: "network", Usage: "only in the network of this `NAME`; repeat it or separate with commas",
				EnvVars: []string{"BAIZE_AUTH_NETWORK"}, // BAIZE_NETWORK is the agent's
				Action:  areNames("network", "network"),
			},
		}, shared),
		Action: r.authAdd,
	}
}

// access is what the commands work on.
type access struct {
	s *etcdstore.Store
	etcdstore.Access
	// nodes are those that are registered.
	nodes []string
}

func (a access) prefix() string { return a.s.Prefix() }

// withAccess reads users, roles and nodes.
func (r *runner) withAccess(c *ucli.Context, f func(a access) error) error {
	return r.withStore(c, func(s *etcdstore.Store) error {
		a := access{s: s}
		var err error
		a.Access, err = waiting(r, c, "reading the users from etcd", s.Access)
		if err != nil {
			return err
		}
		snap, err := s.Snapshot(c.Context)
		if err != nil {
			return err
		}
		for _, n := range snap.SortedNodes() {
			a.nodes = append(a.nodes, n.Name)
		}
		return f(a)
	})
}

// node is a node's user as wanted.
func (a access) node(c *ucli.Context, node, user string, networks []string) etcdstore.Member {
	rights := append(topology.NodeRights(a.prefix(), node, networks), sourceRights(c, roleNode)...)
	return etcdstore.Member{User: user, Role: topology.NodeRole(a.prefix(), node), Rights: rights}
}

func (a access) operator(c *ucli.Context, user string) etcdstore.Member {
	rights := append(topology.OperatorRights(a.prefix()), sourceRights(c, roleOperator)...)
	return etcdstore.Member{User: user, Role: topology.OperatorRole(a.prefix()), Rights: rights}
}

func (a access) reader(c *ucli.Context, user string) etcdstore.Member {
	rights := append(topology.ReaderRights(a.prefix()), sourceRights(c, roleReader)...)
	return etcdstore.Member{User: user, Role: topology.ReaderRole(a.prefix()), Rights: rights}
}

// usersOf are the users of a node.
func (a access) usersOf(node string) []string { return a.Having(topology.NodeRole(a.prefix(), node)) }

func (r *runner) authInit(c *ucli.Context) error {
	return r.withAccess(c, func(a access) error {
		root := etcdstore.Member{User: etcdstore.RootUser, Role: etcdstore.RootUser}
		members := []etcdstore.Member{root, a.operator(c, ""), a.reader(c, "")}
		for _, n := range a.nodes {
			if users := a.usersOf(n); len(users) > 0 {
				continue // its rights are what 'auth add' has made of them
			}
			members = append(members, a.node(c, n, n, nil))
		}
		if err := r.changeAccess(c, a, members...); err != nil || c.Bool(flagDryRun) || a.Enabled {
			return err
		}
		return r.say("authentication is off: give each node its user, then run 'baize auth enable' as root")
	})
}

func (r *runner) authAdd(c *ucli.Context) error {
	name := c.Args().First()
	if c.NArg() != 1 {
		return usagef("baize auth add", "name one node or person")
	}
	if err := topology.CheckName("user", name); err != nil {
		return err
	}
	if name == etcdstore.RootUser || c.String("user") == etcdstore.RootUser {
		return usagef("baize auth add", "root may do everything already; 'baize auth init' makes it")
	}
	role := c.String("role")
	if role != roleNode && c.IsSet("network") {
		return usagef("baize auth add", "--network is for nodes, not for --role %s", role)
	}
	return r.withAccess(c, func(a access) error {
		user := cmp.Or(c.String("user"), name)
		var m etcdstore.Member
		switch role {
		case roleNode:
			if users := a.usersOf(name); c.String("user") == "" && len(users) > 0 {
				user = users[0]
			}
			m = a.node(c, name, user, c.StringSlice("network"))
		case roleOperator:
			m = a.operator(c, user)
		case roleReader:
			m = a.reader(c, user)
		default:
			return checkOneOf(c.Command.HelpName, "role", role, []string{roleNode, roleOperator, roleReader})
		}
		m.Known = c.String("user") != ""
		return r.changeAccess(c, a, m)
	})
}

func (r *runner) authRemove(c *ucli.Context) error {
	name := c.Args().First()
	if c.NArg() != 1 || name == etcdstore.RootUser {
		return usagef("baize auth remove", "name one node or person")
	}
	return r.withAccess(c, func(a access) error {
		role := topology.NodeRole(a.prefix(), name)
		users := a.usersOf(name)
		_, node := a.Roles[role]
		var changes []etcdstore.AccessChange
		if node {
			changes = a.PlanRemoval(role, users, true)
		} else {
			for _, role := range []string{topology.OperatorRole(a.prefix()), topology.ReaderRole(a.prefix())} {
				if slices.Contains(a.Users[name], role) {
					changes = append(changes, a.PlanRemoval(role, []string{name}, false)...)
				}
			}
		}
		if len(changes) == 0 {
			return notFound("node or person with a user:", name, a.known(), "'baize auth status' shows them all")
		}
		if c.Bool(flagDryRun) {
			return r.apply(c, a, changes)
		}
		ok, err := r.agreed(c, "Who uses "+name+"'s user cannot use etcd any more. Remove it?")
		if err != nil || !ok {
			return err
		}
		return r.apply(c, a, changes)
	})
}

// known are the users with a role of this cluster.
func (a access) known() []string {
	var out []string
	for _, u := range a.items() {
		out = append(out, u.User)
	}
	return out
}

// changeAccess makes members what they should be. Passwords are written down first: a user
// whose password is lost is of no use.
func (r *runner) changeAccess(c *ucli.Context, a access, members ...etcdstore.Member) error {
	dir, byCertificate := c.String(flagPasswords), c.Bool(flagCertificates)
	if dir != "" && byCertificate {
		return usagef(c.Command.HelpName, "--%s or --%s, not both", flagPasswords, flagCertificates)
	}
	changes, err := a.Plan(a.prefix(), members...)
	if err != nil {
		return err
	}
	for i, x := range changes {
		switch {
		case x.Verb != etcdstore.AddUser || byCertificate:
		case dir == "":
			return usagef(c.Command.HelpName, "user %s is new: say --%s DIRECTORY or --%s", x.User, flagPasswords,
				flagCertificates)
		case c.Bool(flagDryRun):
			changes[i].Password = "unknown yet"
		default:
			if changes[i].Password, err = passwordIn(filepath.Join(dir, x.User+".password")); err != nil {
				return err
			}
		}
	}
	return r.apply(c, a, changes)
}

// passwordIn is the password in a file, which is made where it is not there: where an
// earlier run broke off, its files are good.
func passwordIn(file string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", fmt.Errorf("passwords: %w", err)
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		password := rand.Text()
		return password, atomicfile.Write(file, []byte(password+"\n"), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if len(line) == 0 {
		return "", &topology.Error{
			Kind: topology.ErrInvalid, Item: "password file " + file, What: "is empty", Remedy: "remove it",
		}
	}
	return string(line), nil
}

// apply makes changes, and says each.
func (r *runner) apply(c *ucli.Context, a access, changes []etcdstore.AccessChange) error {
	for i, x := range changes {
		if !c.Bool(flagDryRun) {
			if err := a.s.ChangeAccess(c.Context, x); err != nil {
				return fmt.Errorf("%s: %w; %d of %d changes are done, run it again for the rest", x, err, i, len(changes))
			}
		}
		if err := r.say("%s", x); err != nil {
			return err
		}
	}
	switch {
	case c.Bool(flagDryRun):
		return r.say("nothing was changed (--dry-run)")
	case len(changes) == 0:
		return r.say("nothing to do: users and rights are as they should be")
	}
	return nil
}

// authItem is who may do what, in JSON and YAML.
type authItem struct {
	Enabled bool       `json:"enabled"`
	Users   []authUser `json:"users"`
	// NodesWithoutUser are registered.
	NodesWithoutUser []string `json:"nodesWithoutUser"`
}

type authUser struct {
	User   string   `json:"user"`
	Role   string   `json:"role"`
	Node   string   `json:"node,omitempty"`
	Rights []string `json:"rights"`
}

// items are the users with a role of this cluster, and root.
func (a access) items() []authUser {
	out := []authUser{}
	for _, user := range sortedNames(a.Users) {
		for _, role := range a.Users[user] {
			of, node := topology.ParseRole(a.prefix(), role)
			if role == etcdstore.RootUser {
				of = role
			}
			if of == "" {
				continue
			}
			u := authUser{User: user, Role: of, Node: node, Rights: []string{}}
			for _, x := range a.Roles[role] {
				u.Rights = append(u.Rights, x.String())
			}
			out = append(out, u)
		}
	}
	return out
}

func (a access) withoutUser() []string {
	return slices.DeleteFunc(slices.Clone(a.nodes), func(n string) bool { return len(a.usersOf(n)) > 0 })
}

func (r *runner) authStatus(c *ucli.Context) error {
	return r.withAccess(c, func(a access) error {
		item := authItem{Enabled: a.Enabled, Users: a.items(), NodesWithoutUser: append([]string{}, a.withoutUser()...)}
		return r.item(c, item, item.describe, "")
	})
}

func (i authItem) describe() []field {
	on := "off: etcd takes everything from everybody"
	if i.Enabled {
		on = "on"
	}
	out := []field{{"Authentication", on}}
	for _, u := range i.Users {
		what := u.Role
		if u.Node != "" {
			what += " " + u.Node
		}
		out = append(out, field{"User " + u.User, strings.Join(append([]string{what}, u.Rights...), ", ")})
	}
	if len(i.NodesWithoutUser) > 0 {
		out = append(out, field{"Nodes without a user", strings.Join(i.NodesWithoutUser, ", ")})
	}
	return out
}

func (r *runner) authEnable(c *ucli.Context) error {
	return r.withAccess(c, func(a access) error {
		refuse := func(what, remedy string) error {
			return &topology.Error{
				Kind: topology.ErrConflict, Item: authentication, What: what, Remedy: remedy,
			}
		}
		w, err := r.whereabouts(c)
		if err != nil {
			return err
		}
		without := a.withoutUser()
		switch {
		case a.Enabled:
			return r.say("authentication is on already")
		case !slices.Contains(a.Users[etcdstore.RootUser], etcdstore.RootUser):
			return refuse("there is no user root, who alone can turn it off again", "'baize auth init' makes one")
		case w.Resolved[settings.EtcdUsername].Value != etcdstore.RootUser && !w.Resolved[settings.EtcdCertFile].Set:
			return refuse("it is not known that you can be root", "give --etcd-username root and its --etcd-password-file")
		case len(without) > 0 && !c.Bool("force"):
			return refuse("these nodes have no user, and their agents could not write any more: "+strings.Join(without, ", "),
				"'baize auth init' makes them one, 'baize node remove' is for those that no longer exist, "+
					"--force for those that have one of your own")
		}
		if c.Bool(flagDryRun) {
			return r.rehearsedLine(authentication, "off", "on")
		}
		ok, err := r.agreed(c, "From now on etcd refuses who comes without a user, agents and other programs. Enable it?")
		if err != nil || !ok {
			return err
		}
		if err := a.s.EnableAccess(c.Context, true); err != nil {
			return err
		}
		if _, err := a.s.Access(c.Context); err != nil {
			return fmt.Errorf("authentication is on, but root cannot log in with what was given: %w", err)
		}
		return r.say("authentication is on; 'baize auth disable' turns it off")
	})
}

func (r *runner) authDisable(c *ucli.Context) error {
	return r.withStore(c, func(s *etcdstore.Store) error {
		on, err := s.AccessEnabled(c.Context)
		if err != nil {
			return err
		}
		if !on {
			return r.say("authentication is off already")
		}
		if c.Bool(flagDryRun) {
			return r.rehearsedLine(authentication, "on", "off")
		}
		ok, err := r.agreed(c, "From now on whoever reaches etcd may change everything in it. Disable authentication?")
		if err != nil || !ok {
			return err
		}
		_, err = waiting(r, c, "disabling", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.EnableAccess(ctx, false)
		})
		if err != nil {
			return err
		}
		return r.say("authentication is off: etcd takes everything from everybody; users and roles are still there")
	})
}
