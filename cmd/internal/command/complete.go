package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// completeCommand is what the shells' completion scripts call, with the words
// up to the cursor, the last of them unfinished.
const completeCommand = "__complete"

// completeTimeout bounds a request to etcd or the agent: somebody is waiting.
const completeTimeout = 3 * time.Second

// candidate is one word that may come next.
type candidate struct{ word, about string }

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
	cur := cursor{path: []*ucli.Command{r.root}}
	for _, w := range before {
		if !cur.pass(w) {
			return nil
		}
	}
	ask := func(line ...string) []candidate { return r.ask(ctx, append(cur.global, line...)) }
	return slices.DeleteFunc(cur.candidates(word, ask), func(c candidate) bool { return !strings.HasPrefix(c.word, word) })
}

// cursor is where in a command line the unfinished word stands.
type cursor struct {
	// path leads from the root to the command.
	path []*ucli.Command
	// global are the flags that say where etcd and the agent are.
	global []string
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
	flagName, _, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	level, f := findFlag(cur.path, flagName)
	switch {
	case f == nil:
	case !hasValue && takesValue(f):
		cur.pending = f
	case level == 0:
		cur.global = append(cur.global, word)
	}
}

func (cur *cursor) candidates(word string, ask asker) []candidate {
	switch {
	case cur.pending != nil:
		return flagValues(cur.pending, ask)
	case !cur.onlyArgs && strings.HasPrefix(word, "-"):
		return cur.flags(word)
	case isGroup(cur.command()):
		var out []candidate
		for _, s := range visible(cur.command().Subcommands) {
			out = append(out, candidate{s.Name, s.Usage})
		}
		return out
	case cur.args == 0:
		return firstArgument(name(cur.path[1:]), ask)
	}
	return nil
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

func flagValues(f ucli.Flag, ask asker) []candidate {
	if formats, ok := formatsOf(f); ok {
		return words(formats...)
	}
	switch f.Names()[0] {
	case "transport":
		var out []candidate
		for _, t := range topology.Transports() {
			out = append(out, candidate{word: string(t)})
		}
		return out
	case "network":
		return ask("network", "list")
	case "node":
		return ask("node", "list")
	case flagContext:
		return ask("context", "list")
	case "datapath":
		return words("auto", "system", "netdev")
	case flagColor:
		return words(cli.Colors()...)
	case cli.FlagLogLevel:
		return words("error", "warn", "info", "debug")
	case cli.FlagLogFormat:
		return words("text", "json")
	}
	return nil
}

func firstArgument(command string, ask asker) []candidate {
	switch command {
	case "network show", "network update", "network delete":
		return ask("network", "list")
	case "node show", "node remove":
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
    local IFS=$'\n' line
    COMPREPLY=()
    while read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _baize baize
`,
	"zsh": `#compdef baize
# zsh completion for baize: put this in a directory of $fpath as _baize, or
#   source <(baize completion zsh)
_baize() {
    local line
    local -a out
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] || continue
        out+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( ${#out} )); then
        _describe baize out
    else
        _files
    fi
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
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete $words[2..-1] 2>/dev/null
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
