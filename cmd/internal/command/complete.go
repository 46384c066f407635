package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// completeCommand is what the shells' completion scripts call, with the words
// up to the cursor, the last of them unfinished.
const completeCommand = "__complete"

// completeTimeout bounds a request to etcd or the agent: somebody is waiting. Tests have
// more patience.
var completeTimeout = 3 * time.Second

// candidate is one word that may come next.
type candidate struct{ word, about string }

// files stands for the names of files, which shells know better how to complete. It
// is the only candidate without a word.
var files = candidate{about: "files"}

// complete prints the candidates, one a line: the word, a tab, a description.
func (r *runner) complete(ctx context.Context, words []string) int {
	if len(words) == 0 {
		words = []string{""}
	}
	for _, c := range r.candidates(ctx, words[:len(words)-1], words[len(words)-1]) {
		fmt.Fprintf(r.Out, "%s\t%s\n", c.word, c.about)
	}
	return cli.ExitOK
}

// candidates lists what a word may become that comes after others.
func (r *runner) candidates(ctx context.Context, before []string, word string) []candidate {
	cur := cursor{path: []*ucli.Command{r.root}, values: map[string]string{}}
	for _, w := range before {
		if !cur.pass(w) {
			return nil
		}
	}
	ask := func(line ...string) []candidate { return r.ask(ctx, append(cur.global, line...)) }
	return slices.DeleteFunc(cur.candidates(word, ask), func(c candidate) bool {
		return c != files && !strings.HasPrefix(c.word, word)
	})
}

// cursor is where in a command line the unfinished word stands.
type cursor struct {
	// path leads from the root to the command.
	path []*ucli.Command
	// global are the flags that say where etcd and the agent are.
	global []string
	// values are those of the other flags so far, by name.
	values map[string]string
	// args counts the command's arguments so far.
	args int
	// onlyArgs is set after "--".
	onlyArgs bool
	// pending is the flag whose value comes next.
	pending ucli.Flag
}

func (cur *cursor) command() *ucli.Command { return cur.path[len(cur.path)-1] }

// pass moves behind a finished word; false where no such command exists.
func (cur *cursor) pass(word string) bool {
	switch {
	case cur.pending != nil:
		flagName := cur.pending.Names()[0]
		if level, _ := findFlag(cur.path, flagName); level == 0 {
			cur.global = append(cur.global, "--"+flagName+"="+word)
		} else {
			cur.values[flagName] = word
		}
		cur.pending = nil
	case cur.onlyArgs:
		cur.args++
	case word == "--":
		cur.onlyArgs = true
	case len(word) > 1 && word[0] == '-':
		cur.passFlag(word)
	case isGroup(cur.command()):
		s := subcommand(cur.command(), word)
		if s == nil {
			return false
		}
		cur.path = append(cur.path, s)
	default:
		cur.args++
	}
	return true
}

func (cur *cursor) passFlag(word string) {
	flagName, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	level, f := findFlag(cur.path, flagName)
	switch {
	case f == nil:
	case !hasValue && takesValue(f):
		cur.pending = f
	case level == 0:
		cur.global = append(cur.global, word)
	default:
		cur.values[f.Names()[0]] = value
	}
}

func (cur *cursor) candidates(word string, ask asker) []candidate {
	switch {
	case cur.pending != nil:
		return cur.flagValues(cur.pending, ask)
	case !cur.onlyArgs && strings.HasPrefix(word, "-"):
		if flagName, _, ok := strings.Cut(word, "="); ok {
			return cur.valuesAfter(flagName, ask)
		}
		return cur.flags(word)
	case isGroup(cur.command()):
		var out []candidate
		for _, s := range visible(cur.command().Subcommands) {
			out = append(out, candidate{s.Name, s.Usage})
		}
		return out
	case cur.args > 0:
		return laterArgument(cur.command().Category, name(cur.path[1:]), cur.args, ask)
	case name(cur.path[1:]) == "lab exec":
		return labTargets(cur.values["name"], word)
	}
	return firstArgument(name(cur.path[1:]), ask)
}

// laterArgument is what may come after some arguments.
func laterArgument(category, command string, before int, ask asker) []candidate {
	switch {
	case category == takesCommand: // a command line of another program
		return []candidate{files}
	case command == "capture": // as many as one likes
		return firstArgument(command, ask)
	case command == "trace" && before == 1:
		return parties(ask)
	case command == "endpoint move" && before == 1:
		return ask("node", "list")
	}
	return nil
}

// valuesAfter lists what may come after "--flag=", with that before it.
func (cur *cursor) valuesAfter(flagName string, ask asker) []candidate {
	_, f := findFlag(cur.path, strings.TrimLeft(flagName, "-"))
	if f == nil || !takesValue(f) {
		return nil
	}
	out := cur.flagValues(f, ask)
	for i := range out {
		if out[i] != files {
			out[i].word = flagName + "=" + out[i].word
		}
	}
	return out
}

