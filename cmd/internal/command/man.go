package command

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
)

type manFile struct{ file, meaning string }

// Files that the pages name. Every command may have to know where etcd and the agent are.
var (
	commonFiles = []manFile{
		{"/etc/default/baize", "the agent's settings, as environment variables (systemd.exec(5), EnvironmentFile=)"},
		{"~/.config/baize/config.yaml", "the contexts: see baize-context(8)"},
		{api.DefaultSocket, "the socket of this node's agent"},
	}
	journalFile = manFile{"/var/lib/baize/events.jsonl", "the journal of what happened on this node"}
	subnetFile  = manFile{subnetenv.BaizeFile, "docker0's subnet and MTU, with --docker-bridge"}
	agentFiles  = []manFile{
		{docker.DefaultSocket, "the socket of the plugin for Docker"},
		{"/var/lib/baize/node-id", "this installation's identity, which its leases in etcd are bound to"},
		{"/var/lib/baize/endpoints.json", "this node's endpoints: they are restored from it"},
		{"/var/lib/baize/topology.json", "the last topology that was read: an agent starts with it while etcd is down"},
		journalFile, subnetFile, foreignManFile,
	}
)

// manFiles are the FILES of a page beside those that every command may read; the
// page without a name is baize(8).
var manFiles = map[string][]manFile{
	"":      agentFiles,
	"agent": agentFiles,
	"docker": {
		{"/etc/systemd/system/docker.service.d/baize.conf", "what 'docker configure' writes for Docker"},
		{"/etc/systemd/system/baize.service.d/docker.conf", "what 'docker configure' writes for the agent"},
		subnetFile,
	},
	"events":     {journalFile},
	"kubernetes": {{cnihost.Dir + "/10-NETWORK.conflist", "what 'kubernetes configure' writes"}},
	"lab":        {{lab.DefaultBaseDir + "/NAME", "state and logs of a lab"}},
	"podman":     {{cnihost.Dir + "/10-NETWORK.conflist", "what 'podman configure' writes"}},
}

// manExamples are the EXAMPLES of baize(8). Those of its commands are in their descriptions.
const manExamples = `baize network create blue --subnet 10.1.0.0/16
baize endpoint add --network blue --netns /run/netns/c1
baize topology
baize status`

// writeMan writes the manual for man(1) into a directory: baize(8), and a page for
// each command, such as baize-network(8).
func writeMan(dir string, root *ucli.Command) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the manual: %w", err)
	}
	pages := map[string]string{"baize": manRoot(root)}
	for _, c := range visible(root.Subcommands) {
		pages["baize-"+c.Name] = manCommand(root, c)
	}
	for name, text := range pages {
		head := fmt.Sprintf("%% %s 8 \"\" \"Baize\" \"Baize manual\"\n", strings.ToUpper(name))
		file := filepath.Join(dir, name+".8")
		if err := os.WriteFile(file, md2man.Render([]byte(head+text)), 0o644); err != nil {
			return fmt.Errorf("write the manual: %w", err)
		}
	}
	return nil
}

func manRoot(root *ucli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# NAME\n\nbaize - %s\n", root.Usage)
	b.WriteString("\n# SYNOPSIS\n\n**baize** [FLAGS] COMMAND [ARGUMENTS]\n")
	text, _ := manText(root.Description)
	b.WriteString("\n# DESCRIPTION\n\n" + text + "\n\n# COMMANDS\n\n")
	for _, c := range visible(root.Subcommands) {
		manItem(&b, fmt.Sprintf("**baize-%s**(8)", c.Name), capital(c.Usage)+".")
	}
	b.WriteString("# GLOBAL OPTIONS\n\nThey work with every command.\n\n")
	manFlags(&b, root.Flags)
	manExitStatus(&b)
	b.WriteString("# ENVIRONMENT\n\nEvery flag can be given as an environment variable, which its description names. " +
		"A flag on the command line takes precedence.\n\n")
	manFileList(&b, "")
	manExample(&b, manExamples)
	b.WriteString("# SEE ALSO\n\n" +
		"**ovs-vsctl**(8), **ovs-ofctl**(8), **ovs-appctl**(8), **docker**(1), **etcdctl**(1)\n\n" +
		"The documents in */usr/share/doc/baize*.\n")
	return b.String()
}

