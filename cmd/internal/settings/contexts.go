package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
)

// The keys of the file's first level.
const (
	keyCurrent  = "current-context"
	keyContexts = "contexts"
)

// ContextsFile is where a user's contexts are kept: below XDG_CONFIG_HOME, or in
// ~/.config. The error says that the user has no such directory.
func ContextsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "baize", "config.yaml"), nil
}

// NamedContext is how one cluster is reached.
type NamedContext struct {
	Name string
	// Values are by the names of Cluster; each says context, file and line.
	Values map[string]Value
}

// Place returns the context as one of the places of settings.
func (n NamedContext) Place() Place { return Place{Source: Context, Values: n.Values} }

// With returns the context with other values, as Set would make it.
func (n NamedContext) With(name string, values map[string]string) NamedContext {
	out := NamedContext{Name: name, Values: maps.Clone(n.Values)}
	if out.Values == nil {
		out.Values = map[string]Value{}
	}
	for key, v := range values {
		out.Values[key] = Value{Text: v, Where: name}
		if v == "" {
			delete(out.Values, key)
		}
	}
	return out
}

// Contexts is the file of a user's contexts. A change keeps comments, and is
// written by Write.
type Contexts struct {
	// Path is the file, which need not exist.
	Path string
	// Current is the context that is used where none is named; it may be empty.
	Current string
	// List is in the order of the file.
	List []NamedContext
	mode os.FileMode
	root *yaml.Node
}

// ReadContexts reads a file; one that is missing has no contexts. An error of
// kind ErrInvalid names file and line.
func ReadContexts(path string) (*Contexts, error) {
	c := &Contexts{Path: path, root: &yaml.Node{Kind: yaml.MappingNode}}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("contexts: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("contexts: %w", err)
	}
	c.mode = info.Mode().Perm()
	if err := c.parse(b); err != nil {
		return nil, err
	}
	return c, nil
}

// Exposed reports whether others than the owner may read a password in the file.
func (c *Contexts) Exposed() bool { return c.mode&0o077 != 0 && c.hasPassword() }

func (c *Contexts) hasPassword() bool {
	return slices.ContainsFunc(c.List, func(n NamedContext) bool { return n.Values[EtcdPassword].Text != "" })
}

// Names lists the contexts.
func (c *Contexts) Names() []string {
	var out []string
	for _, n := range c.List {
		out = append(out, n.Name)
	}
	return out
}

// Find returns a context by its name.
func (c *Contexts) Find(name string) (NamedContext, bool) {
	i := slices.IndexFunc(c.List, func(n NamedContext) bool { return n.Name == name })
	if i < 0 {
		return NamedContext{}, false
	}
	return c.List[i], true
}

func (c *Contexts) at(line int) string { return fmt.Sprintf("%s:%d", c.Path, line) }

func (c *Contexts) malformed(n *yaml.Node, what string, args ...any) error {
	return &topology.Error{
		Kind: topology.ErrInvalid, Item: c.at(n.Line), What: fmt.Sprintf(what, args...),
		Remedy: "'baize context set' writes the file; its form is in docs/settings.md",
	}
}

// yamlLine is how the library says where it stopped.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)`)

func (c *Contexts) parse(b []byte) error {
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil // an empty file, or comments alone
	}
	if err == nil {
		if err = d.Decode(&more); err == nil {
			return c.malformed(&more, "a second document")
		}
	}
	if !errors.Is(err, io.EOF) {
		m := yamlLine.FindStringSubmatch(err.Error())
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: strings.TrimSuffix(c.Path+":"+m[1], ":"), What: m[2],
			Remedy: "it is YAML: see docs/settings.md",
		}
	}
	root := doc.Content[0]
	top, err := c.mapping(root, "the file")
	if err != nil || top == nil {
		return err
	}
	c.root = root
	for _, e := range top {
		switch e.key.Value {
		case keyCurrent:
			if c.Current, err = c.scalar(e); err != nil {
				return err
			}
		case keyContexts:
			if err := c.parseContexts(e.value); err != nil {
				return err
			}
		default:
			return c.malformed(e.key, "%q is none of %s, %s", e.key.Value, keyCurrent, keyContexts)
		}
	}
	return nil
}

