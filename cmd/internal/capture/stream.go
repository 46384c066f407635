package capture

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

// A capture on another host: who asks listens, for this one capture, and tells that host's
// agent by way of etcd where, with the fingerprint of its certificate and a token that is
// drawn for it. The agent connects, and the packets come by that connection, a line of
// JSON each. It ends with the connection, so with the process at either end.

// QuestionKind is the kind of the question; its arguments are a Request, its answer the
// api.Point.
const QuestionKind = "capture"

// Request asks an agent for a capture.
type Request struct {
	// Name is the point's on that node.
	Name    string  `json:"name"`
	Options Options `json:"options"`
	// Seconds is how long the capture may take.
	Seconds int `json:"seconds"`
	// To is where the agent connects, Certificate the SHA-256 of the certificate there.
	To          netip.AddrPort `json:"to"`
	Certificate []byte         `json:"certificate"`
	// Token shows there who comes.
	Token string `json:"token"`
}

// Check refuses a request that is out of bounds.
func (r Request) Check() error {
	var what string
	switch o := r.Options; {
	case o.SnapLen < 1 || o.SnapLen > MaxSnapLen:
		what = fmt.Sprintf("a length of %d bytes", o.SnapLen)
	case o.Rate < 1 || o.Rate > MaxRate:
		what = fmt.Sprintf("a rate of %d packets a second", o.Rate)
	case r.Seconds < 1 || r.Seconds > int(MaxDuration/time.Second):
		what = fmt.Sprintf("a time of %d seconds", r.Seconds)
	case !r.To.IsValid() || len(r.Certificate) != sha256.Size || r.Token == "":
		what = "no place to send the packets to"
	default:
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrInvalid, Item: "capture", What: "it asks for " + what,
		Remedy: "use 'baize capture' of this version",
	}
}

