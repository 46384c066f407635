package etcdstore_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// claims is a network with a lease of node "owner", in virtual time.
type claims struct {
	*etcdfake.Cluster
	*testing.T
	s    *etcdstore.Store
	home netip.Prefix
	stop func() // the owner's agent
}

func withClaims(t *testing.T, f func(t *testing.T, c *claims)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &claims{Cluster: etcdfake.New(), T: t}
		c.s = openFake(t, c.Host("a"))
		mustCreate(t, c.s, blue())
		for _, name := range []string{"owner", "x", "y"} {
			_, err := c.s.RegisterNode(t.Context(), node(name))
			require.NoError(t, err)
		}
		sub, err := c.s.LeaseSubnet(t.Context(), "blue", "owner", topology.IPv4, false)
		require.NoError(t, err)
		c.home = sub.Prefix
		c.stop, _ = alive(t, c.s, topology.Liveness{Node: "owner", ID: "id-owner"}, 5*time.Second)
		f(t, c)
	})
}

func (c *claims) addr(i uint64) netip.Addr {
	a, ok := topology.AddrAt(c.home, i)
	require.True(c, ok)
	return a
}

func (c *claims) claim(node string, a netip.Addr) (topology.Claim, error) {
	return c.s.ClaimAddress(c.Context(), topology.Claim{
		Network: "blue", Addr: a, Node: node, ID: "id-" + node, Endpoint: "endpoint of " + node,
	})
}

func (c *claims) pin(node string, a netip.Addr) (topology.Pin, error) {
	return c.s.PutPin(c.Context(), topology.Pin{
		Network: "blue", Addr: a, Node: node, MAC: topology.MACOf(a).String(), Endpoint: "e-" + node,
	})
}

func (c *claims) answer(asked topology.Claim, answer topology.ClaimAnswer) {
	asked.Answer = answer
	require.NoError(c, c.s.AnswerClaim(c.Context(), asked))
}

func (c *claims) snapshot() *topology.Snapshot {
	s, err := c.s.Snapshot(c.Context())
	require.NoError(c, err)
	return s
}

func TestAddressOfAnotherNode(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		a := c.addr(9)
		_, err := c.pin("x", a)
		refused(t, err, topology.ErrUnclaimed, a.String(), "node owner")
		asked, err := c.claim("x", a)
		require.NoError(t, err)
		require.Equal(t, "owner", asked.Owner)
		require.Empty(t, asked.Answer)
		require.NotZero(t, asked.Lease)
		_, err = c.pin("x", a)
		refused(t, err, topology.ErrUnclaimed)
		again, err := c.claim("x", a)
		require.NoError(t, err)
		require.Equal(t, asked.ModRevision, again.ModRevision, "it is asked once")

		c.answer(asked, topology.ClaimAgreed)
		c.answer(asked, topology.ClaimRefused) // of a claim that is another by now
		again, err = c.claim("x", a)
		require.NoError(t, err)
		require.Equal(t, topology.ClaimAgreed, again.Answer)
		require.Equal(t, asked.Lease, again.Lease)
		pin, err := c.pin("x", a)
		require.NoError(t, err)
		require.False(t, pin.Unconfirmed)
		require.Empty(t, c.snapshot().Claims, "the claim ends with it")
		_, err = c.pin("x", a)
		require.NoError(t, err, "it is the node's own now")

		_, err = c.claim("y", a)
		refused(t, err, topology.ErrConflict, a.String(), "node x", "endpoint e-x")
	})
}

func TestRefusedClaim(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		a := c.addr(9)
		asked, err := c.claim("x", a)
		require.NoError(t, err)
		c.answer(asked, topology.ClaimRefused)
		_, err = c.pin("x", a)
		refused(t, err, topology.ErrUnclaimed)
		told, err := c.s.ClaimAddress(t.Context(), asked)
		require.NoError(t, err)
		require.Equal(t, topology.ClaimRefused, told.Answer, "whoever waits is told")
		again, err := c.claim("x", a)
		require.NoError(t, err)
		require.Empty(t, again.Answer, "whoever comes again asks again")
		require.NoError(t, c.s.DropClaim(t.Context(), topology.Claim{Network: "blue", Addr: a, Node: "y"}))
		require.Len(t, c.snapshot().Claims, 1, "that of another node stays")
		require.NoError(t, c.s.DropClaim(t.Context(), again))
		require.NoError(t, c.s.DropClaim(t.Context(), again))
		require.Empty(t, c.snapshot().Claims)
	})
}

// Of two that want an address one is first, wherever it is.
func TestTwoClaims(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		for _, a := range []netip.Addr{c.addr(9), netip.MustParseAddr("10.1.0.9")} {
			_, err := c.claim("x", a)
			require.NoError(t, err)
			_, err = c.claim("y", a)
			refused(t, err, topology.ErrConflict, a.String(), "node x", "endpoint of x")
			_, err = c.pin("y", a)
			refused(t, err, topology.ErrConflict, a.String(), "node x")
			// The one that was first dies.
			pass(31 * time.Second)
			require.Empty(t, c.snapshot().Claims)
			_, err = c.claim("y", a)
			require.NoError(t, err)
		}
	})
}

