package etcdstore_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// secured is an etcd with the roles of a cluster.
type secured struct {
	*testing.T
	endpoint string
}

func nodeMember(name string, networks ...string) etcdstore.Member {
	return etcdstore.Member{
		User: name, Role: topology.NodeRole(topology.DefaultPrefix, name), Password: "password of " + name,
		Rights: topology.NodeRights(topology.DefaultPrefix, name, networks),
	}
}

// people are root, the operator alice and the reader bob.
func people() []etcdstore.Member {
	p := topology.DefaultPrefix
	return []etcdstore.Member{
		{User: "root", Role: "root", Password: "password of root"},
		{User: "alice", Role: topology.OperatorRole(p), Rights: topology.OperatorRights(p), Password: "password of alice"},
		{User: "bob", Role: topology.ReaderRole(p), Rights: topology.ReaderRights(p), Password: "password of bob"},
	}
}

// secure makes users and roles, and has etcd want a user.
func secure(t *testing.T, members ...etcdstore.Member) *secured {
	t.Helper()
	e := &secured{T: t, endpoint: etcdtest.Start(t)}
	s := openAt(t, e.endpoint)
	e.plan(s, slices.Concat(people(), members)...)
	require.NoError(t, s.EnableAccess(t.Context(), true))
	return e
}

// plan makes members, and requires that nothing is left to do then.
func (e *secured) plan(s *etcdstore.Store, members ...etcdstore.Member) {
	e.Helper()
	a, err := s.Access(e.Context())
	require.NoError(e, err)
	changes, err := a.Plan(topology.DefaultPrefix, members...)
	require.NoError(e, err)
	for _, c := range changes {
		require.NoError(e, s.ChangeAccess(e.Context(), c), c)
	}
	a, err = s.Access(e.Context())
	require.NoError(e, err)
	changes, err = a.Plan(topology.DefaultPrefix, members...)
	require.NoError(e, err)
	require.Empty(e, changes)
}

// as opens the cluster as a user.
func (e *secured) as(user string) *etcdstore.Store {
	return open(e.T, etcdstore.Config{
		Endpoints: []string{e.endpoint}, Timeout: patience, Username: user, Password: "password of " + user,
	})
}

// bare is a client of a user that keeps to nothing.
func (e *secured) bare(user string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{e.endpoint}, Username: user, Password: "password of " + user, Logger: zap.NewNop(),
	})
	require.NoError(e, err)
	e.Cleanup(func() { _ = c.Close() })
	return c
}

// denied requires an error that names the user, the key and the remedy.
func denied(t testing.TB, err error, user, key string) {
	t.Helper()
	refused(t, err, topology.ErrDenied, "user "+user, topology.DefaultPrefix+"/"+key, "baize-operator", "baize auth add")
	require.ErrorIs(t, err, topology.ErrUnavailable)
	require.Equal(t, fault.StoreDenied, fault.Of(err).Code)
}

func within(t testing.TB, sub topology.Subnet, i uint64) netip.Addr {
	t.Helper()
	a, ok := topology.AddrAt(sub.Prefix, i)
	require.True(t, ok)
	return a
}

// Everything that an agent does works with the rights of its node.
func TestNodeWithItsOwnUser(t *testing.T) {
	t.Parallel()
	e := secure(t, nodeMember("host1"), nodeMember("host2"))
	ctx, alice, host1, host2 := t.Context(), e.as("alice"), e.as("host1"), e.as("host2")
	mustCreate(t, alice, blue())
	updates := watch(t, host1)
	member(t, host1, "host1")
	member(t, host2, "host2")
	stop1, _ := alive(t, host1, topology.Liveness{Node: "host1", ID: "id-host1"}, 2*time.Second)
	_, _ = alive(t, host2, topology.Liveness{Node: "host2", ID: "id-host2"}, 2*time.Second)
	until(t, updates, func(u etcdstore.Update) bool { return u.Err == nil && len(u.Snapshot.Alive) == 2 })

	// An address of another node's subnet, with its agreement.
	home := snapshot(t, host1).NodeSubnets("blue", "host2")[0]
	a := within(t, home, 9)
	claim, err := host1.ClaimAddress(ctx, topology.Claim{Network: "blue", Addr: a, Node: "host1", ID: "id-host1"})
	require.NoError(t, err)
	claim.Answer = topology.ClaimAgreed
	require.NoError(t, host2.AnswerClaim(ctx, claim))
	pin, err := host1.PutPin(ctx, topology.Pin{Network: "blue", Addr: a, Node: "host1", MAC: topology.MACOf(a).String()})
	require.NoError(t, err)
	require.NoError(t, host1.PutNames(ctx, topology.Names{
		Network: "blue", Node: "host1", Names: map[string][]netip.Addr{"web": {a}},
	}))
	require.NoError(t, host1.DeletePin(ctx, pin))

	// A network of its engine's, from beginning to end.
	_, err = host1.CreateNetwork(ctx, topology.Network{
		Name: "docker-10.9.0.0-16", IPv4: prefix("10.9.0.0/16"), CreatedBy: topology.CreatedByDocker,
	})
	require.NoError(t, err)
	_, err = host1.LeaseSubnet(ctx, "docker-10.9.0.0-16", "host1", topology.IPv4, false)
	require.NoError(t, err)
	require.NoError(t, host1.GiveBack(ctx, "docker-10.9.0.0-16", "host1"))
	require.NotContains(t, snapshot(t, host1).Networks, "docker-10.9.0.0-16")

	// A network that an operator deletes.
	_, err = alice.MarkNetwork(ctx, "blue", topology.DeleteUnused)
	require.NoError(t, err)
	require.NoError(t, host2.AnswerDeletion(ctx, "blue", "host2", []string{"endpoint db"}))
	require.NoError(t, host1.LetGo(ctx, "blue", "host1"))
	require.NoError(t, host2.LetGo(ctx, "blue", "host2"), "the record is left for whoever deletes it")
	require.NoError(t, alice.FinishDeletion(ctx, "blue"))

	stop1()
	require.NotContains(t, snapshot(t, host2).Alive, "host1", "a clean stop is seen at once")
	require.NoError(t, host1.HandOverNode(ctx, "host1", "id-host1"))
}

