//go:build system

package doctortest

import (
	"cmp"
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

// newPatient makes a lab, of which config says what is not as in most of them.
func newPatient(t *testing.T, config lab.Config) *patient {
	t.Helper()
	config.Hosts = 2
	if len(config.Networks) == 0 {
		config.Networks = []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}}
	}
	l := labkit.Up(t, config)
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
		"PREFIX", topology.DefaultPrefix, "PEER", p.peer.String(), "OWN", own.IPs[0].String(), "$ETCD", "$BAIZE_ETCD_ENDPOINTS")
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

// script runs a script of the catalogue on a host.
func (p *patient) script(host, text string) {
	p.T.Helper()
	switch text {
	case "":
	case "ALARM":
		etcdtest.RaiseNoSpace(p.T, p.EtcdEndpoint())
	case "UNPLUG":
		require.NoError(p.T, p.Host(host).Unplug())
	case "PLUG":
		require.NoError(p.T, p.Host(host).Plug())
	case "STALE":
		p.Must(host, "sh", "-c", "kill -9 $(pgrep -f '[d]ocker relay')")
	default:
		p.Must(host, "sh", "-c", p.words.Replace(text))
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

// mend runs a command that the doctor printed for a host.
func (p *patient) mend(host, command string) {
	p.T.Helper()
	m := systemctl.FindStringSubmatch(command)
	if m == nil {
		p.Must(host, "sh", "-c", command)
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

// ward is a lab, with the faults that are injected into it.
type ward struct {
	config lab.Config
	faults []injected
	// pairs are faults of them that are injected at the same time, by name.
	pairs [][2]string
}

// wanted reports whether a fault, or a pair of them, is among those to inject: those that
// are quick, or with BAIZE_TEST_FAULTS=all every one (make test-faults), or those whose
// names it matches.
func wanted(t *testing.T, name string, quick bool) bool {
	t.Helper()
	want := os.Getenv("BAIZE_TEST_FAULTS")
	only, err := regexp.Compile(want)
	require.NoError(t, err)
	if want == "" {
		return quick
	}
	return want == "all" || only.MatchString(name)
}

// visits are the faults to inject, each alone or with another one.
func (w ward) visits(t *testing.T) (out [][]injected) {
	t.Helper()
	byName := map[string]injected{}
	for _, f := range w.faults {
		byName[f.name] = f
		if wanted(t, f.name, f.quick) {
			out = append(out, []injected{f})
		}
	}
	for i, p := range w.pairs {
		require.Contains(t, byName, p[0])
		require.Contains(t, byName, p[1])
		if wanted(t, p[0]+" and "+p[1], i == 0) {
			out = append(out, []injected{byName[p[0]], byName[p[1]]})
		}
	}
	return out
}

// visit injects faults, one after another or two at the same time, into one lab.
func (w ward) visit(t *testing.T) {
	t.Helper()
	visits := w.visits(t)
	if len(visits) == 0 {
		return
	}
	p := newPatient(t, w.config)
	p.awaitHealthy()
	named, mended := 0, 0
	for _, faults := range visits {
		name := faults[0].name
		if len(faults) > 1 {
			name += " and " + faults[1].name
		}
		ok := t.Run(name, func(t *testing.T) {
			p := p.in(t)
			for _, f := range faults {
				t.Cleanup(func() { p.recover(f) })
				p.infect(f)
			}
			for i := range faults {
				found := p.examine(faults[i:]...)
				if i == 0 {
					named++
				}
				p.treat(faults[i], found)
			}
			p.awaitHealthy()
			mended++
		})
		if !ok {
			p.awaitHealthy() // the next fault begins with a healthy lab, or is not told from this one
		}
	}
	t.Logf("%d of %d faults and pairs: %d named with host and item, and nothing besides; %d mended by their remedy",
		len(visits), len(w.faults)+len(w.pairs), named, mended)
}

// TestCatalogue is the catalogue of faults in a lab of two hosts with one network of VXLAN.
func TestCatalogue(t *testing.T) { ward{faults: catalogue, pairs: pairs}.visit(t) }

// infect injects a fault.
func (p *patient) infect(f injected) {
	p.T.Helper()
	if f.service != "" {
		require.NoError(p.T, p.host(f.service).StopService(p.T.Context(), f.service))
	}
	p.script(cmp.Or(f.on, "host1"), f.inject)
	if f.hangs != "" {
		require.NoError(p.T, p.host(f.hangs).Kill(p.T.Context(), f.hangs, unix.SIGSTOP))
	}
}

// examine waits until the doctor names all faults that were injected, and nothing that
// does not follow from them. It returns the finding of the first.
func (p *patient) examine(all ...injected) doctor.Finding {
	p.T.Helper()
	var found doctor.Finding
	args := slices.Clone(all[0].args)
	if all[0].at != "" {
		args = append(args, "--all")
	}
	p.Await("the doctor names "+string(all[0].code), func() (bool, string) {
		r, saw := p.doctor("host1", args...)
		var follows []fault.Code
		for k, f := range all {
			item := regexp.MustCompile(p.words.Replace(f.item))
			i := slices.IndexFunc(r.Findings(), func(x doctor.Finding) bool {
				return x.Code == f.code && item.MatchString(x.Item) && (f.severity == "" || x.Severity == f.severity) &&
					x.Node == cmp.Or(f.at, "host1")
			})
			if i < 0 {
				return false, saw
			}
			if k == 0 {
				found = r.Findings()[i]
			}
			follows = append(append(follows, f.code), f.also...)
		}
		for _, x := range r.Findings() {
			if !slices.Contains(follows, x.Code) {
				return false, "besides:\n" + saw
			}
		}
		return true, ""
	})
	require.NotEmpty(p.T, found.What)
	require.NotEmpty(p.T, found.Remedy, "%+v", found)
	return found
}

// treat does what the doctor said.
func (p *patient) treat(f injected, found doctor.Finding) {
	p.T.Helper()
	if f.person != "" {
		require.Empty(p.T, found.Commands, "then they mend it")
		p.script(cmp.Or(f.on, "host1"), f.person)
	} else {
		require.NotEmpty(p.T, found.Commands, "%+v", found)
	}
	for _, c := range found.Commands {
		p.T.Logf("%s: $ %s", found.Code, c)
		p.mend(found.Node, c)
	}
	if f.service != "" && found.Code != fault.AgentDown && !slices.ContainsFunc(found.Commands, systemctl.MatchString) {
		require.NoError(p.T, p.host(f.service).StartService(p.T.Context(), f.service))
	}
	p.script(cmp.Or(f.on, "host1"), f.clean)
}

// recover undoes a fault that was not mended.
func (p *patient) recover(f injected) {
	if !p.T.Failed() {
		return
	}
	ctx := context.Background()
	on := p.Host(cmp.Or(f.on, "host1"))
	undo := func() {
		for _, script := range []string{f.undo, f.clean} {
			if script == "PLUG" {
				_ = on.Plug()
			} else if script != "" {
				_, _ = on.Exec(ctx, "sh", "-c", p.words.Replace(script))
			}
		}
	}
	undo()
	if f.hangs != "" {
		_ = p.host(f.hangs).Kill(ctx, f.hangs, unix.SIGKILL)
	}
	for _, service := range []string{lab.ServiceOVSDB, lab.ServiceVswitchd, lab.ServiceAgent} {
		_ = p.Host("host1").StartService(ctx, service)
	}
	_ = p.Host("fabric").StartService(ctx, lab.ServiceEtcd)
	if f.service != "" { // what undoes it may need the service
		undo()
	}
}

// A healthy cluster yields nothing, however often it is asked.
func TestHealthy(t *testing.T) {
	p := newPatient(t, lab.Config{})
	p.awaitHealthy()
	for i := range 100 {
		r, saw := p.doctor([]string{"host1", "host2"}[i%2])
		require.Empty(t, saw, "run %d", i+1)
		require.Greater(t, r.Count(doctor.OK), 20)
	}
}
