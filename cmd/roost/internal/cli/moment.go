package cli

import (
	"errors"
	"fmt"
	"time"
)

// moment is a point in time as a person gives it: how far from now, or when.
type moment struct {
	text string
	in   time.Duration // from now, when at is zero
	at   time.Time
}

const momentHelp = "as a time from now, such as 90s, or a point in time, such as 18:30, '2026-12-24 18:30' or 2026-12-24T18:30:00Z"

// String implements pflag.Value.
func (m *moment) String() string { return m.text }

// Type implements pflag.Value.
func (m *moment) Type() string { return "time" }

// Set implements pflag.Value.
func (m *moment) Set(s string) error {
	parsed, err := parseMoment(s, time.Now())
	if err == nil {
		*m = parsed
	}
	return err
}

// given is whether the flag was.
func (m *moment) given() bool { return m.text != "" }

// from returns how far the moment is from now; not above 0 when it has passed.
func (m *moment) from(now time.Time) time.Duration {
	if m.at.IsZero() {
		return m.in
	}
	return m.at.Sub(now)
}

// parseMoment reads a moment. A time of day is the next one; without a zone it is local time.
func parseMoment(s string, now time.Time) (moment, error) {
	if d, err := time.ParseDuration(s); err == nil {
		if d < time.Millisecond {
			return moment{}, fmt.Errorf("%s; at least 1ms is expected", d)
		}
		return moment{text: s, in: d}, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return moment{text: s, at: at}, nil
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if at, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return moment{text: s, at: at}, nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		y, mo, d := now.Date()
		at := time.Date(y, mo, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
		if !at.After(now) {
			at = time.Date(y, mo, d+1, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
		}
		return moment{text: s, at: at}, nil
	}
	return moment{}, errors.New("it is expected " + momentHelp)
}
