// Package tail keeps the end of a process's output, for the message about its end.
package tail

import (
	"bytes"
	"sync"
)

// Buffer keeps the last Most bytes of what is written to it. Any goroutine may call it.
type Buffer struct {
	Most int // set before the first write

	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer. It never fails.
func (t *Buffer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[max(0, len(b)-t.Most):]...)
	if n := len(t.b) - t.Most; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(b), nil
}

// Bytes returns a copy.
func (t *Buffer) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.b)
}

// Line returns the newest line.
func (t *Buffer) Line() string {
	b := bytes.TrimRight(t.Bytes(), "\n")
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}
