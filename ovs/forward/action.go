package forward

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
)

// action is one parsed action; do changes the packet or sends it.
type action struct {
	// kind: meter, controller, sample, output, output_part, in_port, goto, resubmit, set, move,
	// push, pop, dec_ttl.
	kind     string
	port     int
	table    int
	meter    uint32
	set      constraint
	from, to part
}

// part is a field, or some of its bits.
type part struct {
	field       Field
	first, bits int
}

// parseActions reads an action list as ovs-ofctl does.
func parseActions(f ovs.BoundFlow) ([]action, error) {
	if f.Actions == "drop" {
		return nil, nil
	}
	var out []action
	for _, text := range splitActions(f.Actions) {
		a, err := parseAction(text)
		if err != nil {
			return nil, err
		}
		if a.kind == "goto" {
			if a.table <= f.Table {
				return nil, errors.New("actions are invalid with specified match (OFPBIC_BAD_TABLE_ID)")
			}
			if text != lastOf(f.Actions) {
				return nil, errors.New("instruction goto_table must be the last one")
			}
		}
		if a.kind == "meter" && len(out) > 0 {
			return nil, errors.New("instruction meter may be specified only once, first")
		}
		out = append(out, a)
	}
	return out, nil
}

func lastOf(actions string) string {
	all := splitActions(actions)
	return all[len(all)-1]
}

// splitActions splits at commas outside of parentheses.
func splitActions(s string) []string {
	var out []string
	depth, from := 0, 0
	for i, r := range s {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			out = append(out, s[from:i])
			from = i + 1
		}
	}
	return append(out, s[from:])
}

func parseAction(text string) (action, error) {
	if table, ok := strings.CutPrefix(text, "resubmit(,"); ok {
		n, err := strconv.ParseUint(strings.TrimSuffix(table, ")"), 10, 8)
		return action{kind: "resubmit", table: int(n)}, err
	}
	if strings.HasPrefix(text, "controller(") {
		return action{kind: "controller"}, nil // nobody listens
	}
	if strings.HasPrefix(text, "sample(") {
		return action{kind: "sample"}, nil // a copy, which no port gets
	}
	name, rest, _ := strings.Cut(text, ":")
	switch name {
	case "in_port", "dec_ttl":
		return action{kind: name}, nil
	case "IN_PORT": // as ovs-ofctl prints it
		return action{kind: "in_port"}, nil
	case "LOCAL":
		return action{kind: "output", port: localPort}, nil
	case "output":
		return parseOutput(rest)
	case "meter":
		n, err := strconv.ParseUint(rest, 10, 32)
		return action{kind: "meter", meter: uint32(n)}, err
	case "goto_table":
		n, err := strconv.ParseUint(rest, 10, 8)
		return action{kind: "goto", table: int(n)}, err
	case "set_field":
		return parseSet(rest)
	case "move":
		return parseMove(rest)
	case "push", "pop":
		p, err := parsePart(rest)
		return action{kind: name, from: p, to: p}, err
	}
	return action{}, fmt.Errorf("unknown action %s", name)
}

// parseOutput reads a port's number, or a field that has it.
func parseOutput(text string) (action, error) {
	if strings.HasSuffix(text, "]") {
		p, err := parsePart(text)
		return action{kind: "output_part", from: p}, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65534 {
		return action{}, fmt.Errorf("%s: output to unknown port", text)
	}
	return action{kind: "output", port: n}, nil
}

// parseMove reads FROM->TO.
func parseMove(text string) (action, error) {
	from, to, ok := strings.Cut(text, "->")
	a := action{kind: "move"}
	var err, err2 error
	a.from, err = parsePart(from)
	a.to, err2 = parsePart(to)
	if !ok || a.from.bits != a.to.bits {
		err = fmt.Errorf("%s: bad move", text)
	}
	return a, errors.Join(err, err2)
}

// parseSet reads VALUE->FIELD.
func parseSet(text string) (action, error) {
	v, name, ok := strings.Cut(text, "->")
	t, known := fieldTypes[name]
	if !ok || !known {
		return action{}, fmt.Errorf("%s is not a valid OXM field name", name)
	}
	value, mask, err := parseValue(t, name, v)
	return action{kind: "set", set: constraint{t.field, value, mask}}, err
}

// parsePart reads NAME[] or NAME[FIRST..LAST].
func parsePart(text string) (part, error) {
	name, rest, ok := strings.Cut(text, "[")
	t, known := fieldTypes[name]
	rest, closed := strings.CutSuffix(rest, "]")
	if !ok || !known || !closed {
		return part{}, fmt.Errorf("%s: unknown field `%s'", text, name)
	}
	if rest == "" {
		return part{t.field, 0, t.bits}, nil
	}
	first, last, _ := strings.Cut(rest, "..")
	a, err := strconv.Atoi(first)
	if last == "" {
		last = first
	}
	b, err2 := strconv.Atoi(last)
	if err != nil || err2 != nil || b < a || b >= t.bits {
		return part{}, fmt.Errorf("%s: bad bits", text)
	}
	return part{t.field, a, b - a + 1}, nil
}
