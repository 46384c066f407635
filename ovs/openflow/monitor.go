package openflow

import (
	"bufio"
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// The kinds of Event.
const (
	// Connected: the connection stands. After a restart of ovs-vswitchd its
	// tables are empty, so the flows are due.
	Connected = "connected"
	// Changed: somebody else added, changed or deleted a flow.
	Changed = "changed"
)

// Event is what Monitor reports.
type Event struct {
	Kind string
	// What is ovs-ofctl's line of a changed flow.
	What string
}

// event is one announced change of a flow: ADDED, MODIFIED or DELETED.
type event struct {
	ovs.FlowID
	kind string
}

// expectFor is how long an event is waited for. Not every change causes one: to
// delete what is not there does not.
const expectFor = 2 * time.Second

// pending counts equal events still to come.
type pending struct {
	n     int
	since time.Time
}

// expect notes the events to come from our own Apply.
func (c *Client) expect(add []ovs.BoundFlow, del []ovs.FlowID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(c.expected, func(_ event, p pending) bool { return now.Sub(p.since) > expectFor })
	for _, f := range add {
		e := event{f.ID(), "ADDED"}
		c.expected[e] = pending{c.expected[e].n + 1, now}
	}
	for _, id := range del {
		e := event{id, "DELETED"}
		c.expected[e] = pending{c.expected[e].n + 1, now}
	}
}

// own reports whether an event was expected, and counts it.
func (c *Client) own(e event) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.expected[e]
	if !ok || time.Since(p.since) > expectFor {
		return false
	}
	if p.n--; p.n > 0 {
		c.expected[e] = p
	} else {
		delete(c.expected, e)
	}
	return true
}

// Monitor holds an OpenFlow connection to the bridge. It is how a restart of
// ovs-vswitchd is noticed, which the database does not show. It returns within
// milliseconds of the connection's end, with a *topology.Error of kind
// ErrUnavailable or ErrNotFound, or nil once parent ended; the caller calls it again
// after a pause.
//
// onEvent is called from Monitor's goroutine. Changes made by this Client's Apply
// are not reported, but one may be when the switch takes seconds to announce it.
func (c *Client) Monitor(parent context.Context, onEvent func(Event)) error {
	if err := c.listens(parent); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	cmd := c.command(ctx, "ovs-ofctl", "--protocols="+protocol, "--no-names", "monitor", c.target(), "watch:!initial")
	cmd.Stdout, cmd.Stderr = w, w
	// The kernel ends the child with the thread that started it: nothing is left
	// when we are killed. So this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.Close()
		return c.explain(ctx, "ovs-ofctl", err, "")
	}
	w.Close()

	var last string
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimSpace(line); line != "" {
			if e, ok := c.parseEvent(line); ok {
				onEvent(e)
			} else if strings.HasPrefix(line, "ovs-ofctl:") {
				last = line
			}
		}
		if err != nil {
			break
		}
	}
	cancel() // it closed its output: do not wait for more
	err = cmd.Wait()
	if parent.Err() != nil {
		return nil
	}
	var known *topology.Error
	if err != nil && errors.As(c.explain(parent, "ovs-ofctl", err, last), &known) {
		return known
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "bridge " + c.cfg.Bridge,
		What:   "OpenFlow connection lost: " + last,
		Remedy: "systemctl status openvswitch-switch",
	}
}

// listens returns why the management socket cannot be connected to, where that is known:
// trying costs next to nothing, and a program more while ovs-vswitchd starts.
func (c *Client) listens(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", strings.TrimPrefix(c.target(), "unix:"))
	if err != nil {
		return c.refused(err.Error())
	}
	return conn.Close()
}

// parseEvent reads a line of ovs-ofctl monitor.
func (c *Client) parseEvent(line string) (Event, bool) {
	switch {
	case strings.Contains(line, "FLOW_MONITOR reply") && !strings.Contains(line, "(xid=0x0)"):
		return Event{Kind: Connected}, true // the answer to our request
	case strings.Contains(line, "FLOW_MONITOR_PAUSED"):
		return Event{Kind: Changed, What: line}, true // so many that some are left out
	case !strings.HasPrefix(line, "event="):
		return Event{}, false
	}
	var e event
	for field := range strings.FieldsSeq(line) {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "event":
			e.kind = value
		case "table":
			n, _ := strconv.ParseUint(value, 0, 8)
			e.Table = int(n)
		case "cookie":
			e.Cookie, _ = strconv.ParseUint(value, 0, 64)
		}
	}
	return Event{Kind: Changed, What: line}, !c.own(e)
}
