package vswitch

import (
	"testing"

	"github.com/ovn-org/libovsdb/ovsdb"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest"
)

// TestGuard: a transaction built from rows that changed meanwhile does nothing.
func TestGuard(t *testing.T) {
	ours := map[string]string{ovs.KeyOwner: ovs.Owner}
	for name, tc := range map[string]struct {
		meanwhile []string
		change    ovs.DBChange
	}{
		"port changed hands": {
			[]string{"remove", "port", "p1", "external_ids", ovs.KeyOwner},
			ovs.DBChange{UpdatePorts: []ovs.Port{{Name: "p1", Type: "gre", ExternalIDs: ours}}},
		},
		"port to remove changed hands": {
			[]string{"set", "port", "p1", "external_ids:" + ovs.KeyOwner + "=other"},
			ovs.DBChange{RemovePorts: []string{"p1"}},
		},
		"bridge changed hands": {
			[]string{"remove", "bridge", "br-t", "external_ids", ovs.KeyOwner},
			ovs.DBChange{AddPorts: []ovs.Port{{Name: "p2"}}},
		},
		"bridge to delete changed hands": {
			[]string{"remove", "bridge", "br-t", "external_ids", ovs.KeyOwner},
			ovs.DBChange{DeleteBridge: "br-t"},
		},
		"port went": {
			[]string{"del-port", "br-t", "p1"},
			ovs.DBChange{UpdatePorts: []ovs.Port{{Name: "p1", ExternalIDs: ours}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := ovstest.Start(t)
			c, err := New(Config{Endpoint: o.Endpoint(), Bridge: "br-t"})
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.Apply(t.Context(), ovs.DBChange{
				SetBridge: &ovs.Bridge{Name: "br-t", Datapath: "system", FailMode: "secure", ExternalIDs: ours},
				AddPorts:  []ovs.Port{{Name: "p1", Type: "internal", ExternalIDs: ours}},
			}))
			r, err := c.rows(t.Context())
			require.NoError(t, err)
			tx := &txn{r: r, index: r.byName()}
			require.NoError(t, tx.build("br-t", tc.change))

			o.Vsctl(tc.meanwhile...)
			before := o.Vsctl("--columns=name,external_ids", "list", "port")
			s, err := c.session(t.Context())
			require.NoError(t, err)
			_, err = c.transact(t.Context(), s, tx.ops...)
			var raced *ovsdb.TimedOut
			require.ErrorAs(t, err, &raced)
			require.Equal(t, before, o.Vsctl("--columns=name,external_ids", "list", "port"))
		})
	}
}
