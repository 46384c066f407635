package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// RootUser is etcd's own administrator, and its role.
const RootUser = "root"

// Access is who may do what with the keys, by etcd's own authentication.
type Access struct {
	Enabled bool
	// Roles have the rights of every role, those on odd ranges of keys left out.
	Roles map[string][]topology.Right
	// Users have the roles of every user.
	Users map[string][]string
}

// Member is a user as wanted.
type Member struct {
	User, Role string
	Rights     []topology.Right
	// Password is for a user that is new; none: a client certificate proves who it is.
	Password string
	// Known users are given the role although somebody else made them.
	Known bool
}

// AccessChange is one change of users and roles.
type AccessChange struct {
	Verb       AccessVerb
	User, Role string
	Right      topology.Right
	Password   string
}

// AccessVerb is what a change does.
type AccessVerb string

// What a change does.
const (
	AddRole     AccessVerb = "add role"
	DeleteRole  AccessVerb = "delete role"
	GrantRight  AccessVerb = "grant"
	RevokeRight AccessVerb = "revoke"
	AddUser     AccessVerb = "add user"
	DeleteUser  AccessVerb = "delete user"
	GrantRole   AccessVerb = "give role"
	RevokeRole  AccessVerb = "take role"
)

// String says what is done, without a password.
func (c AccessChange) String() string {
	switch c.Verb {
	case GrantRight:
		return fmt.Sprintf("grant role %s %s", c.Role, c.Right)
	case RevokeRight:
		return fmt.Sprintf("revoke from role %s %s", c.Role, c.Right)
	case GrantRole:
		return fmt.Sprintf("give user %s role %s", c.User, c.Role)
	case RevokeRole:
		return fmt.Sprintf("take from user %s role %s", c.User, c.Role)
	case AddUser:
		by := "with a password"
		if c.Password == "" {
			by = "by certificate"
		}
		return fmt.Sprintf("add user %s, %s", c.User, by)
	}
	return string(c.Verb) + " " + c.User + c.Role
}

// Plan is how users get the roles and rights that they should have. Rights that a role
// has outside of the cluster's prefix stay.
//
// Errors: ErrExists, for a user that somebody else made.
func (a Access) Plan(prefix string, want ...Member) ([]AccessChange, error) {
	var out []AccessChange
	for _, m := range want {
		out = append(out, a.planRole(prefix, m)...)
		if m.User == "" {
			continue
		}
		roles, there := a.Users[m.User]
		switch {
		case !there:
			out = append(out, AccessChange{Verb: AddUser, User: m.User, Password: m.Password},
				AccessChange{Verb: GrantRole, User: m.User, Role: m.Role})
		case slices.Contains(roles, m.Role):
		case !m.Known && m.User != RootUser:
			return nil, &topology.Error{
				Kind: topology.ErrExists, Item: "etcd user " + m.User, What: "is there, and has not the role " + m.Role,
				Remedy: "'baize auth add NAME --user USER' gives the role to that one, or to another",
			}
		default:
			out = append(out, AccessChange{Verb: GrantRole, User: m.User, Role: m.Role})
		}
	}
	return out, nil
}

// planRole makes a role, and gives it its rights before it takes others.
func (a Access) planRole(prefix string, m Member) []AccessChange {
	if m.Role == RootUser {
		return nil
	}
	var out []AccessChange
	have, there := a.Roles[m.Role]
	if !there {
		out = append(out, AccessChange{Verb: AddRole, Role: m.Role})
	}
	for _, r := range m.Rights {
		if !slices.Contains(have, r) {
			out = append(out, AccessChange{Verb: GrantRight, Role: m.Role, Right: r})
		}
	}
	for _, r := range have {
		// etcd knows one right on a range: the grant above has changed what it may.
		wanted := slices.ContainsFunc(m.Rights, func(w topology.Right) bool { return w.Key == r.Key && w.Below == r.Below })
		if !wanted && strings.HasPrefix(r.Key, prefix+"/") {
			out = append(out, AccessChange{Verb: RevokeRight, Role: m.Role, Right: r})
		}
	}
	return out
}

// PlanRemoval takes a role from everybody. Users that have no other one go, and so does a
// role that is a node's.
func (a Access) PlanRemoval(role string, users []string, wholeRole bool) []AccessChange {
	var out []AccessChange
	for _, u := range users {
		if len(a.Users[u]) == 1 {
			out = append(out, AccessChange{Verb: DeleteUser, User: u})
		} else {
			out = append(out, AccessChange{Verb: RevokeRole, User: u, Role: role})
		}
	}
	if _, there := a.Roles[role]; there && wholeRole {
		out = append(out, AccessChange{Verb: DeleteRole, Role: role})
	}
	return out
}

