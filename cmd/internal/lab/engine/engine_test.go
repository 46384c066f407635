package engine

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
)

func TestServicesOfMembers(t *testing.T) {
	host := member.Identity{Member: "host1"}
	other := foreign{Flannel: true, Flanneld: "/bin/flanneld"}
	ovs := []string{ServiceOVSDB, ServiceVswitchd}
	for name, tc := range map[string]struct {
		c    Config
		want []string
	}{
		"fabric": {
			Config{Identity: member.Identity{Member: member.Fabric}, Place: fabric.OwnPlace(1)}, []string{ServiceEtcd},
		},
		"router": {Config{Identity: member.Identity{Member: member.Router}, FRR: "x"}, []string{ServiceZebra, ServiceBGPD}},
		"host":   {Config{Identity: host}, append(ovs, ServiceAgent)},
		"docker": {Config{Identity: host, Docker: true}, append(ovs, ServiceAgent, ServiceContainerd, ServiceDockerd)},
		"frr":    {Config{Identity: host, FRR: "x"}, append(ovs, ServiceAgent, ServiceZebra, ServiceBGPD)},
		// What runs in place of the agent replaces it alone: of a host with FRR it
		// replaced bgpd once.
		"in place of the agent": {
			Config{Identity: host, foreign: other, FRR: "x"}, append(ovs, ServiceFlannel, ServiceZebra, ServiceBGPD),
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			known := map[string]bool{}
			for _, s := range Services(tc.c, nil) {
				got = append(got, s.Name)
				for _, need := range s.Needs {
					assert.True(t, known[need], "%s needs %s, which is not started before it", s.Name, need)
				}
				known[s.Name] = true
			}
			assert.Equal(t, tc.want, got)
		})
	}
}
