package vm

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Event is something that the guest says. Kind tells which of the other fields it has.
type Event struct {
	Kind string          `json:"kind"`
	AtMs int64           `json:"at_ms"`          // since the guest's program began
	Text string          `json:"text,omitempty"` // for people
	Data json.RawMessage `json:"data,omitempty"` // of KindResult
}

// Kinds of events.
const (
	KindUp     = "up"     // the guest's program runs
	KindStep   = "step"   // a step begins
	KindShow   = "show"   // how far it is
	KindLog    = "log"    // what a process wrote
	KindResult = "result" // what came out
	KindFailed = "failed" // it could not go on
)

// mark begins a line that is an event. It tells them from what else comes over a serial
// port, such as the firmware's greeting.
const mark = "\x02"

// Write writes an event as one line.
func Write(w io.Writer, e *Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	_, err = w.Write(append(append([]byte(mark), b...), '\n'))
	return err
}

// Parse reads a line of the guest's port. ok is false when it is no event.
func Parse(line string) (e Event, ok bool) {
	at := strings.LastIndex(line, mark)
	if at < 0 {
		return e, false
	}
	err := json.Unmarshal([]byte(strings.TrimSpace(line[at+len(mark):])), &e)
	return e, err == nil && e.Kind != ""
}

// distress is what a kernel says when the guest cannot go on, or has ended a process.
var distress = []string{"Kernel panic", "Out of memory:", "oom-kill:", "TCP: out of memory", "BUG:", "VFS: file-max limit"}

// Distress returns the lines of a kernel's log that tell of trouble.
func Distress(log string) (lines []string) {
	for line := range strings.Lines(log) {
		for _, d := range distress {
			if strings.Contains(line, d) {
				lines = append(lines, strings.TrimSpace(line))
				break
			}
		}
	}
	return lines
}
