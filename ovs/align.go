package ovs

import "iter"

// alignReach is how far apart in two lists what is the same may be. Beyond that it is not
// found, which costs time and nothing else.
const alignReach = 24

// aligned finds what two lists of n and m have in common in the same order: pairs of
// indexes that both grow. Where the lists differ in little, it finds all of it.
func aligned(n, m int, same func(i, j int) bool) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		for i, j := 0, 0; i < n && j < m; i, j = i+1, j+1 {
			i, j = nextAligned(i, j, n, m, same)
			if i < n && j < m && same(i, j) && !yield(i, j) {
				return
			}
		}
	}
}

// nextAligned returns the next pair that is the same, by leaving out the fewest of one of
// the lists; or the pair given where there is none within reach.
func nextAligned(i, j, n, m int, same func(i, j int) bool) (int, int) {
	for k := range alignReach {
		if j+k < m && same(i, j+k) {
			return i, j + k
		}
		if i+k < n && same(i+k, j) {
			return i + k, j
		}
	}
	return i, j
}