// A network that an engine made under a name of its own is an operator's to remove.
func TestGiveBackWithoutTheRightToRemove(t *testing.T) {
	t.Parallel()
	e := secure(t, nodeMember("host1"))
	ctx, alice, host1 := t.Context(), e.as("alice"), e.as("host1")
	n := blue()
	n.CreatedBy = topology.CreatedByDocker
	mustCreate(t, alice, n)
	member(t, host1, "host1")
	require.NoError(t, host1.GiveBack(ctx, "blue", "host1"))
	s := snapshot(t, host1)
	require.Empty(t, s.NodeSubnets("blue", "host1"))
	require.Contains(t, s.Networks, "blue")
	require.NoError(t, host1.GiveBack(ctx, "blue", "host1"), "nor is it tried for ever")
	require.NoError(t, alice.DeleteNetwork(ctx, "blue"))
}

// Questions and answers go between nodes, and nobody answers for another one.
func TestAnswersOfNodes(t *testing.T) {
	t.Parallel()
	e := secure(t, nodeMember("host1"), nodeMember("host2"))
	host1 := e.as("host1")
	for _, n := range []string{"host1", "host2"} {
		answering(t, e.as(n), n, func(q topology.Question) json.RawMessage { return q.Arguments })
	}
	for _, asker := range []string{"host1", "alice"} {
		got := map[string]bool{}
		require.NoError(t, e.as(asker).Ask(t.Context(), question("q-"+asker), func(a topology.NodeAnswer) bool {
			got[a.Node] = true
			return len(got) == 2
		}))
	}
	list, err := e.bare("alice").Get(t.Context(), topology.DefaultPrefix+"/~questions/", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, list.Kvs, "a question goes with its lease, which holds no answers of others")

	_, err = e.bare("alice").Put(t.Context(), topology.DefaultPrefix+"/~questions/q1", `{"kind": "echo", "seconds": 60}`)
	require.NoError(t, err)
	asked := make(chan topology.Question, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = host1.Questions(ctx, func(q topology.Question) { asked <- q }) }()
	err = host1.PutAnswer(t.Context(), receive(t, asked), topology.NodeAnswer{Node: "host2"})
	denied(t, err, "host1", "~answers/host2/q1")
}

