package capture

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

func listen(t *testing.T) *Receiver {
	t.Helper()
	r, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// accepted accepts in the background.
func accepted(t *testing.T, r *Receiver) chan *Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	out := make(chan *Stream, 1)
	go func() {
		s, _ := r.Accept(ctx)
		out <- s
	}()
	return out
}

// agent plays the other end: its clock is ahead, and it sends two packets.
func agent(t *testing.T, s *Sender, ahead time.Duration) (stopped chan bool) {
	t.Helper()
	stopped = make(chan bool, 1)
	go func() {
		for {
			var m message
			if s.in.Decode(&m) != nil {
				return
			}
			if m.Start {
				break
			}
			_ = s.send(message{Echo: m.Echo, Time: time.Now().Add(ahead).UnixNano()}, true)
		}
		for i := range 2 {
			_ = s.send(message{Packet: &Packet{Length: i, Time: time.Now().Add(ahead), Data: []byte{1, 2}}}, false)
		}
		_ = s.send(message{}, true)
		var m message
		err := s.in.Decode(&m)
		_ = s.send(message{Packet: &Packet{Length: 2}}, true)
		_ = s.send(message{Counts: &Counts{Captured: 3, Lost: 4}}, true)
		stopped <- err == nil && m.Stop
	}()
	return stopped
}

// Packets come by the time of who asks, and who is told to stop says how many there were.
func TestStream(t *testing.T) {
	r := listen(t)
	streams := accepted(t, r)
	s, err := Dial(t.Context(), r.Request("c1", wide, time.Minute))
	require.NoError(t, err)
	defer s.Close()
	stopped := agent(t, s, time.Hour)
	stream := <-streams
	require.NotNil(t, stream)
	require.InDelta(t, time.Hour, stream.Ahead, float64(time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []Packet
	counts, err := stream.Run(ctx, func(p Packet) {
		if got = append(got, p); len(got) == 2 {
			cancel()
		}
	})
	require.NoError(t, err)
	require.True(t, <-stopped)
	require.Equal(t, Counts{Captured: 3, Lost: 4}, counts)
	require.Len(t, got, 3, "what was on its way when it was stopped comes as well")
	require.WithinDuration(t, time.Now(), got[1].Time, time.Minute)
	require.Equal(t, []byte{1, 2}, got[1].Data)
}

// An agent that is gone, and its connection with it, is an error and no end.
func TestStreamBreaks(t *testing.T) {
	r := listen(t)
	streams := accepted(t, r)
	s, err := Dial(t.Context(), r.Request("c1", wide, time.Minute))
	require.NoError(t, err)
	agent(t, s, 0)
	stream := <-streams
	require.NotNil(t, stream)
	require.Zero(t, stream.Ahead, "less than can be measured is nothing")
	_, err = stream.Run(t.Context(), func(Packet) { _ = s.Close() })
	require.ErrorContains(t, err, "the connection ended")
}

// Only the agent that was asked is let in, and it sends to nobody but who asked.
func TestStreamStrangers(t *testing.T) {
	r := listen(t)
	streams := accepted(t, r)
	req := r.Request("c1", wide, time.Minute)

	wrong := req
	wrong.Certificate = make([]byte, len(req.Certificate))
	_, err := Dial(t.Context(), wrong)
	require.ErrorContains(t, err, "another certificate")

	wrong = req
	wrong.Token = "guessed"
	s, err := Dial(t.Context(), wrong)
	require.NoError(t, err)
	require.Error(t, json.NewDecoder(s.conn).Decode(&message{}), "it is hung up on")
	_ = s.Close()

	// One that says too much is not listened to.
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", req.To.String())
	require.NoError(t, err)
	_, err = conn.Write([]byte(`{"token":"` + strings.Repeat("x", 4*mostHello)))
	require.NoError(t, err)
	require.Error(t, json.NewDecoder(conn).Decode(&message{}))
	_ = conn.Close()

	s, err = Dial(t.Context(), req)
	require.NoError(t, err)
	defer s.Close()
	agent(t, s, 0)
	require.NotNil(t, <-streams)
	_, err = Dial(t.Context(), req)
	require.ErrorContains(t, err, "cannot be reached", "the place is closed when the agent is there")
}

func TestRequestCheck(t *testing.T) {
	good := listen(t).Request("c1", Options{SnapLen: 100, Rate: 10}, time.Minute)
	require.NoError(t, good.Check())
	require.Equal(t, 60, good.Seconds)
	for _, change := range []func(*Request){
		func(r *Request) { r.Options.SnapLen = 0 },
		func(r *Request) { r.Options.SnapLen = MaxSnapLen + 1 },
		func(r *Request) { r.Options.Rate = MaxRate + 1 },
		func(r *Request) { r.Options.Rate = 0 },
		func(r *Request) { r.Seconds = 0 },
		func(r *Request) { r.Seconds = 1 << 40 },
		func(r *Request) { r.To = netip.AddrPort{} },
		func(r *Request) { r.Token = "" },
		func(r *Request) { r.Certificate = []byte{1} },
	} {
		r := good
		change(&r)
		require.Error(t, r.Check(), "%+v", r)
	}
}
