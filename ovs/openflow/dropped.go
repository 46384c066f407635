package openflow

import (
	"context"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Dropped are packets that the datapath dropped, of one kind, as it remembers them:
// for about ten seconds after the last (ovs-vswitchd.conf.db(5), "max-idle").
type Dropped struct {
	// InPort is the name of the port in the datapath; of a tunnel that of all of its
	// encapsulation, and Local and Remote are its ends.
	InPort        string
	Local, Remote netip.Addr
	// Header are the fields that were looked at, in the words of ovs-fields(7):
	// "dl_src=02:42:0a:01:05:02,dl_type=0x0800,nw_src=10.1.7.7/17".
	Header  string
	Packets uint64
	// Ago is how long the last of them is ago; negative: none but the first, which
	// ovs-vswitchd handled itself.
	Ago time.Duration
}

// Dropped reads which packets the bridge's datapath dropped last (ovs-appctl
// dpif/dump-flows). It costs packets nothing: the datapath has them in any case.
func (c *Client) Dropped(ctx context.Context) ([]Dropped, error) {
	out, err := c.appctl(ctx, "dpif/dump-flows", "--names", c.cfg.Bridge)
	if err != nil {
		return nil, err
	}
	var all []Dropped
	for line := range strings.Lines(out) {
		if d, ok := ParseDropped(line); ok {
			all = append(all, d)
		}
	}
	return all, nil
}

// ParseDropped reads a line of 'ovs-appctl dpif/dump-flows'; false where it drops
// nothing.
func ParseDropped(line string) (Dropped, bool) {
	key, rest, ok := strings.Cut(strings.TrimSpace(line), ", packets:")
	_, actions, hasActions := strings.Cut(rest, "actions:")
	if !ok || !hasActions || !strings.HasPrefix(actions, "drop") {
		return Dropped{}, false
	}
	d := Dropped{Ago: -1}
	count, _, _ := strings.Cut(rest, ",")
	d.Packets, _ = strconv.ParseUint(count, 10, 64)
	if _, used, ok := strings.Cut(rest, "used:"); ok {
		used, _, _ = strings.Cut(used, ",")
		if ago, err := time.ParseDuration(used); err == nil {
			d.Ago = ago
		}
	}
	var fields []string
	for _, part := range datapathField.FindAllStringSubmatch(key, -1) {
		d.part(part[1], part[2], &fields)
	}
	d.Header = strings.Join(fields, ",")
	return d, true
}

var datapathField = regexp.MustCompile(`(\w+)\(((?:[^()]|\([^()]*\))*)\)`)

// part reads one part of a key, such as "arp(sip=10.1.5.2,op=1/0xff)".
func (d *Dropped) part(name, body string, fields *[]string) {
	switch name {
	case "in_port":
		d.InPort = body
		return
	case "eth_type":
		*fields = append(*fields, "dl_type="+body)
		return
	}
	for pair := range strings.SplitSeq(body, ",") {
		key, value, ok := strings.Cut(pair, "=")
		switch {
		case !ok:
		case name == "tunnel" && key == "src":
			d.Remote, _ = netip.ParseAddr(value)
		case name == "tunnel" && key == "dst":
			d.Local, _ = netip.ParseAddr(value)
		case datapathNames[name+" "+key] != "":
			*fields = append(*fields, datapathNames[name+" "+key]+"="+value)
		}
	}
}

// datapathNames are the names of the datapath's fields in OpenFlow.
var datapathNames = map[string]string{
	"tunnel tun_id": "tun_id", "eth src": "dl_src", "eth dst": "dl_dst",
	"ipv4 src": "nw_src", "ipv4 dst": "nw_dst", "ipv4 proto": "nw_proto", "ipv4 ttl": "nw_ttl",
	"ipv6 src": "ipv6_src", "ipv6 dst": "ipv6_dst", "ipv6 proto": "nw_proto", "ipv6 hlimit": "nw_ttl",
	"arp sip": "arp_spa", "arp tip": "arp_tpa", "arp op": "arp_op", "arp sha": "arp_sha", "arp tha": "arp_tha",
	"icmp type": "icmp_type", "icmp code": "icmp_code", "icmpv6 type": "icmp_type", "icmpv6 code": "icmp_code",
	"nd target": "nd_target", "nd sll": "nd_sll", "nd tll": "nd_tll",
	"tcp src": "tcp_src", "tcp dst": "tcp_dst", "udp src": "udp_src", "udp dst": "udp_dst",
}
