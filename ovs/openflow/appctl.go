package openflow

import (
	"context"
	"net"
	"net/netip"
)

// NeighSet gives ovs-vswitchd's own tunnel neighbour table an entry (ovs-appctl
// tnl/neigh/set): the address on a bridge has this MAC. Without it, the first
// packet of a tunnel in the userspace datapath is spent on ARP.
func (c *Client) NeighSet(ctx context.Context, bridge string, ip netip.Addr, mac net.HardwareAddr) error {
	_, err := c.appctl(ctx, "tnl/neigh/set", bridge, ip.String(), mac.String())
	return err
}

// PurgeDatapath makes ovs-vswitchd forget what its datapath has cached
// (ovs-appctl revalidator/purge). The next packet of each flow is looked up anew.
func (c *Client) PurgeDatapath(ctx context.Context) error {
	_, err := c.appctl(ctx, "revalidator/purge")
	return err
}

// Trace returns what the bridge would do with a packet (ovs-appctl
// ofproto/trace). The flow is in ovs-fields(7) text: "in_port=1,tcp,nw_dst=…".
func (c *Client) Trace(ctx context.Context, flow string) (string, error) {
	return c.appctl(ctx, "ofproto/trace", c.cfg.Bridge, flow)
}

// AppCtl asks the ovs-vswitchd of RunDir something, with a command of ovs-appctl(8) that
// only reads: "upcall/show".
func (c *Client) AppCtl(ctx context.Context, command ...string) (string, error) {
	return c.appctl(ctx, command...)
}

// appctl runs ovs-appctl against the ovs-vswitchd of RunDir.
func (c *Client) appctl(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, nil, "ovs-appctl", append([]string{"--target=ovs-vswitchd"}, args...)...)
}
