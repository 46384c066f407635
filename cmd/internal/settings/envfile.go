package settings

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/baize-net/baize/topology"
)

// DefaultFile is the settings file of a node, which baize.service reads as well.
const DefaultFile = "/etc/default/baize"

// Variable is an assignment in an environment file.
type Variable struct {
	Name, Value string
	// Line is where the name stands, counted from 1.
	Line int
}

// ReadEnvironment reads a settings file. Errors are those of reading it, or of
// kind ErrInvalid; one that is os.ErrNotExist or os.ErrPermission stays that.
func ReadEnvironment(file string) ([]Variable, error) {
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, &topology.Error{
			Kind: errors.Join(topology.ErrUnavailable, os.ErrPermission),
			Item: "settings file " + file, What: "this user may not read it",
			Remedy: "run as root, or say where etcd is: --etcd-endpoints, BAIZE_ETCD_ENDPOINTS or --context",
		}
	case err != nil:
		return nil, fmt.Errorf("settings file: %w", err)
	case !utf8.Valid(b):
		return nil, &topology.Error{
			Kind: topology.ErrInvalid, Item: "settings file " + file, What: "not UTF-8",
			Remedy: "systemd refuses it, too: write it anew",
		}
	}
	return ParseEnvironment(string(b)), nil
}

// ParseEnvironment reads a file as systemd reads that of EnvironmentFile=
// (systemd.exec(5)): nothing in it is executed or expanded. A line without "="
// is passed over, as it is there; so is a name that no variable can have. The
// last of several assignments to one name is the one that counts. Before version
// 254 a comment that ends with a backslash took the next line along; here it does
// not.
func ParseEnvironment(text string) []Variable {
	p := envParser{left: text, line: 1}
	var out []Variable
	for {
		v, ok := p.next()
		if !ok {
			return out
		}
		if isVariable(v.Name) {
			out = append(out, v)
		}
	}
}

func isVariable(name string) bool {
	for i, c := range name {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

type envParser struct {
	left string
	line int
}

// take consumes n bytes and counts the lines in them.
func (p *envParser) take(n int) string {
	s := p.left[:n]
	p.left = p.left[n:]
	p.line += strings.Count(s, "\n")
	return s
}

const (
	blank   = " \t\n\r"
	newline = "\n\r"
)

// next reads on to the end of an assignment; false at the end of the text.
func (p *envParser) next() (Variable, bool) {
	for {
		p.take(len(p.left) - len(strings.TrimLeft(p.left, blank)))
		if p.left == "" {
			return Variable{}, false
		}
		end := strings.IndexAny(p.left, newline)
		if end < 0 {
			end = len(p.left)
		}
		equals := strings.IndexByte(p.left[:end], '=')
		if p.left[0] == '#' || p.left[0] == ';' || equals < 0 {
			p.take(end)
			continue
		}
		v := Variable{Line: p.line}
		v.Name = strings.TrimRight(p.take(equals), blank)
		p.take(1)
		v.Value = p.value()
		return v, true
	}
}

// value reads up to the end of the line: quoted and bare parts, joined. Blanks
// around a bare part are no part of it, unless escaped.
func (p *envParser) value() string {
	var out strings.Builder
	keep, bare := 0, false // bytes that stay where blanks at the end go; inside a bare part
	for p.left != "" {
		c := p.take(1)
		switch {
		case strings.Contains(newline, c):
			return out.String()[:keepOf(out.Len(), keep, bare)]
		case c == `\`:
			if p.left != "" {
				if c = p.take(1); !strings.Contains(newline, c) {
					out.WriteString(c)
				}
			}
			keep, bare = out.Len(), true
		case !bare && c == `'`:
			p.quoted(&out, c)
		case !bare && c == `"`:
			p.quoted(&out, c)
		case bare:
			out.WriteString(c)
			if !strings.Contains(blank, c) {
				keep = out.Len()
			}
		case !strings.Contains(blank, c):
			out.WriteString(c)
			keep, bare = out.Len(), true
		}
	}
	return out.String()[:keepOf(out.Len(), keep, bare)]
}

func keepOf(whole, keep int, bare bool) int {
	if bare {
		return keep
	}
	return whole
}

// quoted reads up to the closing quote, or the end of the text.
func (p *envParser) quoted(out *strings.Builder, quote string) {
	for p.left != "" {
		c := p.take(1)
		switch {
		case c == quote:
			return
		case c != `\` || quote == `'` || p.left == "":
			out.WriteString(c)
		default:
			c = p.take(1)
			switch {
			case strings.ContainsAny(c, "\"\\`$"):
				out.WriteString(c)
			case c != "\n":
				out.WriteString(`\` + c)
			}
		}
	}
}