// What a node does not have to write it may not.
func TestNodeMayNot(t *testing.T) {
	t.Parallel()
	e := secure(t, nodeMember("host1"), nodeMember("host2"))
	ctx, alice, s := t.Context(), e.as("alice"), e.as("host1")
	mustCreate(t, alice, blue())
	member(t, e.as("host2"), "host2")
	id := topology.Liveness{Node: "host2", ID: "id-host2"}
	_, _ = alive(t, e.as("host2"), id, time.Minute) // longer than this takes
	member(t, s, "host1")

	_, err := s.CreateNetwork(ctx, topology.Network{Name: "red", IPv4: prefix("10.2.0.0/16")})
	denied(t, err, "host1", "networks/red")
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error {
		n.MTU = 1400
		return nil
	})
	denied(t, err, "host1", "networks/blue")
	_, err = s.MarkNetwork(ctx, "blue", topology.DeleteNow)
	denied(t, err, "host1", "networks/blue")
	_, err = s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.200.0/24"), Reserved: true})
	denied(t, err, "host1", "networks/blue")
	_, err = s.RegisterNode(ctx, topology.Node{
		Name: "host3", ID: "x", VTEPs: node("host3").VTEPs, Encapsulations: node("host3").Encapsulations,
	})
	denied(t, err, "host1", "nodes/host3")
	_, err = s.RemoveNode(ctx, "host2", true)
	denied(t, err, "host1", "nodes/host2")

	bare, p := e.bare("host1"), topology.DefaultPrefix+"/"
	for _, key := range []string{
		p + "nodes/host2", p + "nodes/host12", p + "alive/host2", p + "networks/blue", p + "~answers/host2/q", p + "other",
		"/baize/v2/nodes/host1", "/coreos.com/network/config", "/coreos.com/network/subnets/10.1.5.0-24", "/other",
	} {
		_, err := bare.Put(ctx, key, "{}")
		require.ErrorContains(t, err, "permission denied", key)
		_, err = bare.Delete(ctx, key)
		require.ErrorContains(t, err, "permission denied", key)
	}
	held := snapshot(t, s).Alive["host2"]
	_, err = bare.Revoke(ctx, clientv3.LeaseID(held.Lease))
	require.ErrorContains(t, err, "permission denied", "another node's liveness ends with its lease")
	_, err = bare.UserAdd(ctx, "host1b", "x")
	require.ErrorContains(t, err, "permission denied")
	_, err = s.Access(ctx)
	refused(t, err, topology.ErrDenied, "user host1", "root", "--etcd-username")
	require.ErrorContains(t, s.MayWrite(ctx, topology.NodeRights(topology.DefaultPrefix, "host2", nil)...),
		"/baize/v1/nodes/host2, /baize/v1/alive/host2, /baize/v1/~answers/host2/*")
	require.NoError(t, s.MayWrite(ctx, topology.NodeRights(topology.DefaultPrefix, "host1", nil)...))

	// What docs/security.md says that it still can: etcd's roles are by range of keys.
	sub := snapshot(t, s).NodeSubnets("blue", "host2")[0]
	_, err = bare.Delete(ctx, p+sub.Key())
	require.NoError(t, err)
}

// A node of some networks cannot touch what is in others.
func TestNodeOfSomeNetworks(t *testing.T) {
	t.Parallel()
	e := secure(t, nodeMember("host1", "blue"), nodeMember("host2"))
	ctx, alice, s := t.Context(), e.as("alice"), e.as("host1")
	mustCreate(t, alice, blue())
	mustCreate(t, alice, topology.Network{Name: "red", IPv4: prefix("10.2.0.0/16")})
	member(t, s, "host1")
	require.NoError(t, s.PutNames(ctx, topology.Names{
		Network: "blue", Node: "host1", Names: map[string][]netip.Addr{"web": {prefix("10.1.0.9/32").Addr()}},
	}))
	_, err := s.LeaseSubnet(ctx, "red", "host1", topology.IPv4, false)
	denied(t, err, "host1", "subnets/red/")
	_, err = s.CreateNetwork(ctx, topology.Network{Name: "docker-x", IPv4: prefix("10.9.0.0/16")})
	denied(t, err, "host1", "networks/docker-x")
	_, err = e.bare("host1").Put(ctx, topology.DefaultPrefix+"/names/blue/host2", "{}")
	require.ErrorContains(t, err, "permission denied")
	require.NoError(t, s.MayWrite(ctx, topology.NodeRights(topology.DefaultPrefix, "host1", []string{"blue"})...))

	// Its rights follow what root says, also while its agent runs.
	root := e.as("root")
	e.plan(root, nodeMember("host1", "red"))
	_, err = s.LeaseSubnet(ctx, "red", "host1", topology.IPv4, false)
	require.NoError(t, err)
	denied(t, s.GiveBack(ctx, "blue", "host1"), "host1", "subnets/blue/")
}

func TestReaderMayNotWrite(t *testing.T) {
	t.Parallel()
	e := secure(t)
	ctx, alice, bob := t.Context(), e.as("alice"), e.as("bob")
	mustCreate(t, alice, blue())
	updates := watch(t, bob)
	until(t, updates, func(u etcdstore.Update) bool { return u.Err == nil && len(u.Snapshot.Networks) == 1 })
	denied(t, bob.DeleteNetwork(ctx, "blue"), "bob", "networks/blue")
	_, err := bob.RegisterNode(ctx, node("bob"))
	denied(t, err, "bob", "nodes/bob")
	denied(t, bob.Ask(ctx, question("q1"), func(topology.NodeAnswer) bool { return true }), "bob", "~questions/q1")
	denied(t, bob.MayWrite(ctx), "bob", "alive/~")
	_, err = e.bare("bob").Get(ctx, "/other")
	require.ErrorContains(t, err, "permission denied")
}

