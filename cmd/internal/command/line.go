package command

import (
	"fmt"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// usageError is a command line that cannot be read: exit code 2, and a hint
// where to find help.
type usageError struct {
	command string // full name of the command it was for
	what    string
}

func (e *usageError) Error() string { return e.command + ": " + e.what }

func usagef(command, format string, args ...any) error {
	return &usageError{command, fmt.Sprintf(format, args...)}
}

// line is a command line that was read.
type line struct {
	// path leads from the root to the command.
	path []*ucli.Command
	// args is the same line in the order that urfave/cli reads: every flag
	// after the command it belongs to, then "--", then the arguments.
	args []string
	// given are the names of the flags on the line.
	given map[string]bool
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
	return &ucli.Command{
		Name: app.Name, Usage: app.Usage, Description: app.Description, Flags: app.Flags, Subcommands: app.Commands,
	}
}

// takesCommand marks a command whose arguments after the first are a command
// line of their own, flags included.
const takesCommand = "takesCommand"

// takesRaw marks a command that reads its own flags.
const takesRaw = "takesRaw"

// parseLine reads a command line. People write flags where they think of
// them, after arguments too, and global flags after the command; package flag
// stops at the first argument. Errors are *usageError and say what was probably
// meant.
func parseLine(root *ucli.Command, args []string) (line, error) {
	p := &lineParser{line: line{path: []*ucli.Command{root}, given: map[string]bool{}}, flags: [][]string{nil}, left: args}
	for len(p.left) > 0 {
		if err := p.readWord(); err != nil {
			return p.line, err
		}
	}
	p.arrange()
	return p.line, p.check()
}

// lineParser reads a command line word by word.
type lineParser struct {
	line
	// left are the words that are not read yet.
	left []string
	// flags are those given so far, per level of path.
	flags [][]string
	// rest are the command's arguments.
	rest []string
}

func (p *lineParser) next() string {
	word := p.left[0]
	p.left = p.left[1:]
	return word
}

// enter makes a subcommand the command of the line.
func (p *lineParser) enter(c *ucli.Command) {
	p.path = append(p.path, c)
	p.flags = append(p.flags, nil)
}

// takeRest makes arguments of all words that are left, flags included.
func (p *lineParser) takeRest() {
	p.rest = append(p.rest, p.left...)
	p.left = nil
}

func (p *lineParser) readWord() error {
	word := p.next()
	switch {
	case word == "--":
		p.takeRest()
		return nil
	case len(word) > 1 && word[0] == '-':
		return p.readFlag(word)
	case isGroup(p.command()):
		return p.readSubcommand(word)
	}
	p.readArgument(word)
	return nil
}

func (p *lineParser) readSubcommand(word string) error {
	if word == "help" {
		p.help = true
		return nil
	}
	c := subcommand(p.command(), word)
	if c == nil {
		return unknownCommand(p.path, word)
	}
	p.enter(c)
	if c.Category == takesRaw {
		p.takeRest()
	}
	return nil
}

func (p *lineParser) readArgument(word string) {
	p.rest = append(p.rest, word)
	if p.command().Category != takesCommand {
		return
	}
	if len(p.left) > 0 && p.left[0] == "--" {
		p.next()
	}
	p.takeRest()
}

func (p *lineParser) readFlag(word string) error {
	flagName, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	switch {
	case flagName == "help" || flagName == "h":
		p.help = true
		return nil
	case (flagName == "version" || flagName == "v") && len(p.path) == 1:
		p.enter(subcommand(p.command(), "version"))
		return nil
	}
	level, f := findFlag(p.path, flagName)
	if f == nil {
		return unknownFlag(p.path, word, flagName)
	}
	long := "--" + f.Names()[0]
	if takesValue(f) && !hasValue {
		if len(p.left) == 0 || isFlag(p.path, p.left[0]) {
			return usagef(name(p.path), "flag %s needs a value", long)
		}
		value, hasValue = p.next(), true
	}
	if hasValue {
		long += "=" + value
	}
	p.given[f.Names()[0]] = true
	p.flags[level] = append(p.flags[level], long)
	return nil
}

// arrange writes args: every flag after its own command, the arguments last.
func (p *lineParser) arrange() {
	for i, c := range p.path {
		if i > 0 {
			p.args = append(p.args, c.Name)
		}
		p.args = append(p.args, p.flags[i]...)
	}
	if len(p.rest) > 0 {
		p.args = append(append(p.args, "--"), p.rest...)
	}
}

// check refuses a line that ends too early or has too many arguments.
func (p *lineParser) check() error {
	c := p.command()
	if isGroup(c) {
		if len(p.rest) > 0 {
			return unknownCommand(p.path, p.rest[0])
		}
		if c.Action == nil && !p.help {
			return missingCommand(p.path)
		}
	}
	if p.help || c.Category == takesRaw {
		return nil
	}
	return checkArity(p.path, len(p.rest), p.rest)
}

func isGroup(c *ucli.Command) bool { return len(c.Subcommands) > 0 }

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

func missingCommand(path []*ucli.Command) error {
	var names []string
	for _, c := range visible(path[len(path)-1].Subcommands) {
		names = append(names, c.Name)
	}
	return usagef(name(path), "needs a command: %s", strings.Join(names, ", "))
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
// or "" when none is near. A name that begins with the word is near, too.
func didYouMean(word string, candidates []string, prefix string) string {
	best, bestD := "", 0
	for _, c := range candidates {
		if len(c) < 2 {
			continue
		}
		d := distance(strings.ToLower(word), strings.ToLower(c))
		near := d <= max(1, len(word)/3) || (len(word) >= 3 && strings.HasPrefix(c, word))
		if near && (best == "" || d < bestD) {
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
	hint := didYouMean(value, allowed, "")
	return usagef(command, "--%s %q is none of %s%s", flag, value, strings.Join(allowed, ", "), hint)
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
