package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// What is in a probe. Every number is big-endian.
//
//	 0  destination and source MAC, EtherType (pipeline.ProbeEtherType)
//	14  version, kind, stream, 0
//	18  length of the whole frame as it was sent
//	20  hash of the sender's name; 28 of the receiver's
//	36  life of the sender: a number drawn when its agent started
//	44  sequence number in the stream
//	48  sequence number that is answered; 52 its stream; 53 0
//	54  life of the receiver that the next fields are about
//	62  heard in each of the two streams: highest number, count, bits (16 bytes each)
//	94  the body, of a row; or zeros up to the length
//
// A sender numbers what it sends to one peer in one stream, and every frame says
// what of the other side's frames came here. So each side learns which of its own
// frames arrived from whatever comes back, and sees what is lost on the way here by
// itself: the two directions are told apart.
const (
	version    = 1
	headerSize = 94
	ethernet   = 14
	// maxFrame is what a length of 16 bits can say, and more than any link carries.
	maxFrame = 0xffff
)

// kind is what a frame is for.
type kind uint8

const (
	kindProbe  kind = 1 // to be answered at once
	kindAnswer kind = 2
	kindAsk    kind = 3 // for a part of the receiver's row; seq is its first entry
	kindRow    kind = 4 // the part; seq is its first entry, answers how many the row has
)

// stream says which frames are counted together.
type stream uint8

const (
	small   stream = 0 // of the least size: they tell loss and latency
	large   stream = 1 // of all other sizes: they tell what passes
	streams        = 2
)

// heard says which frames of the other side's stream came here: the highest number,
// and of the count numbers up to it those whose bit is set, the highest first.
type heard struct {
	highest, count uint32
	bits           uint64
}

// frame is a probe, or an answer.
type frame struct {
	kind          kind
	stream        stream
	length        int
	from, to      uint64
	life          uint64
	seq           uint32
	answers       uint32
	answersStream stream
	heardLife     uint64
	heard         [streams]heard
	body          []byte
}

// hashOf is what frames call a node: 64-bit FNV-1a of its name.
func hashOf(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node))
	return h.Sum64()
}

// encode returns the frame, padded to its length.
func (f frame) encode() []byte {
	b := make([]byte, 0, max(f.length, headerSize+len(f.body)))
	// Some links choose among paths by a hash of what is inside: the source differs
	// from probe to probe, so that all paths are tried.
	b = append(b, 0x02, 0xba, 0x12, 0xe0, 0, 0)
	b = append(b, 0x02, 0xba, 0x12, 0xe1, byte(f.seq>>8), byte(f.seq))
	b = binary.BigEndian.AppendUint16(b, pipeline.ProbeEtherType)
	b = append(b, version, byte(f.kind), byte(f.stream), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(cap(b)))
	b = binary.BigEndian.AppendUint64(b, f.from)
	b = binary.BigEndian.AppendUint64(b, f.to)
	b = binary.BigEndian.AppendUint64(b, f.life)
	b = binary.BigEndian.AppendUint32(b, f.seq)
	b = binary.BigEndian.AppendUint32(b, f.answers)
	b = append(b, byte(f.answersStream), 0)
	b = binary.BigEndian.AppendUint64(b, f.heardLife)
	for _, h := range f.heard {
		b = binary.BigEndian.AppendUint32(b, h.highest)
		b = binary.BigEndian.AppendUint32(b, h.count)
		b = binary.BigEndian.AppendUint64(b, h.bits)
	}
	b = append(b, f.body...)
	return b[:cap(b)]
}

var errNoProbe = errors.New("no probe")

// decode reads a frame. One that is shorter than it says is refused: a part of it
// did not arrive. Versions that are not known are as well.
func decode(b []byte) (frame, error) {
	if len(b) < headerSize || binary.BigEndian.Uint16(b[12:]) != pipeline.ProbeEtherType {
		return frame{}, errNoProbe
	}
	f := frame{
		kind: kind(b[15]), stream: stream(b[16]), length: int(binary.BigEndian.Uint16(b[18:])),
		from: binary.BigEndian.Uint64(b[20:]), to: binary.BigEndian.Uint64(b[28:]), life: binary.BigEndian.Uint64(b[36:]),
		seq: binary.BigEndian.Uint32(b[44:]), answers: binary.BigEndian.Uint32(b[48:]), answersStream: stream(b[52]),
		heardLife: binary.BigEndian.Uint64(b[54:]),
	}
	switch {
	case b[14] != version:
		return frame{}, fmt.Errorf("a probe of version %d", b[14])
	case f.stream >= streams || f.answersStream >= streams || f.kind < kindProbe || f.kind > kindRow:
		return frame{}, errNoProbe
	case f.length < headerSize || f.length > len(b):
		return frame{}, fmt.Errorf("a probe of %d bytes, of which %d arrived", f.length, len(b))
	}
	for i := range f.heard {
		at := b[62+16*i:]
		f.heard[i] = heard{
			binary.BigEndian.Uint32(at), min(binary.BigEndian.Uint32(at[4:]), windowSize), binary.BigEndian.Uint64(at[8:]),
		}
	}
	f.body = b[headerSize:f.length]
	return f, nil
}

// entry is one pair in a row: what a node knows of the way to one of its peers.
type entry struct {
	peer    uint64
	encap   topology.Transport
	verdict Verdict
	// lossOut and lossIn are in percent, unknown where nothing was counted.
	lossOut, lossIn uint8
	// rtt is in microseconds, 0 where not known.
	rtt uint32
	// passes is the largest IP packet of an endpoint that was proven to pass, in
	// bytes; 0 where not known.
	passes uint16
}

const (
	entrySize = 18
	// rowPart is how many entries go in one frame: it has to pass where little does.
	rowPart = 24
	unknown = 0xff
)

// encaps numbers the encapsulations for entries; a number is never given to another.
var encaps = [...]topology.Transport{1: topology.VXLAN, 2: topology.GRE, 3: topology.Geneve, 4: topology.Route}

func encodeEntries(list []entry) []byte {
	out := make([]byte, 0, entrySize*len(list))
	for _, e := range list {
		out = binary.BigEndian.AppendUint64(out, e.peer)
		code := byte(0)
		for i, t := range encaps {
			if t != "" && t == e.encap {
				code = byte(i)
			}
		}
		out = append(out, code, byte(e.verdict), e.lossOut, e.lossIn)
		out = binary.BigEndian.AppendUint32(out, e.rtt)
		out = binary.BigEndian.AppendUint16(out, e.passes)
	}
	return out
}

// decodeEntries reads at most n entries; an encapsulation that is not known is empty.
func decodeEntries(b []byte, n int) []entry {
	var out []entry
	for ; len(b) >= entrySize && len(out) < n; b = b[entrySize:] {
		e := entry{
			peer: binary.BigEndian.Uint64(b), verdict: Verdict(b[9]), lossOut: b[10], lossIn: b[11],
			rtt: binary.BigEndian.Uint32(b[12:]), passes: binary.BigEndian.Uint16(b[16:]),
		}
		if int(b[8]) < len(encaps) {
			e.encap = encaps[b[8]]
		}
		if e.verdict > verdictLast {
			e.verdict = Unknown
		}
		out = append(out, e)
	}
	return out
}
