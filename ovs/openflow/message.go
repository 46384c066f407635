package openflow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The few messages of OpenFlow 1.4 that go-openvswitch cannot send: packets in and
// out have no command of ovs-ofctl(8) that a program could hold open, and those of meters
// and fingerprints would cost a process each. Numbers and
// layouts are those of the OpenFlow Switch Specification 1.4.0, sections 7.1 to 7.4,
// and of Open vSwitch's nicira-ext.h.
const (
	version14 = 0x05

	typeHello       = 0
	typeError       = 1
	typeEchoRequest = 2
	typeEchoReply   = 3
	typeExperiment  = 4
	typeSetConfig   = 9
	typePacketIn    = 10
	typePacketOut   = 13
	// What meters need (meter.go).
	typeMultipartRequest = 18
	typeMultipartReply   = 19
	typeBarrierRequest   = 20
	typeBarrierReply     = 21
	typeMeterMod         = 29

	headerSize = 8
	// maxMessage is what the length in a header can say.
	maxMessage = 0xffff

	noBuffer       = 0xffffffff
	portController = 0xfffffffd
	// meterController is the meter that every packet to a controller passes.
	meterController = 0xfffffffe

	actionOutput   = 0
	actionSetField = 25

	oxmBasic    = 0x8000
	oxmInPort   = 0
	oxmTunnelID = 38
)

// message is an OpenFlow message without its header.
type message struct {
	kind uint8
	xid  uint32
	body []byte
}

// bytes returns the message as it is sent.
func (m message) bytes() []byte {
	out := make([]byte, headerSize, headerSize+len(m.body))
	out[0], out[1] = version14, m.kind
	binary.BigEndian.PutUint16(out[2:], uint16(headerSize+len(m.body)))
	binary.BigEndian.PutUint32(out[4:], m.xid)
	return append(out, m.body...)
}

// readMessage reads one message.
func readMessage(r io.Reader) (message, error) { return readMessageInto(r, nil) }

// readMessageInto reads one message, whose body is in space where it has room there.
func readMessageInto(r io.Reader, space []byte) (message, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return message{}, err
	}
	size := int(binary.BigEndian.Uint16(h[2:])) - headerSize
	if size < 0 {
		return message{}, fmt.Errorf("an OpenFlow message of %d bytes", size+headerSize)
	}
	if size > cap(space) {
		space = make([]byte, size)
	}
	m := message{kind: h[1], xid: binary.BigEndian.Uint32(h[4:]), body: space[:size]}
	_, err := io.ReadFull(r, m.body)
	return m, err
}

// hello offers OpenFlow 1.4 only.
func hello() message { return message{kind: typeHello} }

// setConfig asks for whole packets. A connection to a bridge's management socket
// gets no packets at all before it asks for a part of them.
func setConfig() message {
	return message{kind: typeSetConfig, body: []byte{0, 0, 0xff, 0xff}}
}

// setController makes the connection the controller of that ID
// (NXT_SET_CONTROLLER_ID): it gets what flows send to it, and nobody else does.
func setController(id uint16) message {
	const nicira, setControllerID = 0x00002320, 20
	b := binary.BigEndian.AppendUint32(nil, nicira)
	b = binary.BigEndian.AppendUint32(b, setControllerID)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return message{kind: typeExperiment, body: binary.BigEndian.AppendUint16(b, id)}
}

// meterControllers limits the packets that the bridge sends to controllers, in
// packets a second; what is above is dropped.
func meterControllers(rate, burst uint32) message {
	return meterMod(meterAdd, meterRate|meterBurst, meterController, rate, burst)
}

// packetOut sends a frame out of a port with a tunnel key.
func packetOut(port uint32, key uint64, frame []byte) message {
	b := make([]byte, 0, 56+len(frame))
	b = binary.BigEndian.AppendUint32(b, noBuffer)
	b = binary.BigEndian.AppendUint32(b, portController)
	b = binary.BigEndian.AppendUint16(b, 32)
	b = append(b, 0, 0, 0, 0, 0, 0)

	b = binary.BigEndian.AppendUint16(b, actionSetField)
	b = binary.BigEndian.AppendUint16(b, 16)
	b = binary.BigEndian.AppendUint32(b, oxmBasic<<16|oxmTunnelID<<9|8)
	b = binary.BigEndian.AppendUint64(b, key)

	b = binary.BigEndian.AppendUint16(b, actionOutput)
	b = binary.BigEndian.AppendUint16(b, 16)
	b = binary.BigEndian.AppendUint32(b, port)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	return message{kind: typePacketOut, body: append(b, frame...)}
}

var errTruncated = errors.New("a packet-in message that ends too early")

// parsePacketIn reads the body of a packet-in message.
func parsePacketIn(b []byte) (Packet, error) {
	const fixed, pad = 16, 2
	if len(b) < fixed+4 {
		return Packet{}, errTruncated
	}
	p := Packet{Whole: int(binary.BigEndian.Uint16(b[4:]))}
	match := b[fixed:]
	size := int(binary.BigEndian.Uint16(match[2:])) // without the padding to 8 bytes
	padded := (size + 7) / 8 * 8
	if size < 4 || len(match) < padded+pad {
		return Packet{}, errTruncated
	}
	for fields := match[4:size]; len(fields) >= 4; {
		header := binary.BigEndian.Uint32(fields)
		n := int(header & 0xff)
		if len(fields) < 4+n {
			return Packet{}, errTruncated
		}
		value := fields[4 : 4+n]
		switch fields = fields[4+n:]; {
		case header>>9 == oxmBasic<<7|oxmInPort && n == 4:
			p.Port = int(binary.BigEndian.Uint32(value))
		case header>>9 == oxmBasic<<7|oxmTunnelID && n == 8:
			p.Key = binary.BigEndian.Uint64(value)
		}
	}
	p.Frame = match[padded+pad:]
	return p, nil
}

// parseError says what the switch refused.
func parseError(b []byte) string {
	if len(b) < 4 {
		return "an error without a type"
	}
	return fmt.Sprintf("error of type %d, code %d", binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
}
