package openflow

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	gov "github.com/digitalocean/go-openvswitch/ovs"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// raw is a part of a flow in ovs-ofctl's text form: go-openvswitch's own Match
// and Action types cover only some of what OVS understands.
type raw string

func (r raw) MarshalText() ([]byte, error) { return []byte(r), nil }
func (r raw) GoString() string             { return strconv.Quote(string(r)) }

// Apply deletes and adds flows in one atomic OpenFlow bundle: packets see the
// tables before or after it, and a bundle that fails changes nothing. Deletions
// come first, so that a flow can be replaced by one with the same identity. A
// flow to delete that is not there is no error.
//
// A refused bundle is a *topology.Error of kind ErrInvalid with ovs-ofctl's own
// words and, where it names it, the flow.
func (c *Client) Apply(ctx context.Context, add []ovs.BoundFlow, del []ovs.FlowID) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	c.expect(add, del)
	// The library hides a bundle's real error behind that of its pipe, and has no
	// deadline. This runner keeps both.
	var failed error
	pipe := func(stdin io.Reader, name string, args ...string) ([]byte, error) {
		out, err := c.pipe(ctx, stdin, name, args...)
		failed = err
		return []byte(out), err
	}
	lib := gov.New(gov.Pipe(pipe), gov.Protocols([]string{protocol}))
	err := lib.OpenFlow.AddFlowBundle(c.target(), func(tx *gov.FlowTransaction) error {
		for _, id := range del {
			tx.Delete(&gov.MatchFlow{Table: id.Table, Cookie: id.Cookie})
		}
		for _, f := range add {
			flow := &gov.Flow{
				Table: f.Table, Priority: f.Priority, Cookie: f.Cookie, Actions: []gov.Action{raw(f.Actions)},
			}
			if f.Match != "" {
				flow.Matches = []gov.Match{raw(f.Match)}
			}
			tx.Add(flow)
		}
		return tx.Commit()
	})
	if err == nil {
		return nil
	}
	var refused *commandError
	if errors.As(failed, &refused) {
		return c.refusal(refused, add, len(del))
	}
	if failed != nil {
		return failed
	}
	return err
}

// badLine is how ovs-ofctl names a line of its input it cannot parse.
var badLine = regexp.MustCompile(`^ovs-ofctl: -:(\d+): `)

func (c *Client) refusal(err *commandError, add []ovs.BoundFlow, deleted int) error {
	e := &topology.Error{
		Kind: topology.ErrInvalid, Code: fault.FlowRefused, Item: "flows of bridge " + c.cfg.Bridge,
		What: "the bundle was refused, nothing changed: " + strings.ReplaceAll(err.text, "\n", "; "),
	}
	if m := badLine.FindStringSubmatch(err.text); m != nil {
		if n, _ := strconv.Atoi(m[1]); n > deleted && n <= deleted+len(add) {
			e.Item = "flow " + text(add[n-deleted-1])
		}
	}
	return e
}
