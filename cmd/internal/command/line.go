package command

import (
	"fmt"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// usageError is a command line that makes no sense: exit code 2, and a hint
// where to find help.
type usageError struct {
	command string // full name of the command it was for
	what    string
}

func (e *usageError) Error() string { return e.command + ": " + e.what }

func usagef(command, format string, args ...any) error {
	return &usageError{command, fmt.Sprintf(format, args...)}
}

// line is a command line, understood.
type line struct {
	// path leads from the root to the command.
	path []*ucli.Command
	// args is the same line in the order that urfave/cli reads: every flag
	// behind the command it belongs to, then "--", then what is left.
	args []string
	// help is set when the line asks for help on the command.
	help bool
}

// command returns the command the line is for.
func (l line) command() *ucli.Command { return l.path[len(l.path)-1] }

// name returns the full name of a command: "baize network create".
func name(path []*ucli.Command) string {
	parts := make([]string, len(path))
	for i, c := range path {
		parts[i] = c.Name
	}
	return strings.Join(parts, " ")
}

// rootCommand presents an app as the command at the root of the tree.
func rootCommand(app *ucli.App) *ucli.Command {
	return &ucli.Command{Name: app.Name, Usage: app.Usage, Description: app.Description, Flags: app.Flags, Subcommands: app.Commands}
}

// takesCommand marks a command whose arguments after the first are a command
// line of their own, flags included.
const takesCommand = "takesCommand"

// takesRaw marks a command that reads its own flags.
const takesRaw = "takesRaw"

// parseLine understands a command line. People write flags where they think
// of them, behind arguments too, and global flags behind the command; package
// flag stops at the first argument. Errors are *usageError and say what was
// probably meant.
func parseLine(root *ucli.Command, args []string) (line, error) {
	l := line{path: []*ucli.Command{root}}
	flags := [][]string{nil} // per level of path
	var rest []string
	isGroup := func() bool { return len(l.command().Subcommands) > 0 }

	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			if !isGroup() {
				rest = append(rest, arg)
				if l.command().Category == takesCommand {
					after := args[i+1:]
					if len(after) > 0 && after[0] == "--" {
						after = after[1:]
					}
					rest = append(rest, after...)
					break
				}
				continue
			}
			if arg == "help" {
				l.help = true
				continue
			}
			c := subcommand(l.command(), arg)
			if c == nil {
				return l, unknownCommand(l.path, arg)
			}
			l.path = append(l.path, c)
			flags = append(flags, nil)
			if c.Category == takesRaw {
				rest = args[i+1:]
				break
			}
			continue
		}

		flagName, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case flagName == "help" || flagName == "h":
			l.help = true
			continue
		case (flagName == "version" || flagName == "v") && len(l.path) == 1:
			l.path = append(l.path, subcommand(root, "version"))
			flags = append(flags, nil)
			continue
		}
		level, f := findFlag(l.path, flagName)
		if f == nil {
			return l, unknownFlag(l.path, arg, flagName)
		}
		long := "--" + f.Names()[0]
		if takesValue(f) && !hasValue {
			if i+1 == len(args) || isFlag(l.path, args[i+1]) {
				return l, usagef(name(l.path), "flag %s needs a value", long)
			}
			i++
			value, hasValue = args[i], true
		}
		if hasValue {
			long += "=" + value
		}
		flags[level] = append(flags[level], long)
	}

	for i, c := range l.path {
		if i > 0 {
			l.args = append(l.args, c.Name)
		}
		l.args = append(l.args, flags[i]...)
	}
	if len(rest) > 0 {
		if isGroup() {
			return l, unknownCommand(l.path, rest[0])
		}
		l.args = append(append(l.args, "--"), rest...)
	}
	if isGroup() && l.command().Action == nil && !l.help {
		var names []string
		for _, c := range visible(l.command().Subcommands) {
			names = append(names, c.Name)
		}
		return l, usagef(name(l.path), "needs a command: %s", strings.Join(names, ", "))
	}
	if !l.help && l.command().Category != takesRaw {
		if err := checkArity(l.path, len(rest), rest); err != nil {
			return l, err
		}
	}
	return l, nil
}

