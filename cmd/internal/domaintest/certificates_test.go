//go:build system

package domaintest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// The certificate of etcd and its authority are replaced under agents that run, as one does
// it: first the agents trust both, then etcd shows the new one, then the old one is trusted
// no more. No packet is lost, no agent is started again, and changes are followed.
func TestCertificatesReplaced(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Hosts: 2, Networks: []lab.NetworkSpec{
		{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
	}})
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.crt")
	trust := func(certificates ...[]byte) {
		require.NoError(t, os.WriteFile(file+".new", slices.Concat(certificates...), 0o644))
		require.NoError(t, os.Rename(file+".new", file))
	}
	etcd := d.EtcdByTLS()
	const year = 365 * 24 * time.Hour
	first, show := etcd.NewCertificate(d.Lab, year)
	trust(first)
	show()
	for _, h := range []string{"host1", "host2"} {
		require.NoError(t, d.Host(h).StopService(t.Context(), lab.ServiceAgent))
		_, out := d.Start(h, "env", "BAIZE_ETCD_ENDPOINTS="+etcd.URL, "BAIZE_ETCD_CAFILE="+file, "baize", "agent")
		d.Await("the agent of "+h+" is ready", func() (bool, string) {
			said, err := d.Run(h, "baize", "status", "-o", "jsonpath={.agent.ready}")
			return strings.TrimSpace(said) == "true", fmt.Sprint(said, err, out)
		})
	}
	baize := []string{"env", "BAIZE_ETCD_ENDPOINTS=" + etcd.URL, "BAIZE_ETCD_CAFILE=" + file, "baize"}
	networks := 0
	follow := func(what string) {
		t.Helper()
		networks++
		was := map[string]int64{}
		for _, h := range []string{"host1", "host2"} {
			was[h] = d.AgentStatus(h).Etcd.Revision
		}
		subnet := fmt.Sprintf("10.%d.0.0/16", 10+networks)
		d.Must("host1", append(baize, "network", "create", fmt.Sprint("n", networks), "--subnet", subnet)...)
		for h, before := range was {
			d.Await(what+": the agent of "+h+" follows", func() (bool, string) {
				has := d.AgentStatus(h).Etcd.Revision
				return has > before, fmt.Sprint("revision ", has)
			})
		}
	}
	follow("the first one")
	pings := []labkit.Pings{
		d.PingEndpoint("host1/c1", "host2/c1", 10*time.Millisecond), d.PingEndpoint("host2/c1", "host1/c1", 10*time.Millisecond),
	}
	second, show := etcd.NewCertificate(d.Lab, year)
	trust(first, second)
	show()
	etcd.Cut()
	follow("both are trusted, the new one is shown")
	trust(second)
	etcd.Cut()
	follow("the old one is gone")
	labkit.GoOn(100, pings...)
	for _, p := range pings {
		assert.Empty(t, p.Ends().Missing, p.Name)
	}
	for _, h := range []string{"host1", "host2"} {
		d.Must(h, "ip", "netns", "add", "new")
		d.Must(h, "baize", "endpoint", "add", "new", "--network", "n3", "--netns", "new")
	}
	for _, h := range []string{"host1", "host2"} {
		assert.True(t, d.AgentStatus(h).Ready, "nobody would have started it again")
	}
}
