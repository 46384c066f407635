package console

import (
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
)

const (
	// maxStreams is how many pages can follow a console at a time.
	maxStreams = 100
	// beat is how often a stream says that it is alive; a page that hears nothing for
	// three of them connects anew.
	beat = 5 * time.Second
	// patience is how long a client may take to read what was sent. It then loses the
	// stream, and starts again with the newest state.
	patience = 20 * time.Second
)

// stream sends every section, and each again when it has changed: server-sent events
// (WHATWG HTML, section 9.2). Nothing is queued: a client that reads slowly gets the
// newest of what it missed.
func (c *Console) stream(w http.ResponseWriter, r *http.Request) {
	if !c.enter() {
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d pages follow this console already", maxStreams))
		return
	}
	defer c.leave()
	wake := part.NewSignal()
	c.shown.Wakes(wake)
	defer c.shown.Forget(wake)

	s := newSender(w, strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"))
	defer s.close()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for err := s.send(c.shown.Get()); err == nil; {
		select {
		case <-r.Context().Done():
			return
		case <-c.ended:
			return
		case <-wake:
			err = s.send(c.shown.Get())
		case <-tick.C:
			err = s.write("event: beat\ndata: \n\n")
		}
	}
}

// enter counts a stream, where there is room for one more.
func (c *Console) enter() bool {
	c.counting.Lock()
	defer c.counting.Unlock()
	n := c.watched.Get()
	if n >= maxStreams {
		return false
	}
	c.watched.Set(n + 1)
	return true
}

func (c *Console) leave() {
	c.counting.Lock()
	defer c.counting.Unlock()
	c.watched.Set(c.watched.Get() - 1)
}

// sender writes events to one client.
type sender struct {
	control *http.ResponseController
	out     io.Writer
	zip     *gzip.Writer // nil: not compressed
	sent    map[string]uint64
}

func newSender(w http.ResponseWriter, compressed bool) *sender {
	s := &sender{control: http.NewResponseController(w), out: w, sent: map[string]uint64{}}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no") // a proxy must not wait for more
	if compressed {
		h.Set("Content-Encoding", "gzip")
		s.zip = gzip.NewWriter(w)
		s.out = s.zip
	}
	_ = s.control.SetReadDeadline(time.Time{}) // that of the request is no limit of the answer
	w.WriteHeader(http.StatusOK)
	return s
}

// send writes the sections that the client does not have yet.
func (s *sender) send(now sections) error {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if sec := now[name]; s.sent[name] != sec.version {
			fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", name, sec.data)
			s.sent[name] = sec.version
		}
	}
	if b.Len() == 0 {
		b.WriteString("event: beat\ndata: \n\n")
	}
	return s.write(b.String())
}

func (s *sender) write(text string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(s.out, text); err != nil {
		return err
	}
	if s.zip != nil {
		if err := s.zip.Flush(); err != nil {
			return err
		}
	}
	return s.control.Flush()
}

func (s *sender) close() {
	if s.zip != nil {
		_ = s.zip.Close()
	}
}