// flags lists the flags that the command and those above it know.
func (cur *cursor) flags(word string) []candidate {
	var out []candidate
	for level := len(cur.path) - 1; level >= 0; level-- {
		if level == 0 && len(cur.path) > 1 && !strings.HasPrefix(word, "--") {
			break // the global flags only when asked for by two dashes
		}
		for _, f := range visibleFlags(cur.path[level].Flags) {
			out = append(out, candidate{"--" + f.Names()[0], documentFlag(f).usage})
		}
	}
	return out
}

// asker runs a listing of ours and returns the names in it.
type asker func(line ...string) []candidate

func words(ws ...string) []candidate {
	out := make([]candidate, len(ws))
	for i, w := range ws {
		out[i] = candidate{word: w}
	}
	return out
}

func transports(list []topology.Transport) []candidate {
	out := make([]candidate, len(list))
	for i, t := range list {
		out[i] = candidate{word: string(t)}
	}
	return out
}

func (cur *cursor) flagValues(f ucli.Flag, ask asker) []candidate {
	if formats, ok := formatsOf(f); ok {
		return words(formats...)
	}
	name := f.Names()[0]
	if list, ok := fixedValues[name]; ok {
		return words(list...)
	}
	if kind, ok := listedValues[name]; ok {
		return ask(kind, "list")
	}
	switch name {
	case "transport":
		return transports(topology.Transports())
	case "encap":
		return transports(append(topology.Encapsulations(), topology.Route))
	case flagKind:
		return eventKinds()
	case "netns":
		return append(entries("/run/netns"), files)
	case "name":
		if len(cur.path) > 1 && cur.path[1].Name == "lab" {
			return labs()
		}
	case flagSort, flagFilter:
		return fields(f)
	case "vtep":
		return entries("/sys/class/net")
	}
	if _, placeholder, _ := strings.Cut(strings.Split(documentFlag(f).names, ", ")[0], " "); isFile(placeholder) {
		return []candidate{files}
	}
	return nil
}

// isFile reports whether what stands for a value stands for a file.
func isFile(placeholder string) bool {
	return slices.Contains([]string{"FILE", "PATH", "DIRECTORY", "PROGRAM"}, strings.Trim(placeholder, "[]"))
}

// fields are those of the items of the listing that --sort or --filter belongs to,
// whose variable names their kind.
func fields(f ucli.Flag) (out []candidate) {
	name := f.Names()[0]
	variable := documentFlag(f).env
	k := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(variable, "BAIZE_"), "_"+strings.ToUpper(name)))
	if !slices.Contains(schemaKinds(), k) {
		return nil
	}
	walkSchema(schemaOf(k), "", func(path, typ string, p *jsonschema.Schema) {
		switch {
		case typ == "object": // its fields have values, it has none
		case name == flagFilter:
			out = append(out, candidate{path + "=", p.Description})
		default:
			out = append(out, candidate{path, p.Description})
		}
	})
	return out
}

// listedValues are the kinds of what flags name: 'baize KIND list' has them all.
var listedValues = map[string]string{
	"network": "network", "docker-network": "network", "node": "node", flagEndpoint: "endpoint", flagContext: "context",
}

// fixedValues are those of flags that take one of a few words.
var fixedValues = map[string][]string{
	"datapath":        {"auto", "system", "netdev"},
	"fastpath":        {"auto", "off"},
	"docker-plugin":   {"auto", "on", "off"},
	"proto":           {trace.ICMP, trace.TCP, trace.UDP},
	"role":            {roleNode, roleOperator, roleReader},
	flagColor:         cli.Colors(),
	cli.FlagLogLevel:  {"error", "warn", "info", "debug"},
	cli.FlagLogFormat: {"text", "json"},
}

func eventKinds() (out []candidate) {
	for _, m := range event.Kinds() {
		out = append(out, candidate{string(m.Kind), m.Means})
	}
	return out
}

// entries are the names in a directory.
func entries(dir string) (out []candidate) {
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		out = append(out, candidate{word: f.Name()})
	}
	return out
}

func labs() []candidate {
	names, _ := lab.List("")
	return words(names...)
}

// labTargets are the hosts of a lab and, once a host is named, its endpoints.
func labTargets(labName, word string) (out []candidate) {
	l, err := lab.Open(lab.Config{Name: cmp.Or(labName, lab.DefaultName)})
	if err != nil {
		return nil
	}
	if !strings.Contains(word, "/") {
		for _, h := range l.Hosts() {
			out = append(out, candidate{word: h.Name()})
		}
		return out
	}
	status, err := l.Status()
	if err != nil {
		return nil
	}
	for _, e := range status.Endpoints {
		out = append(out, candidate{e.Node + "/" + e.Name, e.Network})
	}
	return out
}

// parties are who a trace may be from or to.
func parties(ask asker) []candidate {
	out := ask("endpoint", "list")
	for _, c := range ask("name", "list") {
		if !slices.ContainsFunc(out, func(x candidate) bool { return x.word == c.word }) {
			out = append(out, c)
		}
	}
	return out
}

// faultCodes are all codes, with what is wrong.
func faultCodes() (out []candidate) {
	meanings := fault.Meanings()
	for _, code := range slices.Sorted(maps.Keys(meanings)) {
		out = append(out, candidate{string(code), meanings[code]})
	}
	return out
}

