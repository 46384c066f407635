package openflow

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestParseDatapaths(t *testing.T) {
	show := `netdev@ovs-netdev:
  lookups: hit:26850 missed:37 lost:2
  flows: 21
  port 0: ovs-netdev (tap)
  port 4: vxlan_sys_4789 (vxlan: packet_type=ptap)
system@ovs-system:
  lookups: hit:18446744073709551615 missed:1 lost:0
  flows: 3
  masks: hit:10 total:2 hit/pkt:1.00
  cache: hit:5 hit-rate:50.00%
  port 0: ovs-system (internal)
`
	upcalls := `netdev@ovs-netdev:
  flows         : (current 20) (avg 18) (max 21) (limit 13000)
  dump duration : 1ms
  ufid enabled : true

  4: (keys 21)
system@ovs-system:
  flows         : (current 3) (avg 3) (max 3) (limit 200000)
  offloaded flows : 0
`
	assert.Equal(t, []Datapath{
		{Name: "netdev@ovs-netdev", Hit: 26850, Missed: 37, Lost: 2, Flows: 21, FlowLimit: 13000},
		{Name: "system@ovs-system", Hit: 1<<64 - 1, Missed: 1, Flows: 3, FlowLimit: 200000},
	}, parseDatapaths(show, upcalls))
	assert.Empty(t, parseDatapaths("", ""))
}
