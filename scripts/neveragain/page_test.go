package neveragain

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/reliability.md anew")

// repositories are the short names of threads.
var repositories = map[string]string{
	"antrea": "antrea-io/antrea", "cilium": "cilium/cilium", "flannel": "flannel-io/flannel", "kops": "kubernetes/kops",
	"kube-ovn": "kubeovn/kube-ovn", "libnetwork": "moby/libnetwork", "moby": "moby/moby", "origin": "openshift/origin",
	"openshift-sdn": "openshift/openshift-sdn", "ovn-kubernetes": "ovn-kubernetes/ovn-kubernetes",
	"ovs-issues": "openvswitch/ovs-issues", "weave": "weaveworks/weave",
}

// link is a thread as Markdown.
func link(thread string) string {
	repo, number, ok := strings.Cut(thread, "#")
	if full := repositories[repo]; ok && full != "" {
		return fmt.Sprintf("[%s](https://github.com/%s/issues/%s)", thread, full, number)
	}
	return thread
}

const pageHead = `# Reliability

What Baize promises, what users of other overlays ran into, and what was found in Baize itself. A promise has the tests
that prove it. Of the rest each is one of:

- **impossible** by construction: the state in which it happens cannot come about;
- **healed**, without anybody;
- **named**: it is refused, or ` + "`baize status`" + ` says what is wrong, with the remedy;
- *open*: nothing shows it yet. What is missing is said.

A row counts as proven where its tests, which inject the failure, exist and pass. ` + "`make never-again`" + ` runs them all
and counts (as root; the labs and the virtual machine take a while); ` + "`make test`" + ` checks that every test named here
exists. This page is made of ` + "`scripts/neveragain/rows.yaml`" + ` by ` + "`make docs`" + `.

What nobody has thought of is looked for at random. ` + "`make chaos MINUTES=5`" + ` makes a lab of three hosts with traffic
between all of them, in a tunnelled and in a routed network, and then, again and again, one or two faults at a time:

- agents, ovs-vswitchd, ovsdb-server and etcd are killed, stopped or paused, a host dies with all of them;
- etcd is full, emptied and put back record by record, compacted, has a record spoiled, its certificate replaced; a host
  is cut off from it;
- flows, groups, meters, ports, the bridge, Open vSwitch's database, routes, addresses, devices, sysctls and the
  firewall are deleted or altered by hand;
- a host is cut off from the others, or gets another VTEP.

A checker of its own reads etcd by key, every switch and every kernel with the tools that a person has: after each step
all has to be as it was, by itself, within a minute, and of packets between hosts that nobody harmed none may be lost.
What it finds comes with the history that led there, and ` + "`SEED=`" + ` draws the same faults again. Bytes go from host to host
by TCP all the while, and every one has to arrive. Endpoints come, go and move from host to host while faults last, with
` + "`DOCKER=1`" + ` containers of real engines, too: nothing of them may be left, and none is at two hosts. A few steps of it
are in ` + "`make test`" + `.
`

// group is a part of what Baize promises: the promises whose IDs begin with id.
type group struct {
	id, title, text string
	// lost says that its promises are events and what these may cost.
	lost bool
}

var groups = []group{
	{id: "L", title: "Ways to lose everything", text: "A network is not lost with what stores it, describes it or carries it."},
	{id: "E", title: "What an event may cost", lost: true,
		text: "Lost are packets of endpoints: tests count pings, sent every 10 ms, and check every byte of TCP streams."},
	{id: "I", title: "Nobody breaks it from inside", text: "[security.md](security.md) says the same by who could try."},
}

// promises is the section of what Baize promises.
func promises(s suite) string {
	var b strings.Builder
	b.WriteString("\n## What Baize promises\n\nEach line, and the tests that prove it.\n")
	for _, g := range groups {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", g.title, g.text)
		if g.lost {
			b.WriteString("| # | event | lost at most | tests |\n|---|---|---|---|\n")
		} else {
			b.WriteString("| # | promise | tests |\n|---|---|---|\n")
		}
		for _, p := range s.Promises {
			if p.ID[:1] != g.id {
				continue
			}
			columns := []string{p.ID, p.What, p.Lost, places(p.Tests)}
			columns = slices.DeleteFunc(columns, func(x string) bool { return x == "" })
			fmt.Fprintf(&b, "| %s |\n", strings.Join(columns, " | "))
		}
	}
	return b.String()
}

// page is docs/reliability.md.
func page(s suite) string {
	var b strings.Builder
	b.WriteString(pageHead)
	b.WriteString(promises(s))
	b.WriteString("\n## What users of other overlays ran into\n\n| # | what | here | tests | reported |\n|---|---|---|---|---|\n")
	for _, r := range s.Rows {
		links := make([]string, len(r.Threads))
		for i, x := range r.Threads {
			links[i] = link(x)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.ID, r.What, here(r), tests(r), strings.Join(links, ", "))
	}
	b.WriteString("\n## What was found in Baize\n\n| # | what | here | tests |\n|---|---|---|---|\n")
	for _, r := range s.Findings {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.ID, r.What, here(r), tests(r))
	}
	fmt.Fprintf(&b, "\nTests are named for %d of %d rows, %d of %d findings.\n",
		named(s.Rows), len(s.Rows), named(s.Findings), len(s.Findings))
	return b.String()
}

func here(r row) string {
	if r.Here == "" {
		return "*open*"
	}
	return "**" + r.Here + "**"
}

func tests(r row) string {
	if r.Here == "" {
		return r.Open
	}
	return places(r.Tests)
}

// places are tests with the packages in which they are.
func places(tests []string) string {
	out := make([]string, len(tests))
	for i, x := range tests {
		pkg, name, _ := strings.Cut(x, " ")
		out[i] = name + " in `" + pkg + "`"
	}
	return strings.Join(out, "; ")
}

func named(rows []row) (n int) {
	for _, r := range rows {
		if r.Here != "" {
			n++
		}
	}
	return n
}

// The page is what the file says, its counts included.
func TestReliabilityPage(t *testing.T) {
	s, err := readSuite()
	require.NoError(t, err)
	file := filepath.Join(root, "docs", "reliability.md")
	want := page(s)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644))
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, want, string(have), "run 'make docs'")
}
