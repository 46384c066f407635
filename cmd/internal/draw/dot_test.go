package draw_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/graph/formats/dot"
	"gonum.org/v1/gonum/graph/formats/dot/ast"

	"github.com/baize-net/baize/cmd/internal/draw"
)

// graph is what a parser of the DOT language reads of a picture.
type graph struct {
	labels   map[string]string // of nodes, by ID
	clusters map[string]string // label, by ID
	edges    []edge
}

type edge struct {
	from, to, label string
}

func readDOT(t *testing.T, text []byte) graph {
	t.Helper()
	f, err := dot.ParseBytes(text)
	require.NoError(t, err, "%s", text)
	require.Len(t, f.Graphs, 1)
	g := graph{labels: map[string]string{}, clusters: map[string]string{}}
	require.False(t, f.Graphs[0].Directed)
	require.NoError(t, g.read("", f.Graphs[0].Stmts))
	for _, e := range g.edges {
		for _, id := range []string{e.from, e.to} {
			require.Contains(t, g.labels, id, "an edge to nowhere, which is drawn as a node of its own")
		}
	}
	return g
}

func (g *graph) read(cluster string, statements []ast.Stmt) error {
	for _, s := range statements {
		var err error
		switch s := s.(type) {
		case *ast.NodeStmt:
			if _, twice := g.labels[s.Node.ID]; twice {
				return fmt.Errorf("node %s is there twice", s.Node.ID)
			}
			g.labels[s.Node.ID], err = label(s.Attrs)
		case *ast.EdgeStmt:
			e := edge{from: s.From.(*ast.Node).ID, to: s.To.Vertex.(*ast.Node).ID}
			e.label, err = label(s.Attrs)
			g.edges = append(g.edges, e)
		case *ast.Subgraph:
			err = g.read(s.ID, s.Stmts)
		case *ast.Attr:
			if cluster != "" && s.Key == "label" {
				g.clusters[cluster], err = unquoted(s.Val)
			}
		case *ast.AttrStmt:
		default:
			err = fmt.Errorf("%T is not expected", s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func label(attrs []*ast.Attr) (string, error) {
	for _, a := range attrs {
		if a.Key == "label" {
			return unquoted(a.Val)
		}
	}
	return "", nil
}

// unquoted is a string as Graphviz shows it: its escapes are a part of Go's.
func unquoted(s string) (string, error) { return strconv.Unquote(s) }

// Any program that reads the DOT language reads the pictures, whatever things are called:
// each host is a node, each tunnel or, of many hosts, each membership an edge.
func TestDOTIsRead(t *testing.T) {
	pictures := cases()
	pictures["fifty"], pictures["five hundred"] = large(50), large(500)
	for name, top := range pictures {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.NoError(t, draw.DOT(&b, top))
			g := readDOT(t, b.Bytes())
			for _, n := range top.Nodes {
				require.Contains(t, g.labels[strconv.Quote(n.Name)], n.Name)
			}
			if len(g.clusters) == 0 {
				require.Len(t, g.labels, len(top.Nodes))
				require.Len(t, g.edges, len(top.Tunnels))
				for i, x := range top.Tunnels {
					require.Equal(t, edge{strconv.Quote(x.A), strconv.Quote(x.B), g.edges[i].label}, g.edges[i])
					require.Contains(t, g.edges[i].label, string(x.Encap))
				}
				return
			}
			require.Len(t, g.labels, len(top.Nodes)+len(top.Networks))
			members := 0
			for _, n := range top.Networks {
				members += len(n.Members)
			}
			require.Len(t, g.edges, members)
		})
	}
	t.Run("a name with all that has to be quoted", func(t *testing.T) {
		var b bytes.Buffer
		require.NoError(t, draw.DOT(&b, pictures["odd"]))
		g := readDOT(t, b.Bytes())
		require.True(t, strings.Contains(g.labels[`"host1"`], `c<1>"&\`), "%q", g.labels)
	})
}
