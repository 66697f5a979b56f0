package nodes

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Change is a session that began or ended, as a line of the log of sessions.
type Change struct {
	At     time.Time
	Up     bool
	Node   string
	Member string // its name in WELCOME
	Why    string // of an end
}

// ParseChange reads a line of the log. A line may be cut when its writer was killed.
func ParseChange(line string) (c Change, ok bool) {
	f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5)
	if len(f) != 5 {
		return c, false
	}
	var ms int64
	if _, err := fmt.Sscan(f[0], &ms); err != nil {
		return c, false
	}
	return Change{At: time.UnixMilli(ms), Up: f[1] == "up", Node: f[2], Member: f[3], Why: f[4]}, true
}

// sessionLog is the log of a process. A nil one takes notes and keeps nothing.
type sessionLog struct {
	mu   sync.Mutex
	file *os.File
}

func newSessionLog(path string) (*sessionLog, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Create(path)
	return &sessionLog{file: f}, err
}

// note writes a line at once, so that a reader of the file is up to date.
func (l *sessionLog) note(up bool, node, member, why string) {
	if l == nil {
		return
	}
	what := "down"
	if up {
		what = "up"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.file, "%d %s %s %s %s\n", time.Now().UnixMilli(), what, node, member, strings.ReplaceAll(why, "\n", " "))
}

func (l *sessionLog) close() {
	if l != nil {
		l.file.Close()
	}
}