func subcommand(c *ucli.Command, word string) *ucli.Command {
	for _, s := range c.Subcommands {
		if s.HasName(word) {
			return s
		}
	}
	return nil
}

// findFlag looks from the innermost command outwards.
func findFlag(path []*ucli.Command, word string) (level int, f ucli.Flag) {
	for level = len(path) - 1; level >= 0; level-- {
		for _, f := range path[level].Flags {
			if slices.Contains(f.Names(), word) {
				return level, f
			}
		}
	}
	return 0, nil
}

// isFlag reports whether a word is a known flag and thus not another's value.
func isFlag(path []*ucli.Command, word string) bool {
	if !strings.HasPrefix(word, "--") {
		return false
	}
	n, _, _ := strings.Cut(word[2:], "=")
	_, f := findFlag(path, n)
	return f != nil || n == "help"
}

func takesValue(f ucli.Flag) bool {
	d, ok := f.(ucli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func visible(cs []*ucli.Command) []*ucli.Command {
	return slices.DeleteFunc(slices.Clone(cs), func(c *ucli.Command) bool { return c.Hidden })
}

func unknownCommand(path []*ucli.Command, word string) error {
	var names []string
	for _, c := range visible(path[len(path)-1].Subcommands) {
		names = append(names, c.Names()...)
	}
	return usagef(name(path), "unknown command %q%s", word, didYouMean(word, names, ""))
}

func unknownFlag(path []*ucli.Command, arg, word string) error {
	var names []string
	for _, c := range path {
		for _, f := range c.Flags {
			names = append(names, f.Names()...)
		}
	}
	arg, _, _ = strings.Cut(arg, "=")
	return usagef(name(path), "unknown flag %s%s", arg, didYouMean(word, names, "--"))
}

// didYouMean returns ": did you mean X?" for the candidate nearest to a word,
// or "" when none is near.
func didYouMean(word string, candidates []string, prefix string) string {
	best, bestD := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if len(c) < 2 {
			continue
		}
		d := distance(strings.ToLower(word), strings.ToLower(c))
		if d >= bestD && len(word) >= 3 && strings.HasPrefix(c, word) {
			d = bestD - 1
		}
		if d < bestD {
			best, bestD = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %s%s?", prefix, best)
}

// checkOneOf refuses a flag's value that is none of those allowed.
func checkOneOf(command, flag, value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return usagef(command, "--%s %q is none of %s%s", flag, value, strings.Join(allowed, ", "), didYouMean(value, allowed, ""))
}

// distance is the number of letters to insert, delete, replace or swap to turn
// a into b (Damerau-Levenshtein, optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

const unlimited = 1 << 16

// arity reads what a command's ArgsUsage allows: "NETWORK PREFIX" wants two,
// "[NAME]" at most one, "NAME..." one or more.
func arity(argsUsage string) (names []string, least, most int) {
	for _, word := range strings.Fields(argsUsage) {
		if word == "--" {
			continue
		}
		optional := strings.HasPrefix(word, "[")
		repeated := strings.Contains(word, "...")
		n := strings.TrimSuffix(word, "...")
		if optional {
			n = strings.Trim(n, "[]")
		}
		names = append(names, n)
		if !optional {
			least++
		}
		if repeated {
			most = unlimited
		} else {
			most++
		}
	}
	return names, least, most
}

func checkArity(path []*ucli.Command, n int, rest []string) error {
	c := path[len(path)-1]
	names, least, most := arity(c.ArgsUsage)
	switch {
	case n < least:
		return usagef(name(path), "needs %s", strings.Join(names[n:least], " and "))
	case n > most && most == 0:
		return usagef(name(path), "takes no argument: %q", rest[0])
	case n > most:
		return usagef(name(path), "unexpected argument %q: it takes only %s", rest[most], c.ArgsUsage)
	}
	return nil
}
