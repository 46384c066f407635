//go:build system

package doctortest

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/fault"
)

// patient is a lab of two hosts, of which host1 is made ill.
type patient struct {
	*labkit.Lab
	// words are what catalogue's words in capitals stand for.
	words *strings.Replacer
	peer  netip.Addr
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	l := labkit.Up(t, lab.Config{Hosts: 2, Networks: []lab.NetworkSpec{
		{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
	}})
	p := &patient{Lab: l}
	own, other := l.Endpoint("host1/c1"), l.Endpoint("host2/c1")
	p.peer = other.IPs[0]
	port, netns := "", ""
	for _, e := range l.AgentStatus("host1").Endpoints {
		if e.Name == "c1" {
			port, netns = e.Port, e.Netns
		}
	}
	require.Equal(t, own.IPs[0].Is4(), p.peer.Is4())
	p.words = strings.NewReplacer("PORT", port, "INSIDE", "nsenter --net="+netns, "FLOWS", "-O OpenFlow14 add-flow br-baize",
		"PREFIX", topology.DefaultPrefix, "PEER", p.peer.String(), "$ETCD", "$BAIZE_ETCD_ENDPOINTS")
	return p
}

// in makes a subtest's failures its own.
func (p *patient) in(t *testing.T) *patient {
	return &patient{Lab: p.Lab.In(t), words: p.words, peer: p.peer}
}

// doctor asks the doctor of a host.
func (p *patient) doctor(host string, args ...string) (doctor.Report, string) {
	p.T.Helper()
	out, err := p.Run(host, append([]string{"baize", "doctor", "-o", "json"}, args...)...)
	begin := strings.IndexByte(out, '{')
	require.GreaterOrEqual(p.T, begin, 0, "%v: %s", err, out)
	var r doctor.Report
	require.NoError(p.T, json.NewDecoder(strings.NewReader(out[begin:])).Decode(&r), out)
	return r, summary(r)
}

func summary(r doctor.Report) string {
	var b strings.Builder
	for _, f := range r.Findings() {
		doctor.Style{}.Finding(&b, f)
	}
	return b.String()
}

// awaitHealthy waits until the doctors of both hosts find nothing, and containers reach
// each other.
func (p *patient) awaitHealthy() {
	p.T.Helper()
	for _, host := range []string{"host1", "host2"} {
		p.Await(host+" is well", func() (bool, string) {
			r, saw := p.doctor(host)
			return len(r.Findings()) == 0, saw
		})
	}
	p.AwaitRun("the containers reach each other", "host1/c1", "ping", "-c", "1", "-W", "1", p.peer.String())
}

// script runs a script of the catalogue on host1.
func (p *patient) script(text string) {
	p.T.Helper()
	switch text {
	case "":
	case "ALARM":
		etcdtest.RaiseNoSpace(p.T, p.EtcdEndpoint())
	case "STALE":
		p.Must("host1", "sh", "-c", "kill -9 $(pgrep -f '[d]ocker relay')")
	default:
		p.Must("host1", "sh", "-c", p.words.Replace(text))
	}
}

// places are the hosts of services that are not on host1.
var places = map[string]string{lab.ServiceEtcd: "fabric"}

func (p *patient) host(service string) *lab.Host {
	if h := places[service]; h != "" {
		return p.Host(h)
	}
	return p.Host("host1")
}

// units are the lab's services by the names of their systemd units: hosts of a lab have
// no systemd.
var units = map[string][]string{
	"baize": {lab.ServiceAgent}, "openvswitch-switch": {lab.ServiceOVSDB, lab.ServiceVswitchd}, "etcd": {lab.ServiceEtcd},
}

var systemctl = regexp.MustCompile(`^systemctl (start|restart) (\S+)$`)

// mend runs a command that the doctor printed.
func (p *patient) mend(command string) {
	p.T.Helper()
	m := systemctl.FindStringSubmatch(command)
	if m == nil {
		p.Must("host1", "sh", "-c", command)
		return
	}
	require.Contains(p.T, units, m[2])
	for _, service := range units[m[2]] {
		h := p.host(service)
		if m[1] == "restart" {
			require.NoError(p.T, h.Kill(p.T.Context(), service, unix.SIGKILL))
			require.NoError(p.T, h.AwaitService(p.T.Context(), service))
		} else {
			require.NoError(p.T, h.StartService(p.T.Context(), service))
		}
	}
}

// TestCatalogue injects the faults of the catalogue one after another into one lab: those
// that are quick, or with BAIZE_TEST_FAULTS=all every one (make test-faults).
func TestCatalogue(t *testing.T) {
	all := os.Getenv("BAIZE_TEST_FAULTS") == "all"
	only, err := regexp.Compile(os.Getenv("BAIZE_TEST_FAULTS"))
	require.NoError(t, err)
	p := newPatient(t)
	p.awaitHealthy()
	named, mended, inWords, n := 0, 0, 0, 0
	for _, f := range catalogue {
		if chosen := f.quick || all; !chosen && (only.String() == "" || !only.MatchString(f.name)) {
			continue
		}
		n++
		ok := t.Run(f.name, func(t *testing.T) {
			p := p.in(t)
			t.Cleanup(func() { p.recover(f) })
			found := p.infect(f)
			named++
			p.treat(f, found)
			p.awaitHealthy()
			mended++
			if f.person != "" {
				inWords++
			}
		})
		if !ok {
			p.awaitHealthy() // the next fault begins with a healthy lab, or is not told from this one
		}
	}
	t.Logf("%d faults of %d: %d named with host and item, and nothing besides; mended: %d by the commands, %d by what the words say",
		n, len(catalogue), named, mended-inWords, inWords)
}

// infect injects a fault, and waits until the doctor names it, and nothing that does not
// follow from it.
func (p *patient) infect(f injected) doctor.Finding {
	p.T.Helper()
	if f.service != "" {
		require.NoError(p.T, p.host(f.service).StopService(p.T.Context(), f.service))
	}
	p.script(f.inject)
	if f.stopped {
		require.NoError(p.T, p.Host("host1").Kill(p.T.Context(), lab.ServiceAgent, unix.SIGSTOP))
	}
	item := regexp.MustCompile(p.words.Replace(f.item))
	var found doctor.Finding
	p.Await("the doctor names "+string(f.code), func() (bool, string) {
		r, saw := p.doctor("host1")
		i := slices.IndexFunc(r.Findings(), func(x doctor.Finding) bool {
			return x.Code == f.code && item.MatchString(x.Item) && (f.severity == "" || x.Severity == f.severity)
		})
		if i < 0 {
			return false, saw
		}
		for _, x := range r.Findings() {
			if x.Code != f.code && !slices.Contains(f.also, x.Code) {
				return false, "besides:\n" + saw
			}
		}
		found = r.Findings()[i]
		return true, ""
	})
	require.NotEmpty(p.T, found.What)
	require.NotEmpty(p.T, found.Remedy, "%+v", found)
	require.Equal(p.T, "host1", found.Node)
	return found
}

// treat does what the doctor said.
func (p *patient) treat(f injected, found doctor.Finding) {
	p.T.Helper()
	if f.person != "" {
		require.Empty(p.T, found.Commands, "then they mend it")
		p.script(f.person)
		return
	}
	require.NotEmpty(p.T, found.Commands, "%+v", found)
	for _, c := range found.Commands {
		p.T.Logf("%s: $ %s", found.Code, c)
		p.mend(c)
	}
	if f.service != "" && found.Code != fault.AgentDown && !slices.ContainsFunc(found.Commands, systemctl.MatchString) {
		require.NoError(p.T, p.host(f.service).StartService(p.T.Context(), f.service))
	}
}

// recover undoes a fault that was not mended.
func (p *patient) recover(f injected) {
	if !p.T.Failed() {
		return
	}
	ctx := context.Background()
	if f.undo != "" {
		_, _ = p.Host("host1").Exec(ctx, "sh", "-c", p.words.Replace(f.undo))
	}
	if f.stopped {
		_ = p.Host("host1").Kill(ctx, lab.ServiceAgent, unix.SIGKILL)
	}
	for _, service := range []string{lab.ServiceOVSDB, lab.ServiceVswitchd, lab.ServiceAgent} {
		_ = p.Host("host1").StartService(ctx, service)
	}
	_ = p.Host("fabric").StartService(ctx, lab.ServiceEtcd)
	if f.undo != "" && f.service != "" { // what undoes it may need the service
		_, _ = p.Host("host1").Exec(ctx, "sh", "-c", p.words.Replace(f.undo))
	}
}

// A healthy cluster yields nothing, however often it is asked.
func TestHealthy(t *testing.T) {
	p := newPatient(t)
	p.awaitHealthy()
	for i := range 100 {
		r, saw := p.doctor([]string{"host1", "host2"}[i%2])
		require.Empty(t, saw, "run %d", i+1)
		require.Greater(t, r.Count(doctor.OK), 20)
	}
}
