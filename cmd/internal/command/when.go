package command

import (
	"fmt"
	"strings"
	"time"
)

// Layouts of a time of the day, and of a date.
var (
	clockLayouts = []string{"15:04", "15:04:05"}
	dateLayouts  = []string{
		time.DateTime, "2006-01-02 15:04", time.DateOnly, time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04",
	}
)

// parseWhen reads a time as people write it, in the time zone of now; the zero time for
// none. A time of the day is the last one that has been.
func parseWhen(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(strings.TrimSuffix(s, " ago")); err == nil {
		return now.Add(-ago.Abs()), nil
	}
	if clock, ok := strings.CutPrefix(s, "yesterday"); ok {
		if at, ok := parseClock(strings.TrimSpace(clock), now.AddDate(0, 0, -1)); ok {
			return at, nil
		}
	}
	if at, ok := parseClock(s, now); ok {
		if at.After(now) {
			at = at.AddDate(0, 0, -1)
		}
		return at, nil
	}
	for _, layout := range dateLayouts {
		if at, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 14:00, yesterday 14:00, 2006-01-02 14:00, or how long ago: 2h", s)
}

// parseUntil is parseWhen, but that a time of the day is the first one after since,
// where that is given.
func parseUntil(s string, since, now time.Time) (time.Time, error) {
	if at, ok := parseClock(strings.TrimSpace(s), since.In(now.Location())); ok && !since.IsZero() {
		if at.Before(since) {
			at = at.AddDate(0, 0, 1)
		}
		return at, nil
	}
	return parseWhen(s, now)
}

// parseClock reads a time of a day.
func parseClock(s string, day time.Time) (time.Time, bool) {
	for _, layout := range clockLayouts {
		if c, err := time.Parse(layout, s); err == nil {
			y, m, d := day.Date()
			return time.Date(y, m, d, c.Hour(), c.Minute(), c.Second(), 0, day.Location()), true
		}
	}
	return time.Time{}, false
}
