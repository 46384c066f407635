package draw

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// maxNames is how many characters names may take in a line.
const maxNames = 90

// lastNumber is a name around its last number.
var lastNumber = regexp.MustCompile(`^(.*?)([0-9]+)([^0-9]*)$`)

// series are names that differ in a number: what is around it, and the numbers.
type series struct {
	before, after string
	ranges        [][2]string // first and last; none in a name without a number
}

func (s series) String() string {
	parts := make([]string, len(s.ranges))
	for i, r := range s.ranges {
		parts[i] = r[0]
		if r[0] != r[1] {
			parts[i] += "-" + r[1]
		}
	}
	list := strings.Join(parts, ",")
	if strings.ContainsAny(list, "-,") {
		list = "[" + list + "]"
	}
	return s.before + list + s.after
}

// follows reports whether a number comes right after another of the same writing:
// 10 after 9, 010 after 009.
func follows(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 63)
	y, errY := strconv.ParseUint(b, 10, 63)
	return errX == nil && errY == nil && y == x+1 && fmt.Sprintf("%0*d", len(a), y) == b
}

// foldNames writes sorted names in few characters, those that differ in a number as
// one: host[1-3,7]. Those that have no room in width characters are counted; the
// first one is always there.
func foldNames(names []string, width int) string {
	text := func(shown int) string {
		out := strings.Join(fold(names[:shown]), ", ")
		if more := len(names) - shown; more > 0 {
			out += fmt.Sprintf(" and %d more", more)
		}
		return out
	}
	if len(names) == 0 || len(text(len(names))) <= width {
		return text(len(names))
	}
	// The more names, the longer: how many are too many by one?
	tooMany := sort.Search(len(names), func(n int) bool { return len(text(n+1)) > width })
	return text(max(tooMany, 1))
}

func fold(names []string) []string {
	var all []*series
	for _, name := range names {
		s := &series{before: name}
		if m := lastNumber.FindStringSubmatch(name); m != nil {
			s = &series{before: m[1], after: m[3], ranges: [][2]string{{m[2], m[2]}}}
		}
		if len(all) == 0 || !all[len(all)-1].take(s) {
			all = append(all, s)
		}
	}
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = s.String()
	}
	return out
}

// take adds what another series of one name has, if both are of one series.
func (s *series) take(other *series) bool {
	if len(s.ranges) == 0 || len(other.ranges) == 0 || s.before != other.before || s.after != other.after {
		return false
	}
	if last := &s.ranges[len(s.ranges)-1]; follows(last[1], other.ranges[0][0]) {
		last[1] = other.ranges[0][1]
	} else {
		s.ranges = append(s.ranges, other.ranges...)
	}
	return true
}
