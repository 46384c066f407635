package bgp

import (
	"context"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// slogHandler passes a library's log on, at the level debug.
type slogHandler struct{ log *logrus.Entry }

func (h *slogHandler) Enabled(context.Context, slog.Level) bool {
	return h.log.Logger.IsLevelEnabled(logrus.DebugLevel)
}

func (h *slogHandler) Handle(_ context.Context, r slog.Record) error {
	fields := logrus.Fields{}
	r.Attrs(func(a slog.Attr) bool {
		fields[a.Key] = a.Value.String()
		return true
	})
	h.log.WithFields(fields).Debug(r.Message)
	return nil
}

func (h *slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := logrus.Fields{}
	for _, a := range attrs {
		fields[a.Key] = a.Value.String()
	}
	return &slogHandler{h.log.WithFields(fields)}
}

func (h *slogHandler) WithGroup(string) slog.Handler { return h }