// Having returns the users that have a role, in order.
func (a Access) Having(role string) []string {
	var out []string
	for u, roles := range a.Users {
		if slices.Contains(roles, role) {
			out = append(out, u)
		}
	}
	slices.Sort(out)
	return out
}

// Access reads users, roles and rights. With authentication on, that is root's.
func (s *Store) Access(ctx context.Context) (Access, error) {
	a := Access{Roles: map[string][]topology.Right{}, Users: map[string][]string{}}
	on, err := s.AccessEnabled(ctx)
	if err != nil {
		return a, err
	}
	a.Enabled = on
	roles, err := admin(ctx, s, (*clientv3.Client).RoleList)
	if err != nil {
		return a, err
	}
	for _, name := range roles.Roles {
		r, err := admin(ctx, s, func(c *clientv3.Client, ctx context.Context) (*clientv3.AuthRoleGetResponse, error) {
			return c.RoleGet(ctx, name)
		})
		if err != nil {
			return a, err
		}
		a.Roles[name] = rightsOf(r.Perm)
	}
	users, err := admin(ctx, s, (*clientv3.Client).UserList)
	if err != nil {
		return a, err
	}
	for _, name := range users.Users {
		u, err := admin(ctx, s, func(c *clientv3.Client, ctx context.Context) (*clientv3.AuthUserGetResponse, error) {
			return c.UserGet(ctx, name)
		})
		if err != nil {
			return a, err
		}
		a.Users[name] = u.Roles
	}
	return a, nil
}

// AccessEnabled reports whether etcd wants a user. Everybody may ask.
func (s *Store) AccessEnabled(ctx context.Context) (bool, error) {
	resp, err := admin(ctx, s, (*clientv3.Client).AuthStatus)
	return err == nil && resp.Enabled, err
}

func rightsOf(perms []*authpb.Permission) []topology.Right {
	var out []topology.Right
	for _, p := range perms {
		r := topology.Right{Key: string(p.Key), Write: p.PermType != authpb.READ}
		if end := string(p.RangeEnd); end != "" {
			if r.Below = true; end != clientv3.GetPrefixRangeEnd(r.Key) {
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// ChangeAccess makes one change.
func (s *Store) ChangeAccess(ctx context.Context, x AccessChange) error {
	end, may := "", clientv3.PermissionType(clientv3.PermRead)
	if x.Right.Below {
		end = clientv3.GetPrefixRangeEnd(x.Right.Key)
	}
	if x.Right.Write {
		may = clientv3.PermissionType(clientv3.PermReadWrite)
	}
	_, err := admin(ctx, s, func(c *clientv3.Client, ctx context.Context) (_ struct{}, err error) {
		switch x.Verb {
		case AddRole:
			_, err = c.RoleAdd(ctx, x.Role)
		case DeleteRole:
			_, err = c.RoleDelete(ctx, x.Role)
		case GrantRight:
			_, err = c.RoleGrantPermission(ctx, x.Role, x.Right.Key, end, may)
		case RevokeRight:
			_, err = c.RoleRevokePermission(ctx, x.Role, x.Right.Key, end)
		case AddUser:
			_, err = c.UserAddWithOptions(ctx, x.User, x.Password, &clientv3.UserAddOptions{NoPassword: x.Password == ""})
		case DeleteUser:
			_, err = c.UserDelete(ctx, x.User)
		case GrantRole:
			_, err = c.UserGrantRole(ctx, x.User, x.Role)
		case RevokeRole:
			_, err = c.UserRevokeRole(ctx, x.User, x.Role)
		}
		return struct{}{}, err
	})
	return err
}

// EnableAccess has etcd want a user from now on, or from nobody any more.
func (s *Store) EnableAccess(ctx context.Context, on bool) error {
	_, err := admin(ctx, s, func(c *clientv3.Client, ctx context.Context) (_ struct{}, err error) {
		if on {
			_, err = c.AuthEnable(ctx)
		} else {
			_, err = c.AuthDisable(ctx)
		}
		return struct{}{}, err
	})
	return err
}

// admin asks a real etcd for something that is root's.
func admin[T any](ctx context.Context, s *Store, f func(*clientv3.Client, context.Context) (T, error)) (T, error) {
	out, err := request(ctx, s, func(ctx context.Context, c Client) (out T, err error) {
		etcd, ok := c.(*netClient)
		if !ok {
			return out, errors.New("there is no etcd with users and roles behind the store")
		}
		return f(etcd.Client, ctx)
	})
	if is(err, rpctypes.ErrPermissionDenied) || is(err, rpctypes.ErrUserEmpty) {
		return out, &topology.Error{
			Kind: topology.ErrDenied, Code: fault.StoreDenied, Item: s.item(),
			What:   s.user() + " may not manage users and roles: root does",
			Remedy: "give --etcd-username root and its --etcd-password-file, or root's client certificate",
		}
	}
	return out, s.explain(ctx, err)
}
