package mesh

// pathMTU finds the largest frame that passes to a peer. Frames of the size that
// the networks need are tried; where they are lost and small ones are not, the size
// is halved between what passes and what does not.
type pathMTU struct {
	// want is the size that is needed, in bytes of Ethernet frame; 0: none.
	want int
	// passes is the largest size that arrived, fails the smallest that did not; 0:
	// not known. passes is less than fails.
	passes, fails int
	// size is what is tried now, misses how many of it were lost in a row.
	size, misses int
	// healing counts frames of the size that is needed that arrived while fails is set,
	// confirmed those that were lost after the search.
	healing, confirmed int
	// again: the next to try is what passed, which may have become too large.
	again bool
}

const (
	// missesToFail is how many frames of one size must be lost, and none arrive, before
	// the size is held for the reason.
	missesToFail = 4
	// passesToHeal is how many frames of a size that failed must arrive.
	passesToHeal = 2
	// lossesToConfirm is how many frames of the size that is needed must be lost once more
	// where all smaller ones passed: what was lost of it may have been lost by chance.
	lossesToConfirm = 2
)

// need sets the size that is needed.
func (m *pathMTU) need(size int) {
	if size != m.want {
		*m = pathMTU{want: size}
	}
}

// next is the size to try.
func (m *pathMTU) next() int {
	if m.searching() {
		return (m.passes + m.fails) / 2
	}
	if m.again = !m.again && m.fails > 0; m.again {
		return m.passes
	}
	return m.want
}

// suspicious reports whether frames should be sent at a faster pace.
func (m *pathMTU) suspicious() bool {
	return m.searching() || m.unconfirmed() || m.misses > 0 || m.healing > 0
}

// searching reports whether sizes between passes and fails are to be tried.
func (m *pathMTU) searching() bool { return m.fails > 0 && m.fails-m.passes > 1 }

// found reports whether it is known that frames of the needed size do not pass, and
// which is the largest that does.
func (m *pathMTU) found() (passes int, smaller bool) {
	return m.passes, m.fails > 0 && !m.searching() && !m.unconfirmed()
}

// unconfirmed reports whether the search has found nothing but the size that it began with.
func (m *pathMTU) unconfirmed() bool {
	return m.fails > 0 && m.fails == m.want && m.confirmed < lossesToConfirm
}

// tried takes what became of a frame.
func (m *pathMTU) tried(size int, ok bool) {
	switch {
	case !ok && size > m.want: // nobody needs that much
		return
	case !ok && m.fails > 0 && size >= m.fails:
		m.healing = 0 // as is known
		if !m.searching() {
			m.confirmed++
		}
		return
	}
	if m.size != size {
		m.size, m.misses = size, 0
	}
	if !ok {
		if m.misses++; m.misses >= missesToFail {
			m.misses = 0
			m.tooLarge(size)
		}
		return
	}
	m.misses = 0
	switch {
	case m.fails == 0 || size < m.fails:
		m.passes = max(m.passes, size)
	case size < m.want:
		m.passes, m.fails = size, 0 // it passes after all: from the beginning
	default:
		if m.healing++; m.healing >= passesToHeal {
			*m = pathMTU{want: m.want, passes: size}
		}
	}
}

// tooLarge notes that a size does not pass.
func (m *pathMTU) tooLarge(size int) {
	if m.fails > 0 && size >= m.fails {
		return
	}
	m.fails, m.confirmed = size, 0
	if m.passes == 0 || m.passes >= size { // what passed before passes no more, perhaps
		m.passes = min(headerSize, size-1)
	}
}