func firstArgument(command string, ask asker) []candidate {
	switch command {
	case "trace":
		return parties(ask)
	case "capture":
		return append(ask("endpoint", "list"), ask("node", "list")...)
	case "explain":
		return faultCodes()
	case "backup", "restore":
		return []candidate{files}
	case "network show", "network update", "network rename", "network delete":
		return ask("network", "list")
	case "node show", "node hand-over", "node remove", "ping", "auth add", "auth remove":
		return ask("node", "list")
	case "subnet release":
		return ask("subnet", "list")
	case "context show", "context use", "context set", "context delete":
		return ask("context", "list")
	case "name resolve":
		return ask("name", "list")
	case "schema":
		return words(schemaKinds()...)
	case "endpoint remove":
		return ask("endpoint", "list")
	case "completion":
		return words(shells...)
	}
	return nil
}

// ask runs one of our own listings.
func (r *runner) ask(ctx context.Context, line []string) []candidate {
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	var out bytes.Buffer
	std := Streams{In: strings.NewReader(""), Out: &out, Err: io.Discard}
	if Run(ctx, append(line, "--output=json", "--watch=false", "--quiet=false"), std) != cli.ExitOK {
		return nil
	}
	var items []struct{ Name, Prefix, Network, Status, Node, Container string }
	if json.Unmarshal(out.Bytes(), &items) != nil {
		return nil
	}
	var cs []candidate
	seen := map[string]bool{"": true}
	for _, i := range items {
		about := strings.Join(strings.Fields(strings.Join([]string{i.Network, i.Node, i.Status, i.Container}, " ")), " ")
		if w := i.Name + i.Prefix; !seen[w] {
			seen[w] = true
			cs = append(cs, candidate{w, about})
		}
	}
	return cs
}

var shells = []string{"bash", "zsh", "fish"}

var completionScripts = map[string]string{
	"bash": `# bash completion for baize: put this in /etc/bash_completion.d/baize, or
#   source <(baize completion bash)
_baize() {
    local IFS=$'\n' line word words=() rest=${COMP_LINE:0:COMP_POINT} breaks= before= i
    # Bash takes --flag=value, 10.1.0.0:80 and fd00::1 for several words each: what
    # no blank separates is one.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i == 0)) || [[ $rest == [[:blank:]]* ]]; then
            words+=("")
        fi
        rest=${rest#"${rest%%[![:blank:]]*}"}
        ((i < COMP_CWORD)) || word=$rest
        words[${#words[@]}-1]+=$word
        rest=${rest#"$word"}
    done
    # It replaces what comes after the last of its own separators.
    [[ $COMP_WORDBREAKS != *:* ]] || breaks+=:
    [[ $COMP_WORDBREAKS != *=* ]] || breaks+==
    word=${words[${#words[@]}-1]}
    [[ -z $breaks || $word != *[$breaks]* ]] || before=${word%"${word##*[$breaks]}"}
    COMPREPLY=()
    while read -r line; do
        case $line in
        $'\t'files) compopt -o default ;;
        *)
            line=${line%%$'\t'*}
            COMPREPLY+=("${line#"$before"}")
            [[ $line != *[/=] ]] || compopt -o nospace
            ;;
        esac
    done < <("${COMP_WORDS[0]}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _baize baize
`,
	"zsh": `#compdef baize
# zsh completion for baize: put this in a directory of $fpath as _baize, or
#   source <(baize completion zsh)
_baize() {
    local line files=
    local -a out open
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
        '') ;;
        $'\t'files) files=yes ;;
        *[/=]$'\t'*) open+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
        *) out+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
        esac
    done
    _describe baize out -- open -S ''
    [[ -z $files ]] || { compset -P '--*='; _files; }
}
if [ "$funcstack[1]" = "_baize" ]; then
    _baize
else
    compdef _baize baize
fi
`,
	"fish": `# fish completion for baize: put this in ~/.config/fish/completions/baize.fish, or
#   baize completion fish | source
function __baize_complete
    set -l word (commandline -ct)
    set -l words (commandline -opc)
    for line in ($words[1] __complete $words[2..-1] "$word" 2>/dev/null)
        if test "$line" = \tfiles
            set -l flag (string match -r -- '^--[^=]*=' "$word")
            __fish_complete_path (string replace -r -- '^--[^=]*=' '' "$word") | string replace -r -- '^' "$flag"
        else
            echo $line
        end
    end
end
complete -c baize -f -a '(__baize_complete)'
`,
}

func (r *runner) completionCommand() *ucli.Command {
	return &ucli.Command{
		Name: "completion", Usage: "write the completion script of a shell", ArgsUsage: "bash|zsh|fish",
		Description: `  source <(baize completion bash)`,
		Action: func(c *ucli.Context) error {
			shell := c.Args().First()
			script, ok := completionScripts[shell]
			if !ok {
				return usagef("baize completion", "no completion for %q: use one of %s", shell, strings.Join(shells, ", "))
			}
			_, err := io.WriteString(r.Out, script)
			return err
		},
	}
}
