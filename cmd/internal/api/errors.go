package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/baize-net/baize/topology"
)

// kinds maps each kind of refusal to its HTTP status. Its text on the wire is
// the kind's own.
var kinds = []struct {
	kind   error
	status int
}{
	{topology.ErrInvalid, http.StatusBadRequest},
	{topology.ErrNotFound, http.StatusNotFound},
	{topology.ErrExists, http.StatusConflict},
	{topology.ErrConflict, http.StatusConflict},
	{topology.ErrInUse, http.StatusConflict},
	{topology.ErrFull, http.StatusInsufficientStorage},
	{topology.ErrUnavailable, http.StatusServiceUnavailable},
}

// wireError is an error's form in a reply's body.
type wireError struct {
	Kind   string `json:"kind,omitempty"`
	Item   string `json:"item,omitempty"`
	What   string `json:"what,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	// Message is the whole text, with what wraps the refusal.
	Message string `json:"message"`
}

// toWire returns an error's status and body.
func toWire(err error) (int, wireError) {
	w := wireError{Message: err.Error()}
	var e *topology.Error
	if errors.As(err, &e) {
		w.Item, w.What, w.Remedy = e.Item, e.What, e.Remedy
	}
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			w.Kind = k.kind.Error()
			return k.status, w
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		w.Kind = topology.ErrUnavailable.Error()
		return http.StatusGatewayTimeout, w
	}
	return http.StatusInternalServerError, w
}

// fromWire returns the error a body stands for. Its kind holds for errors.Is,
// its parts for errors.As, and its text is what the agent's was.
func fromWire(w wireError) error {
	var kind error
	for _, k := range kinds {
		if k.kind.Error() == w.Kind {
			kind = k.kind
		}
	}
	e := &topology.Error{Kind: kind, Item: w.Item, What: w.What, Remedy: w.Remedy}
	switch {
	case w.What == "" && w.Item == "":
		e.What = w.Message
		return e
	case e.Error() == w.Message:
		return e
	}
	return &wrapped{text: w.Message, err: e}
}

// wrapped is a refusal with more around it.
type wrapped struct {
	text string
	err  *topology.Error
}

func (w *wrapped) Error() string { return w.text }
func (w *wrapped) Unwrap() error { return w.err }
