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

// completeTimeout bounds a question to etcd or the agent: a person waits.
const completeTimeout = 3 * time.Second

// candidate is one way to go on.
type candidate struct{ word, about string }

// complete prints candidates, one a line, a tab before what they are.
func (r *runner) complete(ctx context.Context, words []string) int {
	if len(words) == 0 {
		words = []string{""}
	}
	for _, c := range r.candidates(ctx, words[:len(words)-1], words[len(words)-1]) {
		fmt.Fprintf(r.Out, "%s\t%s\n", c.word, c.about)
	}
	return cli.ExitOK
}

func (r *runner) candidates(ctx context.Context, before []string, word string) []candidate {
	path := []*ucli.Command{r.root}
	var global []string // flags that say where etcd and the agent are
	args, only := 0, false
	var pending ucli.Flag
	for _, w := range before {
		c := path[len(path)-1]
		switch {
		case pending != nil:
			if level, _ := findFlag(path, pending.Names()[0]); level == 0 {
				global = append(global, "--"+pending.Names()[0]+"="+w)
			}
			pending = nil
		case only:
			args++
		case w == "--":
			only = true
		case len(w) > 1 && w[0] == '-':
			n, _, hasValue := strings.Cut(strings.TrimLeft(w, "-"), "=")
			level, f := findFlag(path, n)
			if f == nil {
				continue
			}
			if !hasValue && takesValue(f) {
				pending = f
			} else if level == 0 {
				global = append(global, w)
			}
		case len(c.Subcommands) > 0:
			s := subcommand(c, w)
			if s == nil {
				return nil
			}
			path = append(path, s)
		default:
			args++
		}
	}
	c := path[len(path)-1]
	ask := func(line ...string) []candidate { return r.ask(ctx, append(global, line...)) }
	var out []candidate
	switch {
	case pending != nil:
		out = flagValues(pending, ask)
	case !only && strings.HasPrefix(word, "-"):
		for level := len(path) - 1; level >= 0; level-- {
			if level == 0 && len(path) > 1 && !strings.HasPrefix(word, "--") {
				break // the global flags only when asked for by two dashes
			}
			for _, f := range visibleFlags(path[level].Flags) {
				d := documentFlag(f)
				out = append(out, candidate{"--" + f.Names()[0], d.usage})
			}
		}
	case len(c.Subcommands) > 0:
		for _, s := range visible(c.Subcommands) {
			out = append(out, candidate{s.Name, s.Usage})
		}
	case args == 0:
		out = firstArgument(name(path[1:]), ask)
	}
	return slices.DeleteFunc(out, func(c candidate) bool { return !strings.HasPrefix(c.word, word) })
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
	case "datapath":
		return words("auto", "system", "netdev")
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
	if Run(ctx, append(line, "--output=json"), Streams{In: strings.NewReader(""), Out: &out, Err: io.Discard}) != cli.ExitOK {
		return nil
	}
	var items []struct{ Name, Prefix, Network, Status, Node string }
	if json.Unmarshal(out.Bytes(), &items) != nil {
		return nil
	}
	var cs []candidate
	for _, i := range items {
		about := strings.TrimSpace(i.Network + " " + i.Node + " " + i.Status)
		if w := i.Name + i.Prefix; w != "" {
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
			script, ok := completionScripts[c.Args().First()]
			if !ok {
				return usagef("baize completion", "no completion for %q: use one of %s", c.Args().First(), strings.Join(shells, ", "))
			}
			_, err := io.WriteString(r.Out, script)
			return err
		},
	}
}