func TestOperatorMay(t *testing.T) {
	t.Parallel()
	e := secure(t, nodeMember("host1"))
	ctx, s := t.Context(), e.as("alice")
	mustCreate(t, s, blue())
	member(t, e.as("host1"), "host1")
	_, err := s.ReserveSubnet(ctx, topology.Subnet{Network: "blue", Prefix: prefix("10.1.200.0/24"), Reserved: true})
	require.NoError(t, err)
	require.NoError(t, s.ReleaseSubnet(ctx, "blue", prefix("10.1.200.0/24"), false))
	_, err = s.UpdateNetwork(ctx, "blue", func(n *topology.Network) error {
		n.MTU = 1400
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, s.HandOverNode(ctx, "host1", ""))
	_, err = s.RemoveNode(ctx, "host1", false)
	require.NoError(t, err)
	_, err = s.RenameNetwork(ctx, "blue", "green")
	require.NoError(t, err)
	require.NoError(t, s.DeleteNetwork(ctx, "green"))
	_, err = s.Access(ctx)
	refused(t, err, topology.ErrDenied, "user alice", "root")
}

// Authentication is turned on under agents that run with a user already, and off.
func TestAccessEnabledUnderAgents(t *testing.T) {
	t.Parallel()
	e := &secured{T: t, endpoint: etcdtest.Start(t)}
	plain, root := openAt(t, e.endpoint), e.as("root")
	e.plan(root, append(people(), nodeMember("host1"))...)
	s := e.as("host1")
	mustCreate(t, plain, blue())
	updates := watch(t, s)
	_, states := alive(t, s, topology.Liveness{Node: "host1", ID: "id-host1"}, 2*time.Second)
	on, err := plain.AccessEnabled(t.Context())
	require.NoError(t, err)
	require.False(t, on)

	require.NoError(t, root.EnableAccess(t.Context(), true))
	on, err = plain.AccessEnabled(t.Context())
	require.NoError(t, err)
	require.True(t, on)
	member(t, s, "host1")
	until(t, updates, func(u etcdstore.Update) bool { return u.Err == nil && len(u.Snapshot.Nodes) == 1 })
	refused(t, plain.Check(t.Context()), topology.ErrUnavailable, "etcd wants a user")

	require.NoError(t, root.EnableAccess(t.Context(), false))
	require.NoError(t, plain.Check(t.Context()))
	select {
	case err := <-states:
		require.NoError(t, err, "liveness was never lost")
	default:
	}
}

// A client certificate says who a user is by its common name.
func TestNodeByCertificate(t *testing.T) {
	t.Parallel()
	srv := etcdtest.StartTLS(t, "/elsewhere")
	by := func(name string) *etcdstore.Store {
		cert, key := srv.Issue(t, name)
		return open(t, etcdstore.Config{
			Endpoints: []string{srv.Endpoint}, CAFile: srv.CAFile, CertFile: cert, KeyFile: key, Timeout: patience,
		})
	}
	e := &secured{T: t, endpoint: srv.Endpoint}
	root := by("root")
	host1 := nodeMember("host1")
	host1.Password = ""
	e.plan(root, host1)
	s := by("host1")
	_, err := s.RegisterNode(t.Context(), node("host1"))
	require.NoError(t, err)
	_, err = s.RegisterNode(t.Context(), node("host2"))
	refused(t, err, topology.ErrDenied, "host1-cert.pem", "nodes/host2")
}

// Who was there before is not taken for a node by mistake.
func TestPlanRefusesStrangers(t *testing.T) {
	a := etcdstore.Access{Users: map[string][]string{"host1": {"backup"}}}
	m := nodeMember("host1")
	_, err := a.Plan(topology.DefaultPrefix, m)
	refused(t, err, topology.ErrExists, "etcd user host1", "--user")
	m.Known = true
	changes, err := a.Plan(topology.DefaultPrefix, m)
	require.NoError(t, err)
	require.Equal(t, "give user host1 role baize-node-host1", changes[len(changes)-1].String())
	for _, c := range changes {
		require.NotEqual(t, etcdstore.AddUser, c.Verb)
		require.NotContains(t, c.String(), "password of")
	}
	a.Users["host1"] = []string{"backup", m.Role}
	require.Equal(t, []etcdstore.AccessChange{{Verb: etcdstore.RevokeRole, User: "host1", Role: m.Role}},
		a.PlanRemoval(m.Role, []string{"host1"}, false), "who has other roles keeps them")
}
