//go:build system

package doctortest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology/fault"
)

// What the doctor does beside looking at its own host, in one lab.
func TestModes(t *testing.T) {
	p := newPatient(t, lab.Config{})
	p.awaitHealthy()
	for _, c := range []struct {
		name string
		test func(*patient)
	}{
		{"all: a fault of another host is named", testAll},
		{"all: a node without an agent is not checked", testAllWithoutAgent},
		{"all: without etcd this host is looked at", testAllWithoutEtcd},
		{"fix does what is safe", testFix},
		{"a bundle says what the host said", testBundle},
		{"a topology on paper", testPaper},
		{"preflight of a host that has no agent", testPreflight},
		{"a certificate that expires", testCertificate},
		{"all: a clock that is off is named", testClock},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(p.in(t)) })
	}
}

// awaitAll waits until the doctor of all nodes, asked on host1, says what is expected.
func (p *patient) awaitAll(what string, expected func(doctor.Report) bool) {
	p.T.Helper()
	p.Await(what, func() (bool, string) {
		r, saw := p.doctor("host1", "--all")
		return expected(r), saw
	})
}

func finding(r doctor.Report, code fault.Code, node string) bool {
	for _, f := range r.Findings() {
		if f.Code == code && strings.HasPrefix(f.Node, node) {
			return true
		}
	}
	return false
}

func testAll(p *patient) {
	r, saw := p.doctor("host1", "--all")
	require.Empty(p.T, saw)
	require.Equal(p.T, 5, r.Count(doctor.OK), "two nodes, and three comparisons")
	p.Must("host2/c1", "ip", "link", "set", "eth0", "address", "02:00:00:00:00:98")
	p.awaitAll("host1 names the fault of host2", func(r doctor.Report) bool {
		return len(r.Findings()) == 1 && finding(r, fault.EndpointMAC, "host2")
	})
	p.Must("host2/c1", "ip", "link", "set", "eth0", "address", p.Endpoint("host2/c1").MAC)
	p.awaitHealthy()
}

func testAllWithoutEtcd(p *patient) {
	require.NoError(p.T, p.Host("fabric").StopService(p.T.Context(), lab.ServiceEtcd))
	p.Await("the host says what it sees itself", func() (bool, string) {
		out, err := p.Run("host1", "baize", "doctor", "--all")
		return err != nil && strings.Contains(out, "this host alone") && strings.Contains(out, string(fault.StoreUnavailable)) &&
			strings.Contains(out, "containers"), out
	})
	require.NoError(p.T, p.Host("fabric").StartService(p.T.Context(), lab.ServiceEtcd))
	p.awaitHealthy()
}

func testAllWithoutAgent(p *patient) {
	require.NoError(p.T, p.Host("host2").StopService(p.T.Context(), lab.ServiceAgent))
	p.awaitAll("host2 is not checked", func(r doctor.Report) bool {
		for _, x := range r.Results {
			if x.Section == "host2" {
				return x.State == doctor.Unchecked && strings.Contains(x.Text, "its agent does not run")
			}
		}
		return false
	})
	require.NoError(p.T, p.Host("host2").StartService(p.T.Context(), lab.ServiceAgent))
	p.awaitHealthy()
}

func testFix(p *patient) {
	p.script("host1", "ip link set PORT down")
	p.Await("the fault is named", func() (bool, string) {
		r, saw := p.doctor("host1")
		return finding(r, fault.EndpointDown, "host1"), saw
	})
	out := p.Must("host1", "baize", "doctor", "--fix")
	require.Contains(p.T, out, p.words.Replace("$ ip link set dev PORT up"))
	require.NotContains(p.T, out, "BZ0622")
	p.awaitHealthy()
}

func testBundle(p *patient) {
	p.script("host1", "INSIDE ip link set eth0 address 02:00:00:00:00:99")
	file := filepath.Join(p.T.TempDir(), "b.tar.gz")
	_, said := p.doctor("host1")
	out, err := p.Run("host1", "env", "BAIZE_ETCD_USERNAME=somebody", "BAIZE_ETCD_PASSWORD=very-secret",
		"BAIZE_ETCD_PLAIN_PASSWORD=true", "baize", "doctor", "--bundle", file)
	require.Error(p.T, err, "there is a finding")
	require.Contains(p.T, out, "BZ0621")
	_, later := p.doctor("host2", "--file", file)
	require.Equal(p.T, said, later, "anywhere")
	info, err := os.Stat(file)
	require.NoError(p.T, err)
	require.EqualValues(p.T, 0o600, info.Mode().Perm())
	text := p.Must("host1", "sh", "-c", "tar -xzOf "+file)
	require.NotContains(p.T, text, "very-secret")
	for _, s := range []string{"table=", "br-baize", "baize-endpoint", "facts.json"} {
		require.Contains(p.T, text+p.Must("host1", "tar", "-tzf", file), s)
	}
	p.script("host1", "INSIDE ip link set eth0 address "+p.Endpoint("host1/c1").MAC)
	p.awaitHealthy()
}

func testPaper(p *patient) {
	file := filepath.Join(p.T.TempDir(), "backup.json")
	p.Must("host1", "sh", "-c", "baize backup >"+file)
	_, saw := p.doctor("host1", "--file", file)
	require.Empty(p.T, saw)
	p.Must("host1", "sh", "-c", "etcdctl --endpoints=$BAIZE_ETCD_ENDPOINTS put /baize/v1/networks/typo nonsense && baize backup >"+file+
		" && etcdctl --endpoints=$BAIZE_ETCD_ENDPOINTS del /baize/v1/networks/typo")
	r, saw := p.doctor("host1", "--file", file)
	require.True(p.T, finding(r, fault.RecordMalformed, ""), saw)
	require.Len(p.T, r.Findings(), 1)
}

func testPreflight(p *patient) {
	r, saw := p.doctor("host1", "--preflight")
	for _, f := range r.Findings() {
		require.Equal(p.T, fault.EncapsulationMissing, f.Code, "a kernel without Open vSwitch's datapath may be: %s", saw)
	}
	r, saw = p.doctor("host1", "--preflight", "--node", "host2")
	require.True(p.T, finding(r, fault.NodeDuplicate, "host2"), saw)
	r, saw = p.doctor("host1", "--preflight", "--etcd-endpoints", "http://192.168.77.1:1")
	require.True(p.T, finding(r, fault.StoreUnavailable, "host1"), saw)
}
