package openflow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// multipartMore is the flag of an answer that others follow.
const multipartMore = 1

// session is a connection for a few messages.
type session struct {
	net.Conn
	// space is the body of the message received last.
	space []byte
}

func (c *Client) session(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(c.cfg.RunDir, c.cfg.Bridge+".mgmt"))
	if err != nil {
		return nil, c.unreachable(err)
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close()
		return nil, err
	}
	s := &session{Conn: conn}
	if err := s.send(hello()); err != nil {
		_ = conn.Close()
		return nil, c.unreachable(err)
	}
	return s, nil
}

// unreachable says for people why there is no connection.
func (c *Client) unreachable(err error) error {
	kind, code := topology.ErrUnavailable, fault.SwitchUnavailable
	if errors.Is(err, os.ErrNotExist) {
		kind, code = topology.ErrNotFound, fault.BridgeMissing
	}
	return &topology.Error{
		Kind: kind, Code: code, Item: "bridge " + c.cfg.Bridge,
		What: "no OpenFlow connection: " + err.Error(), Remedy: "systemctl start openvswitch-switch",
	}
}

func (s *session) send(m message) error {
	_, err := s.Write(m.bytes())
	return err
}

// receive returns the next message that is no greeting. Its body lasts until the next.
func (s *session) receive() (message, error) {
	for {
		m, err := readMessageInto(s, s.space)
		if err != nil {
			return m, err
		}
		s.space = m.body
		switch m.kind {
		case typeError, typeMultipartReply, typeBarrierReply:
			return m, nil
		}
	}
}

// multipart asks a question of the OpenFlow Switch Specification 1.4.0, section 7.3.5,
// whose answer may be in several messages. one takes an entry from the front of an
// answer and returns its size, 0 where it is none. refused makes the error of a switch
// that does not answer it.
func (c *Client) multipart(
	ctx context.Context, what uint16, request []byte, refused func(string) error, one func([]byte) int,
) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	head := make([]byte, 8, 8+len(request))
	binary.BigEndian.PutUint16(head, what)
	if err := s.send(message{kind: typeMultipartRequest, body: append(head, request...)}); err != nil {
		return c.unreachable(err)
	}
	for {
		m, err := s.receive()
		if err != nil {
			return c.unreachable(err)
		}
		if m.kind == typeError || len(m.body) < 8 {
			return refused(fmt.Sprintf("% x", m.body))
		}
		for rest := m.body[8:]; len(rest) > 0; {
			size := one(rest)
			if size == 0 {
				return refused(fmt.Sprintf("an answer that nobody understands: % x", rest))
			}
			rest = rest[size:]
		}
		if binary.BigEndian.Uint16(m.body[2:])&multipartMore == 0 {
			return nil
		}
	}
}
