package openflow

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Packet is a frame that a flow sent to a controller (OFPT_PACKET_IN).
type Packet struct {
	// Port is the OpenFlow number of the port that it came in by.
	Port int
	// Key is its tunnel key; 0 also where it came out of no tunnel.
	Key uint64
	// Frame is the frame, Whole how many bytes it has in all.
	Frame []byte
	Whole int
}

// PacketsConfig says what a Packets takes.
type PacketsConfig struct {
	// ID is the controller's ID: flows send to it by "controller(id=…)".
	ID uint16
	// Rate bounds the packets a second that the bridge sends to controllers, Burst
	// those that may come at once.
	Rate, Burst uint32
}

// Packets sends frames out of ports of a bridge and receives those that flows send
// to its ID. Its methods may be called from any goroutine.
type Packets struct {
	client *Client
	cfg    PacketsConfig

	mu   sync.Mutex
	conn net.Conn
}

// Packets returns a way for frames in and out. It opens nothing.
func (c *Client) Packets(cfg PacketsConfig) *Packets { return &Packets{client: c, cfg: cfg} }

// sendTimeout bounds how long a switch that does not read is waited for.
const sendTimeout = 2 * time.Second

// ErrDisconnected is Send's error while there is no connection.
var ErrDisconnected = errors.New("no OpenFlow connection to the bridge")

// Run holds a connection to the bridge and calls received, from its own goroutine,
// with every packet; the packet is received's to keep. connected is called once
// the switch has taken the settings. It returns when the connection ends, with a
// *topology.Error of kind ErrUnavailable or ErrNotFound, or nil once ctx ended.
func (p *Packets) Run(ctx context.Context, connected func(), received func(Packet)) error {
	conn, err := p.open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return p.client.lost(err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	p.set(conn)
	defer func() {
		p.set(nil)
		_ = conn.Close()
	}()
	err = p.serve(conn, connected, received)
	if ctx.Err() != nil {
		return nil
	}
	return p.client.lost(err)
}

func (p *Packets) set(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = conn
}

// open connects and says what it wants: packets of flows that name the ID, whole,
// and not more than the rate. The settings need no answer; a switch without
// meters refuses the last.
func (p *Packets) open(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: p.client.cfg.Timeout}
	conn, err := d.DialContext(ctx, "unix", filepath.Join(p.client.cfg.RunDir, p.client.cfg.Bridge+".mgmt"))
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, m := range []message{
		hello(), setConfig(), setController(p.cfg.ID), meterControllers(p.cfg.Rate, p.cfg.Burst),
	} {
		out = append(out, m.bytes()...)
	}
	// An answer to a question of ours comes after the settings are in force.
	out = append(out, message{kind: typeEchoRequest, xid: settled}.bytes()...)
	if err = conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err == nil {
		_, err = conn.Write(out)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// settled is the ID of the question that follows the settings.
const settled = 0xba12e

func (p *Packets) serve(conn net.Conn, connected func(), received func(Packet)) error {
	r := bufio.NewReaderSize(conn, maxMessage)
	for {
		m, err := readMessage(r)
		if err != nil {
			return err
		}
		switch {
		case m.kind == typePacketIn:
			packet, err := parsePacketIn(m.body)
			if err != nil {
				return err
			}
			received(packet)
		case m.kind == typeEchoRequest:
			if err := p.write(message{kind: typeEchoReply, xid: m.xid, body: m.body}); err != nil {
				return err
			}
		case m.kind == typeEchoReply && m.xid == settled:
			connected()
		case m.kind == typeError && m.xid == 0 && len(m.body) >= 2 && m.body[0] == 0 && m.body[1] == 0:
			return fmt.Errorf("no common version of OpenFlow: %s", parseError(m.body)) // OFPET_HELLO_FAILED
		}
	}
}

// Send sends a frame out of a port with a tunnel key. The switch says nothing about
// what became of it.
func (p *Packets) Send(port int, key uint64, frame []byte) error {
	return p.write(packetOut(uint32(port), key, frame))
}

func (p *Packets) write(m message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return ErrDisconnected
	}
	if err := p.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if _, err := p.conn.Write(m.bytes()); err != nil {
		_ = p.conn.Close() // a part of a message cannot be taken back
		return err
	}
	return nil
}

// lost says what the end of a connection means.
func (c *Client) lost(err error) error {
	e := &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "bridge " + c.cfg.Bridge,
		What: fmt.Sprintf("OpenFlow connection lost: %v", err), Remedy: "systemctl status openvswitch-switch",
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		e.Kind, e.Code = topology.ErrNotFound, fault.BridgeMissing
		e.What = fmt.Sprintf("is not there, or ovs-vswitchd is not running: %v", err)
		e.Remedy = "systemctl start openvswitch-switch"
	}
	return e
}
