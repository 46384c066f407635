package mesh

import "time"

// windowSize is how many frames of a stream are remembered: as many as one word of
// bits can tell of.
const windowSize = 64

// maxAge is how long what became of a frame counts: what was an hour ago says
// nothing about now.
const maxAge = 5 * time.Minute

// fate is what became of a frame.
type fate uint8

const (
	nothing fate = iota // not sent, or nobody can tell
	pending
	lost
	arrived
)

// moment is a time in a third of the space of a time.Time: there are hundreds of
// records for each peer.
type moment int64

var epoch = time.Now()

func momentOf(t time.Time) moment { return moment(t.Sub(epoch)) }

// age is how long ago it was.
func (m moment) age(now time.Time) time.Duration { return time.Duration(momentOf(now) - m) }

// record is one frame of a stream.
type record struct {
	at   moment
	seq  uint32
	size uint16
	fate fate
}

// window remembers the last frames of a stream, in one direction.
type window struct{ records [windowSize]record }

func (w *window) slot(seq uint32) *record { return &w.records[seq%windowSize] }

// find returns the record of a frame; nil where it is forgotten.
func (w *window) find(seq uint32) *record {
	if r := w.slot(seq); r.fate != nothing && r.seq == seq {
		return r
	}
	return nil
}

func (w *window) put(r record) { *w.slot(r.seq) = r }

// counted is what a window says of a direction.
type counted struct {
	total, lost int
	// runs are how many times frames were lost in a row: an interruption is one run,
	// whatever its length, and a lossy link is many.
	runs int
	// lostSince is when the first of the frames that were lost without one that
	// arrived after them was sent, lostLast how many these are.
	lostSince moment
	lostLast  int
}

// count goes through the frames whose fate is known and that are not too old.
// newest is the highest number there is.
func (w *window) count(newest uint32, now time.Time) counted {
	var c counted
	inRun := false
	for i := windowSize - 1; i >= 0; i-- {
		r := w.find(newest - uint32(i))
		if r == nil || r.fate == pending || r.at.age(now) > maxAge {
			continue
		}
		c.total++
		if r.fate == arrived {
			inRun, c.lostLast = false, 0
			continue
		}
		if c.lost++; !inRun {
			c.runs++
		}
		inRun = true
		if c.lostLast++; c.lostLast == 1 {
			c.lostSince = r.at
		}
	}
	return c
}

// percent is the share of frames that were lost, rounded up to whole percents;
// unknown where there are none.
func (c counted) percent() uint8 {
	if c.total == 0 {
		return unknown
	}
	return uint8((100*c.lost + c.total - 1) / c.total)
}

// sender is one stream to a peer.
type sender struct {
	window
	next uint32 // the number of the next frame; the first is 1
}

// send notes a frame and returns its number.
func (s *sender) send(size int, now time.Time) uint32 {
	s.next++
	s.put(record{momentOf(now), s.next, uint16(size), pending})
	return s.next
}

// judge takes what the peer says came to it. since is when the peer's present life
// began, as far as is known here: of frames before it the peer knows nothing.
// Frames younger than grace may still be on their way. fates is called with every
// frame whose fate was not known before.
func (s *sender) judge(h heard, since time.Time, grace time.Duration, now time.Time, fates func(record)) {
	for i := range s.records {
		r := &s.records[i]
		if r.fate == nothing || r.fate == arrived {
			continue
		}
		back := h.highest - r.seq // of those that are newer, a very large number
		switch {
		case h.count > 0 && back < h.count && h.bits>>back&1 == 1:
			r.fate = arrived
		case r.fate == lost || r.at.age(now) < grace || r.at < momentOf(since):
			continue
		case h.count > 0 && back >= h.count && r.seq <= h.highest:
			continue // the peer does not remember as far back
		default:
			r.fate = lost
		}
		fates(*r)
	}
}

// receiver is one stream from a peer.
type receiver struct {
	window
	// covered are how many numbers up to the highest it knows of.
	highest, covered uint32
}

// take notes a frame of the peer, and those before it that are missing. It reports
// how many these are.
func (r *receiver) take(seq uint32, size int, now time.Time) (missing int) {
	if r.covered == 0 || seq-r.highest > 1<<16 && r.highest-seq > 1<<16 { // the first, or out of all order
		*r = receiver{highest: seq, covered: 1}
		r.put(record{momentOf(now), seq, uint16(size), arrived})
		return 0
	}
	if ahead := seq - r.highest; ahead != 0 && ahead <= 1<<16 {
		for gap := max(r.highest+1, seq-min(ahead, windowSize)+1); gap != seq; gap++ {
			r.put(record{momentOf(now), gap, 0, lost})
			missing++
		}
		r.highest, r.covered = seq, min(r.covered+ahead, windowSize)
		r.put(record{momentOf(now), seq, uint16(size), arrived})
		return missing
	}
	if old := r.find(seq); old != nil { // late
		old.fate = arrived
	}
	return 0
}

// heard is what the peer is told.
func (r *receiver) heard() heard {
	h := heard{highest: r.highest, count: r.covered}
	for i := range r.covered {
		if x := r.find(r.highest - i); x != nil && x.fate == arrived {
			h.bits |= 1 << i
		}
	}
	return h
}