// message is a line of the connection.
type message struct {
	// Token is the agent's first word.
	Token string `json:"token,omitempty"`
	// Echo is answered with itself and Time, the other clock's, both in nanoseconds.
	Echo int64 `json:"echo,omitempty"`
	Time int64 `json:"time,omitempty"`
	// Start and Stop are what the asker says.
	Start bool `json:"start,omitempty"`
	Stop  bool `json:"stop,omitempty"`
	// Packet is one; Counts and Error are the end.
	Packet *Packet `json:"packet,omitempty"`
	Counts *Counts `json:"counts,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Times of a connection.
const (
	dialTimeout   = 3 * time.Second
	greetTimeout  = 10 * time.Second
	writeTimeout  = 10 * time.Second
	flushInterval = 100 * time.Millisecond
	stopTimeout   = 2 * time.Second
	echoes        = 8
)

// mostHello is how long the agent's first word may be, in bytes.
const mostHello = 512

// Receiver waits for the packets of one capture on another host.
type Receiver struct {
	listener    net.Listener
	fingerprint [sha256.Size]byte
	token       string
}

// Listen opens the place where the packets will come, at an address of this host, and a
// port of it, or any for 0.
func Listen(ctx context.Context, at netip.AddrPort) (*Receiver, error) {
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "capture at " + at.String(), What: fmt.Sprintf("cannot listen: %v", err),
			Remedy: "name another port with --listen-port",
		}
	}
	return &Receiver{
		listener: tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		}),
		fingerprint: sha256.Sum256(cert.Certificate[0]), token: rand.Text(),
	}, nil
}

// certificate makes one that is known by its fingerprint only, for one capture.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(2 * MaxDuration)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// Request is the one that makes an agent connect.
func (r *Receiver) Request(name string, o Options, d time.Duration) Request {
	to, _ := netip.ParseAddrPort(r.listener.Addr().String())
	return Request{
		Name: name, Options: o, Seconds: int((d + time.Second - 1) / time.Second), To: to, Certificate: r.fingerprint[:],
		Token: r.token,
	}
}

// Close ends it.
func (r *Receiver) Close() error { return r.listener.Close() }

// callers is how many may try at the same time to be the agent that is waited for.
const callers = 8

// Accept waits for the agent, until ctx ends, and then closes the place to others.
func (r *Receiver) Accept(ctx context.Context) (*Stream, error) {
	defer r.listener.Close()
	streams := make(chan *Stream, 1)
	room := make(chan struct{}, callers)
	go func() {
		for {
			conn, err := r.listener.Accept()
			if err != nil {
				return
			}
			select {
			case room <- struct{}{}:
			default:
				_ = conn.Close()
				continue
			}
			go func() {
				defer func() { <-room }()
				s, err := r.greet(conn)
				if err == nil {
					select {
					case streams <- s:
						return
					default:
					}
				}
				_ = conn.Close()
			}()
		}
	}()
	select {
	case s := <-streams:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// greet lets in who has the token, and compares the clocks.
func (r *Receiver) greet(conn net.Conn) (*Stream, error) {
	if err := conn.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return nil, err
	}
	s := &Stream{conn: conn, in: json.NewDecoder(bufio.NewReader(conn)), out: json.NewEncoder(conn)}
	var hello message
	// Who it is shows first; until then it gets little room.
	if err := json.NewDecoder(io.LimitReader(conn, mostHello)).Decode(&hello); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(hello.Token), []byte(r.token)) != 1 {
		return nil, errors.New("another token")
	}
	for range echoes {
		began := time.Now()
		if err := s.out.Encode(message{Echo: began.UnixNano()}); err != nil {
			return nil, err
		}
		var answer message
		if err := s.in.Decode(&answer); err != nil {
			return nil, err
		}
		s.compare(began, time.Now(), answer.Time)
	}
	return s, conn.SetDeadline(time.Time{})
}

// Stream is the capture of another host.
type Stream struct {
	conn net.Conn
	in   *json.Decoder
	out  *json.Encoder
	// Ahead is how far the other clock is ahead of this one, give or take Within. What is
	// less than that is taken for nothing.
	Ahead, Within time.Duration
	measured      bool
}

// compare keeps the offset of the exchange that took least.
func (s *Stream) compare(began, ended time.Time, there int64) {
	half := ended.Sub(began) / 2
	if s.measured && half >= s.Within {
		return
	}
	s.Ahead, s.Within, s.measured = time.Unix(0, there).Sub(began.Add(half)), half, true
	if s.Ahead.Abs() <= s.Within {
		s.Ahead = 0
	}
}

// Run starts the capture and calls emit with its packets, by this host's clock, until ctx
// ends, or the capture does.
func (s *Stream) Run(ctx context.Context, emit func(Packet)) (Counts, error) {
	defer s.conn.Close()
	if err := s.out.Encode(message{Start: true}); err != nil {
		return Counts{}, lost(err)
	}
	defer context.AfterFunc(ctx, func() {
		_ = s.conn.SetDeadline(time.Now().Add(stopTimeout))
		_ = s.out.Encode(message{Stop: true})
	})()
	var got uint64
	for {
		var m message
		if err := s.in.Decode(&m); err != nil {
			if ctx.Err() != nil {
				err = nil // it was told to stop, and is gone
			}
			return Counts{Captured: got}, lost(err)
		}
		if m.Packet != nil {
			got++
			m.Packet.Time = m.Packet.Time.Add(-s.Ahead)
			emit(*m.Packet)
		}
		if m.Counts == nil {
			continue
		}
		if m.Error != "" {
			return *m.Counts, errors.New(m.Error)
		}
		return *m.Counts, nil
	}
}

func lost(err error) error {
	if err == nil {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "capture of another host", What: fmt.Sprintf("the connection ended: %v", err),
		Remedy: "'journalctl -u baize' there may say why; capture again",
	}
}

// Sender is the agent's end of the connection.
type Sender struct {
	conn net.Conn
	in   *json.Decoder

	mu  sync.Mutex
	buf *bufio.Writer
	out *json.Encoder
}

// Dial connects to who asks.
func Dial(ctx context.Context, r Request) (*Sender, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The name is nobody's; the fingerprint is what etcd says.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyPeerCertificate
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if sum := sha256.Sum256(raw[0]); !bytes.Equal(sum[:], r.Certificate) {
				return errors.New("another certificate than the question has")
			}
			return nil
		},
	}}).DialContext(ctx, "tcp", r.To.String())
	if err != nil {
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "connection to " + r.To.String(),
			What:   fmt.Sprintf("whoever asks for the capture cannot be reached: %v", err),
			Remedy: "let TCP from here to that port pass there; --listen-port chooses it",
		}
	}
	s := &Sender{conn: conn, in: json.NewDecoder(bufio.NewReader(conn)), buf: bufio.NewWriterSize(conn, 64<<10)}
	s.out = json.NewEncoder(s.buf)
	if err := s.send(message{Token: r.Token}, true); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the connection.
func (s *Sender) Close() error { return s.conn.Close() }

func (s *Sender) send(m message, now bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := s.out.Encode(m); err != nil || !now {
		return err
	}
	return s.buf.Flush()
}

// Run captures at a point and sends what it captures, until ctx ends, the other end says
// so, or the connection ends.
func (s *Sender) Run(ctx context.Context, p api.Point, o Options) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := s.await(ctx); err != nil {
		return err
	}
	go func() {
		defer stop()
		var m message
		for s.in.Decode(&m) == nil && !m.Stop {
		}
	}()
	go s.flush(ctx)
	counts, err := Run(ctx, p, o, func() {}, func(p Packet) {
		if s.send(message{Packet: &p}, false) != nil {
			stop()
		}
	})
	end := message{Counts: &counts}
	if err != nil {
		end.Error = err.Error()
	}
	return errors.Join(err, s.send(end, true))
}

// await answers what the other end asks of the clock, until that says to start.
func (s *Sender) await(ctx context.Context) error {
	_ = s.conn.SetReadDeadline(time.Now().Add(greetTimeout))
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		var m message
		if err := s.in.Decode(&m); err != nil {
			return err
		}
		if m.Start {
			return s.conn.SetReadDeadline(time.Time{})
		}
		if err := s.send(message{Echo: m.Echo, Time: time.Now().UnixNano()}, true); err != nil {
			return err
		}
	}
}

// flush sends what was captured soon, but not packet by packet.
func (s *Sender) flush(ctx context.Context) {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_ = s.buf.Flush() // the next packet has the error
		s.mu.Unlock()
	}
}