// What nobody leases nobody has to agree on.
func TestAddressOfNobody(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		a := netip.MustParseAddr("10.1.0.9")
		asked, err := c.claim("x", a)
		require.NoError(t, err)
		require.Equal(t, topology.ClaimAgreed, asked.Answer)
		require.Empty(t, asked.Owner)
		_, err = c.pin("x", a)
		require.NoError(t, err)
		require.Empty(t, c.snapshot().Claims)
		_, err = c.pin("x", netip.MustParseAddr("10.1.0.10"))
		require.NoError(t, err, "also without a claim")
	})
}

// Somebody leases the subnet between the claim and the pin.
func TestSubnetIsLeasedMeanwhile(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		a := netip.MustParseAddr("10.1.222.9")
		_, err := c.claim("x", a)
		require.NoError(t, err)
		sub := topology.Subnet{Network: "blue", Prefix: prefix("10.1.222.0/24"), Node: "owner"}
		_, err = c.s.ClaimSubnet(t.Context(), sub)
		require.NoError(t, err)
		_, err = c.pin("x", a)
		refused(t, err, topology.ErrUnclaimed, "node owner")
		asked, err := c.claim("x", a)
		require.NoError(t, err)
		require.Equal(t, "owner", asked.Owner)
		c.answer(asked, topology.ClaimAgreed)

		// It is another lease than the one that was agreed for.
		require.NoError(t, c.s.ReleaseSubnet(t.Context(), "blue", sub.Prefix, true))
		sub.Node = "y"
		_, err = c.s.ClaimSubnet(t.Context(), sub)
		require.NoError(t, err)
		_, err = c.pin("x", a)
		refused(t, err, topology.ErrUnclaimed, "node y")
	})
}

// The owner's agent does not run: the address is to be had, and confirmed later.
func TestOwnerIsAbsent(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		a, b := c.addr(9), c.addr(10)
		c.stop()
		for _, a := range []netip.Addr{a, b} {
			asked, err := c.claim("x", a)
			require.NoError(t, err)
			require.Equal(t, topology.ClaimAbsent, asked.Answer)
		}
		pin, err := c.pin("x", a)
		require.NoError(t, err)
		require.True(t, pin.Unconfirmed)

		// It is back: what is not pinned yet has to be asked for.
		alive(t, c.s, topology.Liveness{Node: "owner", ID: "id-owner"}, 5*time.Second)
		_, err = c.pin("x", b)
		refused(t, err, topology.ErrUnclaimed, "node owner")
		asked, err := c.claim("x", b)
		require.NoError(t, err)
		require.Empty(t, asked.Answer)

		asked, err = c.claim("x", a)
		require.NoError(t, err)
		again, err := c.pin("x", a)
		require.NoError(t, err)
		require.Equal(t, pin, again, "nothing changes before it has agreed")
		c.answer(asked, topology.ClaimAgreed)
		pin, err = c.pin("x", a)
		require.NoError(t, err)
		require.False(t, pin.Unconfirmed)
		require.Len(t, c.snapshot().Claims, 1)
	})
}

func TestClaimOfASegment(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		sub, err := c.s.LeaseSegment(t.Context(), "blue", "owner", "docker0", topology.IPv4)
		require.NoError(t, err)
		a, _ := topology.AddrAt(sub.Prefix, 9)
		_, err = c.claim("x", a)
		refused(t, err, topology.ErrConflict, a.String(), "docker0 of node owner")
		require.Equal(t, fault.AddressTaken, fault.Of(err).Code)
	})
}

// A claim goes with its node, and is in no backup.
func TestClaimOfARemovedNode(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		asked, err := c.claim("x", c.addr(9))
		require.NoError(t, err)
		removed, err := c.s.RemoveNode(t.Context(), "x", false)
		require.NoError(t, err)
		require.Contains(t, removed, asked.Key())
	})
}

func TestLostAnswersOfClaims(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		h := c.Host("lossy")
		lossy := openFake(t, h)
		h.Set(etcdfake.Faults{LoseAnswers: true})
		time.AfterFunc(4*time.Second, func() { h.Set(etcdfake.Faults{}) })
		asked, err := lossy.ClaimAddress(t.Context(), topology.Claim{Network: "blue", Addr: c.addr(9), Node: "x", ID: "id-x"})
		require.NoError(t, err)
		require.Equal(t, c.snapshot().Claims, map[topology.PinID]topology.Claim{
			{Network: "blue", Addr: c.addr(9)}: asked,
		})
		pass(20 * time.Second)
		require.Len(t, c.snapshot().Claims, 1, "the lease that it is under is not given up")
	})
}
