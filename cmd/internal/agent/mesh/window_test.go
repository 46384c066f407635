package mesh

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// Whatever is lost, doubled or overtaken, both sides agree about what arrived.
func TestWindows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range testkit.Fewer(20, 5) {
		now := time.Unix(1000, 0)
		var s sender
		var r receiver
		there := map[uint32]bool{}
		var late []uint32
		for range 500 {
			now = now.Add(100 * time.Millisecond)
			seq := s.send(headerSize, now)
			switch rng.IntN(10) {
			case 0, 1: // lost
			case 2:
				late = append(late, seq)
			default:
				r.take(seq, headerSize, now)
				there[seq] = true
			}
			if len(late) > 3 {
				r.take(late[0], headerSize, now)
				there[late[0]] = r.highest-late[0] < windowSize
				late = late[1:]
			}
			s.judge(r.heard(), time.Time{}, 0, now, func(record) {})
			h := r.heard()
			for i := range h.count {
				require.Equal(t, there[h.highest-i], h.bits>>i&1 == 1)
				if x := s.find(h.highest - i); x != nil {
					require.Equal(t, there[x.seq], x.fate == arrived, "%+v", x)
				}
			}
		}
	}
}

func TestCount(t *testing.T) {
	now := time.Unix(1000, 0)
	var w window
	put := func(fates string) {
		w = window{}
		for i, f := range fates {
			w.put(record{
				momentOf(now.Add(time.Duration(i) * time.Second)), uint32(i + 1), 0,
				map[rune]fate{'.': arrived, 'x': lost, '?': pending}[f],
			})
		}
	}
	for _, c := range []struct {
		fates string
		want  counted
	}{
		{"", counted{}},
		{"....", counted{total: 4}},
		{"..xx..x?", counted{7, 3, 2, momentOf(now.Add(6 * time.Second)), 1}},
		{"xxx", counted{3, 3, 1, momentOf(now), 3}},
		{"x.x.x.", counted{total: 6, lost: 3, runs: 3}},
	} {
		put(c.fates)
		got := w.count(uint32(len(c.fates)), now)
		if got.lostLast == 0 {
			got.lostSince = 0
		}
		require.Equal(t, c.want, got, c.fates)
	}
	put("xx..")
	require.Equal(t, counted{}, w.count(4, now.Add(time.Hour)), "too old")
	require.EqualValues(t, unknown, counted{}.percent())
	require.EqualValues(t, 2, counted{total: 64, lost: 1}.percent())
}
