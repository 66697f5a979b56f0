package record

import (
	"encoding/binary"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
)

// writer builds maps whose number of fields is known only at their end. Writing to
// memory cannot fail, so the encoder's errors are dropped.
type writer struct {
	b       []byte
	mp      *msgpack.Encoder
	open    mark
	scratch []byte // for a msgpack form that is only on its way to JSON
}

// maxScratch keeps one huge record from pinning its memory.
const maxScratch = 64 << 10

// toJSON appends what fill writes as JSON.
func (w *writer) toJSON(dst []byte, fill func(*writer)) ([]byte, error) {
	w.b = w.scratch[:0]
	fill(w)
	b := w.take()
	if w.scratch = b; cap(b) > maxScratch {
		w.scratch = nil
	}
	return appendJSON(dst, b)
}

// mark is a map that is not closed yet: where it starts, and its fields so far.
type mark struct {
	start  int
	fields uint16
}

var writers = sync.Pool{New: func() any { return newWriter() }}

func newWriter() *writer {
	w := &writer{}
	w.mp = msgpack.NewEncoder((*sink)(w))
	w.mp.UseCompactInts(true)
	return w
}

// take returns what was written and forgets it.
func (w *writer) take() []byte {
	b := w.b
	w.b = nil
	return b
}

// begin starts a map inside the current one, which end takes up again.
func (w *writer) begin() (outer mark) {
	outer = w.open
	w.open = mark{start: len(w.b)}
	w.b = append(w.b, 0xde, 0, 0)
	return outer
}

func (w *writer) end(outer mark) {
	binary.BigEndian.PutUint16(w.b[w.open.start+1:], w.open.fields)
	w.open = outer
}

func (w *writer) key(k string) {
	w.open.fields++
	_ = w.mp.EncodeString(k)
}

// text writes a string; what is not UTF-8 is replaced, so that strict readers in
// other languages can read the record.
func (w *writer) text(k, v string) {
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, "\uFFFD")
	}
	w.key(k)
	_ = w.mp.EncodeString(v)
}

func (w *writer) int(k string, v int64) {
	w.key(k)
	_ = w.mp.EncodeInt(v)
}

func (w *writer) bool(k string, v bool) {
	w.key(k)
	_ = w.mp.EncodeBool(v)
}

func (w *writer) raw(k string, v []byte) {
	w.key(k)
	w.b = append(w.b, v...)
}

func (w *writer) texts(k string, list []string) {
	w.key(k)
	_ = w.mp.EncodeArrayLen(len(list))
	for _, s := range list {
		_ = w.mp.EncodeString(s)
	}
}

// sink is the writer as the msgpack encoder sees it.
type sink writer

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) { s.b = append(s.b, p...); return len(p), nil }

// WriteByte implements io.ByteWriter.
func (s *sink) WriteByte(c byte) error { s.b = append(s.b, c); return nil }
