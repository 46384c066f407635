//go:build system

package domaintest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/lab"
)

// events returns what a host's agent answers to 'baize events'.
func (d *domain) events(host string, line ...string) []event.Event {
	d.T.Helper()
	var list []event.Event
	out := d.Must(host, append([]string{"baize", "events", "-o", "json"}, line...)...)
	require.NoError(d.T, json.Unmarshal([]byte(out), &list))
	return list
}

// happened waits for events, in that order, and returns them.
func (d *domain) happened(host string, since time.Time, wanted ...event.Event) (found []event.Event) {
	d.T.Helper()
	d.Await(fmt.Sprintf("the journal has %d events", len(wanted)), func() (bool, string) {
		list := d.events(host, "--since", since.Format(time.RFC3339Nano))
		saw := fmt.Sprintf("%+v", list)
		found = nil
		for _, w := range wanted {
			i := slices.IndexFunc(list, func(e event.Event) bool {
				return e.Kind == w.Kind && strings.Contains(e.Subject, w.Subject) && strings.Contains(e.Text, w.Text) &&
					strings.Contains(e.Cause, w.Cause) && (w.Code == "" || e.Code == w.Code)
			})
			if i < 0 {
				return false, fmt.Sprintf("no %+v in %s", w, saw)
			}
			found, list = append(found, list[i]), list[i+1:]
		}
		return true, saw
	})
	return found
}

// What happened on a host is in its journal, in order and with causes, also after its
// agent was killed.
func testEvents(d *domain) {
	ctx := d.T.Context()
	began := time.Now()
	d.Must("host1", "ip", "netns", "add", "told")
	d.Must("host1", "baize", "endpoint", "add", "told", "--network", "blue", "--netns", "told", "--ip", "10.1.201.7")
	d.Must("host1", "ovs-ofctl", "-O", "OpenFlow14", "--strict", "del-flows", "br-baize", "table=40,priority=0")
	d.happened("host1", began, event.Event{Kind: event.SwitchRepaired, Subject: "1 flow", Text: "table=40,priority=0"})
	d.Must("host1", "ovs-vsctl", "del-port", "vx-host2")
	life := []event.Event{
		{Kind: event.PinCreated, Subject: "pin 10.1.201.7", Text: "node host1", Cause: "pins/blue/10.1.201.7 at revision "},
		{Kind: event.EndpointAttached, Subject: "endpoint told", Text: "10.1.201.7", Cause: "a request at the agent's socket"},
		{Kind: event.SwitchRepaired, Subject: "port vx-host2", Cause: "somebody removed or changed it"},
	}
	d.happened("host1", began, life...)
	// Other hosts tell of it as far as it concerns them.
	d.happened("host3", began, life[0])

	require.NoError(d.T, d.Host("fabric").StopService(ctx, lab.ServiceEtcd))
	d.T.Cleanup(func() { _ = d.Host("fabric").StartService(context.Background(), lab.ServiceEtcd) })
	lost := event.Event{Kind: event.EtcdLost, Subject: "etcd", Code: "BZ0101"}
	d.happened("host1", began, lost)
	require.NoError(d.T, d.Host("host1").Kill(ctx, lab.ServiceAgent, unix.SIGKILL))
	require.NoError(d.T, d.Host("host1").AwaitService(ctx, lab.ServiceAgent))
	require.NoError(d.T, d.Host("fabric").StartService(ctx, lab.ServiceEtcd))
	d.Await("etcd answers", func() (bool, string) {
		st := d.AgentStatus("host1")
		return st.Etcd.Connected, fmt.Sprint(st.Etcd)
	})
	d.Must("host1", "baize", "endpoint", "remove", "told")
	d.Must("host1", "ip", "netns", "delete", "told")

	all := append(slices.Clone(life), lost,
		event.Event{Kind: event.AgentStarted, Subject: "agent", Cause: "it was killed, or failed"},
		event.Event{Kind: event.EtcdBack, Subject: "etcd"},
		event.Event{Kind: event.EndpointDetached, Subject: "endpoint told", Cause: "a request at the agent's socket"},
		event.Event{Kind: event.PinRemoved, Subject: "pin 10.1.201.7", Cause: "pins/blue/10.1.201.7 deleted"},
	)
	found := d.happened("host1", began, all...)
	for i := range found[1:] {
		require.False(d.T, found[i+1].Time.Before(found[i].Time))
	}
	// Chosen, and read without the agent.
	for _, e := range d.events("host1", "--endpoint", "told") {
		require.Equal(d.T, "endpoint told", e.Subject)
	}
	out := d.Must("host1", "baize", "events", "--journal", "/var/lib/baize", "--kind", "etcd-*")
	require.Contains(d.T, out, "etcd-lost")
	require.Contains(d.T, out, "etcd-back")

	stop, follow := d.Start("host1", "baize", "events", "--follow", "--kind", "switch-*")
	defer stop()
	d.Await("events are followed", func() (bool, string) {
		d.Must("host1", "ovs-ofctl", "-O", "OpenFlow14", "--strict", "del-flows", "br-baize", "table=40,priority=0")
		return strings.Contains(follow.String(), "switch-repaired"), follow.String()
	})
}

// A container is found in the journal by its name, also before that was known.
func testDockerEvents(p plugin) {
	began := time.Now()
	p.container("host1", "told", "--network", "shop")
	named := event.Event{Kind: event.EndpointNamed, Text: "container told, image " + lab.DockerImage}
	p.happened("host1", began, named)
	p.docker("host1", "rm", "-f", "told")
	p.happened("host1", began,
		event.Event{Kind: event.EndpointAttached, Cause: "a request of the container engine"},
		named,
		event.Event{Kind: event.EndpointDetached, Text: "container told"},
	)
	var kinds []event.Kind
	for _, e := range p.events("host1", "--endpoint", "told") {
		kinds = append(kinds, e.Kind)
	}
	require.Equal(p.T, []event.Kind{event.EndpointAttached, event.EndpointNamed, event.EndpointDetached}, kinds)
	require.Empty(p.T, p.events("host2", "--endpoint", "told"))
}
