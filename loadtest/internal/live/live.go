//go:build linux

// Package live shows a load test while it runs: in a terminal a few lines that stay in
// place, elsewhere a plain line every few seconds.
//
// It needs nothing of a terminal but the ANSI sequences for "up", "erase" and bold,
// which every terminal of the last decades has (ECMA-48), and leaves no state behind in
// it, so that a process that dies at any moment leaves a usable one.
package live

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 5 * time.Second

// defaultColumns is the width of a terminal that does not tell its own.
const defaultColumns = 80

// View is the view of one run. A nil View shows nothing. Any goroutine may call its
// methods.
type View struct {
	w        io.Writer
	terminal bool
	now      func() time.Time
	columns  func() int

	mu     sync.Mutex
	goal   int
	phase  string
	number int           // of the phase, from 1
	total  time.Duration // of the phase; 0: unknown
	began  time.Time     // of the phase
	model  model
	drawn  int       // lines on the terminal that belong to the view
	last   time.Time // when the last plain line was written
	closed bool
}

// New makes a view that writes to w. With isTerminal it redraws its lines in place.
func New(w io.Writer, isTerminal bool) *View {
	return &View{w: w, terminal: isTerminal, now: time.Now, columns: func() int { return columns(w) }}
}

// IsTerminal tells whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// columns is the width of the terminal at this moment: it may change while it is used.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && s.Col > 0 {
			return int(s.Col)
		}
	}
	return defaultColumns
}

// Nodes says how many nodes the test wants to connect, for the bar behind their number.
func (v *View) Nodes(n int) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.goal = n
}

// Phase says that a part of the run begins, which takes so long; 0: until it is done.
func (v *View) Phase(name string, total time.Duration) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.phase, v.total, v.began = name, total, v.now()
	v.number++
	if v.terminal {
		v.redraw(nil)
		return
	}
	length := ""
	if total > 0 {
		length = fmt.Sprintf(", %v", total)
	}
	fmt.Fprintf(v.w, "phase %d: %s%s\n", v.number, name, length)
}

// Sample shows how things stand. The sample is not kept.
func (v *View) Sample(s *timeline.Sample) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.model.add(s)
	if v.terminal {
		v.redraw(nil)
		return
	}
	if now := v.now(); v.last.IsZero() || now.Sub(v.last) >= plainEvery {
		v.last = now
		fmt.Fprintln(v.w, v.model.line(v.phase))
	}
}

// Write puts text above the view, such as a warning; it should end with a newline. It
// implements [io.Writer], and never fails.
func (v *View) Write(b []byte) (int, error) {
	if v == nil {
		return len(b), nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.terminal && v.drawn > 0 && !v.closed {
		v.redraw(b)
		return len(b), nil
	}
	_, _ = v.w.Write(b)
	return len(b), nil
}

// Close leaves the last state on the terminal and shows nothing more.
func (v *View) Close() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
}

// redraw replaces the view's lines in one write, so that the terminal never shows half
// of them; above goes before them and stays.
func (v *View) redraw(above []byte) {
	var b bytes.Buffer
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA\x1b[J", v.drawn) // up, and erase from there
	}
	b.Write(above)
	width := v.columns() - 1 // a full line may wrap
	lines := v.lines(width)
	for _, l := range lines {
		b.WriteString(l.render(width))
		b.WriteByte('\n')
	}
	v.drawn = len(lines)
	_, _ = v.w.Write(b.Bytes())
}