func manCommand(root, c *ucli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# NAME\n\nbaize-%s - %s\n\n# SYNOPSIS\n\n", c.Name, manEscape(c.Usage))
	leaves := leavesOf([]*ucli.Command{root, c})
	for _, path := range leaves {
		rest, _ := strings.CutPrefix(usageLine(path), name(path))
		fmt.Fprintf(&b, "**%s**%s\n\n", name(path), manEscape(rest))
	}
	b.WriteString("# DESCRIPTION\n\n" + capital(manEscape(c.Usage)) + ".\n\n")
	var examples []string
	describe := func(c *ucli.Command) {
		text, example := manText(c.Description)
		b.WriteString(text + "\n\n")
		if example != "" {
			examples = append(examples, example)
		}
	}
	describe(c)
	for _, path := range leaves {
		leaf := path[len(path)-1]
		if leaf != c {
			fmt.Fprintf(&b, "## %s\n\n%s.\n\n", name(path), capital(manEscape(leaf.Usage)))
			describe(leaf)
		}
		manFlags(&b, leaf.Flags)
	}
	manExample(&b, strings.Join(examples, "\n"))
	manExitStatus(&b)
	manFileList(&b, c.Name)
	b.WriteString("# SEE ALSO\n\n**baize**(8) for the flags that every command has.\n")
	return b.String()
}

// leavesOf returns the paths of the commands that do something, from the last one
// of a path on.
func leavesOf(path []*ucli.Command) (leaves [][]*ucli.Command) {
	c := path[len(path)-1]
	if c.Action != nil {
		leaves = append(leaves, path)
	}
	for _, s := range visible(c.Subcommands) {
		leaves = append(leaves, leavesOf(append(path[:len(path):len(path)], s))...)
	}
	return leaves
}

func manFlags(b *strings.Builder, flags []ucli.Flag) {
	for _, f := range visibleFlags(flags) {
		d := documentFlag(f)
		manItem(b, "**"+manEscape(d.names)+"**", capital(manEscape(d.usage))+" ("+manEscape(d.details())+").")
	}
}

func manExitStatus(b *strings.Builder) {
	b.WriteString("# EXIT STATUS\n\n")
	for _, e := range exitCodes {
		manItem(b, fmt.Sprintf("**%d**", e.code), capital(e.meaning)+".")
	}
}

func manFileList(b *strings.Builder, command string) {
	b.WriteString("# FILES\n\n")
	for _, f := range slices.Concat(commonFiles, manFiles[command]) {
		manItem(b, "*"+manEscape(f.file)+"*", manEscape(f.meaning))
	}
}

func manExample(b *strings.Builder, lines string) {
	fmt.Fprintf(b, "# EXAMPLES\n\n```\n%s\n```\n\n", lines)
}

// manItem writes a term and what it means.
func manItem(b *strings.Builder, term, meaning string) {
	fmt.Fprintf(b, "%s\n: %s\n\n", term, meaning)
}

// manText splits a description into its text and its examples, which are the
// lines that are indented.
func manText(s string) (text, examples string) {
	var texts, codes []string
	for line := range strings.SplitSeq(s, "\n") {
		if code, ok := strings.CutPrefix(line, "  "); ok {
			codes = append(codes, code)
		} else {
			texts = append(texts, manEscape(line))
		}
	}
	return strings.TrimSpace(strings.Join(texts, "\n")), strings.Join(codes, "\n")
}

// manEscape keeps what Markdown would take for marks; code in backquotes stays code.
func manEscape(s string) string {
	parts := strings.Split(s, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = strings.NewReplacer(`*`, `\*`, `_`, `\_`, `<`, `\<`, `[`, `\[`).Replace(parts[i])
	}
	return strings.Join(parts, "`")
}
