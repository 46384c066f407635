package mesh

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func sampleFrame() frame {
	return frame{
		kind: kindAnswer, stream: large, length: 300, from: 1 << 63, to: 2, life: 3, seq: 4, answers: 5, answersStream: large,
		heardLife: 6, heard: [streams]heard{{7, 8, 9}, {1 << 31, windowSize, 1<<64 - 1}},
	}
}

func TestFrame(t *testing.T) {
	want := sampleFrame()
	b := want.encode()
	require.Len(t, b, 300)
	got, err := decode(b)
	require.NoError(t, err)
	require.Len(t, got.body, 300-headerSize)
	got.body = nil
	require.Equal(t, want, got)

	row := frame{kind: kindRow, body: []byte{1, 2, 3}, length: headerSize + 3}
	got, err = decode(append(row.encode(), 0, 0, 0)) // Ethernet pads
	require.NoError(t, err)
	require.Equal(t, row.body, got.body)
}

// What is no whole frame of this version is refused.
func TestFrameRefused(t *testing.T) {
	whole := sampleFrame().encode()
	for name, b := range map[string][]byte{
		"empty": nil, "short": whole[:headerSize-1], "cut": whole[:299],
		"another EtherType": change(whole, 12, 0x08), "another version": change(whole, 14, 2),
		"no kind": change(whole, 15, 0), "a kind that is not known": change(whole, 15, 9),
		"a stream that is not known": change(whole, 16, 2), "another answered": change(whole, 52, 2),
		"a length below the header's": change(change(whole, 18, 0), 19, 10),
	} {
		_, err := decode(b)
		require.Error(t, err, name)
	}
}

func change(b []byte, at int, to byte) []byte {
	out := append([]byte(nil), b...)
	out[at] = to
	return out
}

func TestEntries(t *testing.T) {
	want := []entry{
		{peer: 1 << 60, encap: topology.Geneve, verdict: Lossy, lossOut: 20, lossIn: unknown, rtt: 1500, passes: 1450},
		{peer: 2, encap: topology.Route, verdict: Good, rtt: 1<<32 - 1},
		{peer: 3, encap: "", verdict: Unknown},
	}
	b := encodeEntries(want)
	require.Equal(t, want, decodeEntries(b, 10))
	require.Equal(t, want[:2], decodeEntries(b, 2))
	require.Equal(t, want[:1], decodeEntries(b[:2*entrySize-1], 10))
	b[8], b[9] = 200, 200
	require.Equal(t, entry{peer: 1 << 60, lossOut: 20, lossIn: unknown, rtt: 1500, passes: 1450}, decodeEntries(b, 1)[0],
		"of a newer version")
}

// Whatever comes out of a tunnel, nothing panics, and what is taken is what was sent.
func FuzzReceive(f *testing.F) {
	f.Add(sampleFrame().encode())
	p := frame{kind: kindProbe, length: headerSize, from: hashOf("host2"), to: hashOf("host1"), life: 7, seq: 1 << 31}
	f.Add(p.encode())
	p.kind, p.seq = kindAsk, 1<<32-1
	f.Add(p.encode())
	p.kind, p.heardLife, p.heard = kindAnswer, 1<<32|1, [streams]heard{{1<<32 - 1, 1<<32 - 1, 1}, {1, 0, 0}}
	f.Add(p.encode())
	l := newLinks(f, 2)
	f.Fuzz(func(t *testing.T, b []byte) {
		e := l.engines[0]
		for range 2 {
			out, _, _, err := e.receive(2, b, l.now)
			if err != nil {
				require.Empty(t, out)
			}
			require.LessOrEqual(t, len(out), 1)
			for _, o := range out {
				_, err := decode(o.frame)
				require.NoError(t, err)
			}
			e.turn(l.now)
			e.results(l.now)
		}
	})
}
