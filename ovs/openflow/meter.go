package openflow

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Meters are not part of bundles, and ovs-ofctl changes one at a time: a command for
// each endpoint would hold up the flows of a whole node after a restart of
// ovs-vswitchd. So these few messages are sent here. What they have is in the OpenFlow
// Switch Specification 1.4.0, sections 7.3.4.4, 7.3.5.13 and 7.3.5.14.

const (
	meterAdd, meterModify, meterDelete = 0, 1, 2

	// Flags of meters: rate in packets, burst size given, counted.
	meterRate, meterBurst, meterStats = 1 << 1, 1 << 2, 1 << 3
	meterFlags                        = meterRate | meterBurst | meterStats
	bandDrop                          = 1
	bandSize                          = 16

	multipartMeter       = 9
	multipartMeterConfig = 10
	allMeters            = 0xffffffff

	unknownMeter = 4 // of meter mod failed: one to delete that is gone
	errMeterMod  = 12
)

// Meters reads the bridge's meters, those of others included.
func (c *Client) Meters(ctx context.Context) ([]ovs.BoundMeter, error) {
	var out []ovs.BoundMeter
	err := c.ofMeters(ctx, multipartMeterConfig, func(body []byte) int {
		m, size := parseMeter(body)
		if size > 0 {
			out = append(out, m)
		}
		return size
	})
	return out, err
}

// MeterDrops returns how many frames each meter has dropped, by its number.
func (c *Client) MeterDrops(ctx context.Context) (map[uint32]uint64, error) {
	out := map[uint32]uint64{}
	err := c.ofMeters(ctx, multipartMeter, func(body []byte) int {
		id, drops, size := parseMeterStats(body)
		if size > 0 {
			out[id] = drops
		}
		return size
	})
	return out, err
}

// ofMeters asks for something of all meters. one takes an entry from the front of an
// answer and returns its size, 0 where it is none.
func (c *Client) ofMeters(ctx context.Context, what uint16, one func([]byte) int) error {
	request := make([]byte, 8)
	binary.BigEndian.PutUint32(request, allMeters)
	return c.multipart(ctx, what, request, c.meterRefusal, one)
}

// parseMeter reads ofp_meter_config.
func parseMeter(b []byte) (m ovs.BoundMeter, size int) {
	if len(b) < 8 {
		return m, 0
	}
	if size = int(binary.BigEndian.Uint16(b)); size < 8 || size > len(b) {
		return m, 0
	}
	m.ID = binary.BigEndian.Uint32(b[4:])
	m.Other = binary.BigEndian.Uint16(b[2:]) != meterFlags || size != 8+bandSize
	if !m.Other {
		band := b[8:]
		m.Rate = int(binary.BigEndian.Uint32(band[4:]))
		m.Other = binary.BigEndian.Uint16(band) != bandDrop || m.Rate != int(binary.BigEndian.Uint32(band[8:]))
	}
	return m, size
}

// parseMeterStats reads ofp_meter_stats: 40 bytes, and for each band packets and
// bytes.
func parseMeterStats(b []byte) (id uint32, drops uint64, size int) {
	const head, band = 40, 16
	if len(b) < head {
		return 0, 0, 0
	}
	if size = int(binary.BigEndian.Uint16(b[4:])); size < head || size > len(b) {
		return 0, 0, 0
	}
	for i := head; i+band <= size; i += band {
		drops += binary.BigEndian.Uint64(b[i:])
	}
	return binary.BigEndian.Uint32(b), drops, size
}

// SetMeters adds and changes meters, in one connection. A refusal is a
// *topology.Error of kind ErrInvalid; those before it are set then.
func (c *Client) SetMeters(ctx context.Context, add, change []ovs.BoundMeter) error {
	mods := make([]message, 0, len(add)+len(change))
	for _, m := range add {
		mods = append(mods, meterMod(meterAdd, meterFlags, m.ID, uint32(m.Rate), uint32(m.Rate)))
	}
	for _, m := range change {
		mods = append(mods, meterMod(meterModify, meterFlags, m.ID, uint32(m.Rate), uint32(m.Rate)))
	}
	return c.modMeters(ctx, mods)
}

// DeleteMeters deletes meters, and with them the flows that use them. One that is not
// there is no error.
func (c *Client) DeleteMeters(ctx context.Context, ids []uint32) error {
	mods := make([]message, 0, len(ids))
	for _, id := range ids {
		mods = append(mods, meterMod(meterDelete, meterFlags, id, 0, 0))
	}
	return c.modMeters(ctx, mods)
}

// meterMod is ofp_meter_mod: what is above rate packets a second, and burst at once, is
// dropped.
func meterMod(command, flags uint16, id, rate, burst uint32) message {
	b := binary.BigEndian.AppendUint16(nil, command)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	if command != meterDelete {
		b = binary.BigEndian.AppendUint16(b, bandDrop)
		b = binary.BigEndian.AppendUint16(b, bandSize)
		b = binary.BigEndian.AppendUint32(b, rate)
		b = binary.BigEndian.AppendUint32(b, burst)
		b = append(b, 0, 0, 0, 0)
	}
	return message{kind: typeMeterMod, body: b}
}

func (c *Client) modMeters(ctx context.Context, mods []message) error {
	if len(mods) == 0 {
		return nil
	}
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, m := range mods {
		if err := s.send(m); err != nil {
			return c.unreachable(err)
		}
	}
	if err := s.send(message{kind: typeBarrierRequest}); err != nil {
		return c.unreachable(err)
	}
	var refused error
	for {
		m, err := s.receive()
		switch {
		case err != nil:
			return c.unreachable(err)
		case m.kind == typeBarrierReply:
			return refused
		case m.kind == typeError && len(m.body) >= 4:
			class, code := binary.BigEndian.Uint16(m.body), binary.BigEndian.Uint16(m.body[2:])
			if class != errMeterMod || code != unknownMeter {
				refused = c.meterRefusal(fmt.Sprintf("error type %d, code %d (OpenFlow 1.4 section 7.4.4)", class, code))
			}
		}
	}
}

func (c *Client) meterRefusal(what string) error {
	return &topology.Error{
		Kind: topology.ErrInvalid, Code: fault.NoMeters, Item: "bridge " + c.cfg.Bridge,
		What: "a meter is refused: " + strings.TrimSpace(what),
	}
}