func (c *Contexts) parseContexts(n *yaml.Node) error {
	entries, err := c.mapping(n, keyContexts)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.key.Value
		if err := CheckContextName(name); err != nil {
			return c.malformed(e.key, "%v", err)
		}
		settings, err := c.mapping(e.value, "context "+name)
		if err != nil {
			return err
		}
		ctx := NamedContext{Name: name, Values: map[string]Value{}}
		for _, s := range settings {
			if !slices.Contains(Cluster(), s.key.Value) {
				return c.malformed(s.key, "context %s has the unknown setting %q: use %s", name, s.key.Value,
					strings.Join(Cluster(), ", "))
			}
			text, err := c.text(s)
			if err != nil {
				return err
			}
			if text != "" {
				ctx.Values[s.key.Value] = Value{Text: text, Where: fmt.Sprintf("%s (%s)", name, c.at(s.key.Line))}
			}
		}
		c.List = append(c.List, ctx)
	}
	return nil
}

// entry is a key with its value.
type entry struct{ key, value *yaml.Node }

func (c *Contexts) mapping(n *yaml.Node, what string) ([]entry, error) {
	if n.Tag == "!!null" {
		return nil, nil
	}
	if n.Kind != yaml.MappingNode {
		return nil, c.malformed(n, "%s has to be a mapping, 'key: value'", what)
	}
	var out []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if slices.ContainsFunc(out, func(e entry) bool { return e.key.Value == key.Value }) {
			return nil, c.malformed(key, "%q is there twice", key.Value)
		}
		out = append(out, entry{key, n.Content[i+1]})
	}
	return out, nil
}

func (c *Contexts) scalar(e entry) (string, error) {
	switch {
	case e.value.Tag == "!!null":
		return "", nil
	case e.value.Kind != yaml.ScalarNode:
		return "", c.malformed(e.value, "%s has to be one value", e.key.Value)
	}
	return e.value.Value, nil
}

// text is a value; etcd's endpoints may be a list.
func (c *Contexts) text(e entry) (string, error) {
	if e.key.Value != EtcdEndpoints || e.value.Kind != yaml.SequenceNode {
		return c.scalar(e)
	}
	var out []string
	for _, n := range e.value.Content {
		s, err := c.scalar(entry{e.key, n})
		if err != nil {
			return "", err
		}
		out = append(out, s)
	}
	return strings.Join(out, ","), nil
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]*$`)

// CheckContextName refuses a name that would have to be quoted somewhere.
func CheckContextName(name string) error {
	if contextName.MatchString(name) {
		return nil
	}
	return fmt.Errorf("%q is no name of a context: letters, digits and . _ @ -, a letter or digit first", name)
}

// Use makes a context the current one; "" none.
func (c *Contexts) Use(name string) {
	c.Current = name
	if name == "" {
		remove(c.root, keyCurrent)
		return
	}
	set(c.root, keyCurrent, scalarNode(name))
}

// Set gives a context values, by the names of Cluster, and makes it where it is
// missing. An empty value removes the setting.
func (c *Contexts) Set(name string, values map[string]string) {
	ctx := child(child(c.root, keyContexts), name)
	for _, key := range Cluster() {
		v, ok := values[key]
		switch {
		case !ok:
		case v == "":
			remove(ctx, key)
		case key == EtcdEndpoints:
			list := &yaml.Node{Kind: yaml.SequenceNode}
			for _, e := range split(v) {
				list.Content = append(list.Content, scalarNode(e))
			}
			set(ctx, key, list)
		default:
			set(ctx, key, scalarNode(v))
		}
	}
}

// Delete removes a context; the current one is then none.
func (c *Contexts) Delete(name string) {
	remove(child(c.root, keyContexts), name)
	if c.Current == name {
		c.Use("")
	}
}

// Write replaces the file, which nobody but its owner can read afterwards.
func (c *Contexts) Write() error {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(c.root), e.Close()); err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	path := c.Path
	// A link of somebody's who keeps such files elsewhere stays one.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	if err := atomicfile.Write(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("contexts: %w", err)
	}
	return nil
}

func scalarNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

func index(m *yaml.Node, key string) int {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return i
		}
	}
	return -1
}

func set(m *yaml.Node, key string, v *yaml.Node) {
	if i := index(m, key); i >= 0 {
		v.LineComment = m.Content[i+1].LineComment
		m.Content[i+1] = v
		return
	}
	m.Content = append(m.Content, scalarNode(key), v)
}

func remove(m *yaml.Node, key string) {
	if i := index(m, key); i >= 0 {
		m.Content = slices.Delete(m.Content, i, i+2)
	}
}

// child returns the mapping under a key, made where it is missing.
func child(m *yaml.Node, key string) *yaml.Node {
	if i := index(m, key); i >= 0 && m.Content[i+1].Kind == yaml.MappingNode {
		return m.Content[i+1]
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	set(m, key, n)
	return n
}
