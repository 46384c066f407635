package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/baize-net/baize/cmd/internal/event"
)

// Streamed is a line of what Events answers: an event, or why there are no more.
type Streamed struct {
	Event *event.Event `json:"event,omitempty"`
	Error *wireError   `json:"error,omitempty"`
}

// eventValues are a query as parameters of a request.
func eventValues(q event.Query, follow bool) url.Values {
	v := url.Values{"kind": q.Kinds}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			v.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	if q.After != 0 {
		v.Set("after", strconv.FormatInt(q.After, 10))
	}
	set("subject", q.Subject)
	set("endpoint", q.Endpoint)
	set("network", q.Network)
	if follow {
		v.Set("follow", "true")
	}
	return v
}

// parseEventValues reads what eventValues wrote.
func parseEventValues(v url.Values) (q event.Query, follow bool, err error) {
	q = event.Query{
		Kinds: v["kind"], Subject: v.Get("subject"), Endpoint: v.Get("endpoint"), Network: v.Get("network"),
	}
	for name, at := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if s := v.Get(name); s != "" {
			if *at, err = time.Parse(time.RFC3339Nano, s); err != nil {
				return q, false, invalid(name + "=" + s + " is no time of RFC 3339")
			}
		}
	}
	if s := v.Get("after"); s != "" {
		if q.After, err = strconv.ParseInt(s, 10, 64); err != nil {
			return q, false, invalid("after=" + s + " is no number")
		}
	}
	if s := v.Get("follow"); s != "" {
		if follow, err = strconv.ParseBool(s); err != nil {
			return q, false, invalid("follow=" + s + " is neither true nor false")
		}
	}
	return q, follow, nil
}

// streamEvents answers a request for events, one a line as they come.
func streamEvents(svc Service, w http.ResponseWriter, r *http.Request) {
	q, follow, err := parseEventValues(r.URL.Query())
	if err != nil {
		reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	flush := func() {}
	if f, ok := w.(http.Flusher); ok && follow {
		flush = f.Flush
	}
	flush() // the headers: the client knows that it is followed
	lines := json.NewEncoder(w)
	err = svc.Events(r.Context(), q, follow, func(e event.Event) error {
		err := lines.Encode(Streamed{Event: &e})
		flush()
		return err
	})
	if err != nil {
		_, wire := toWire(err)
		_ = lines.Encode(Streamed{Error: &wire}) // a client that is gone is no matter
	}
}

// Events implements Service.
func (c *Client) Events(ctx context.Context, q event.Query, follow bool, show func(event.Event) error) error {
	limited, cancel := ctx, context.CancelFunc(func() {})
	if !follow {
		limited, cancel = context.WithTimeout(ctx, c.patience)
	}
	defer cancel()
	path := "http://agent/v1/events?" + eventValues(q, follow).Encode()
	req, err := http.NewRequestWithContext(limited, http.MethodGet, path, nil)
	if err != nil {
		return fmt.Errorf("the request: %w", err)
	}
	stream := http.Client{Transport: c.http.Transport} // without a limit of time
	resp, err := stream.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(ctx, resp)
	}
	lines := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var line Streamed
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF):
			if follow && ctx.Err() == nil {
				return c.unreachable(ctx, io.ErrUnexpectedEOF)
			}
			return ctx.Err()
		case err != nil:
			return c.unreachable(ctx, err)
		case line.Error != nil:
			return fromWire(*line.Error)
		case line.Event == nil:
			return c.foreign("it answers a line without an event")
		}
		if err := show(*line.Event); err != nil {
			return err
		}
	}
}
