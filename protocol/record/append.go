package record

import (
	"encoding/binary"
	"math"
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
	w.b = appendText(w.b, k)
}

// text writes a string; what is not UTF-8 is replaced, so that strict readers in
// other languages can read the record.
func (w *writer) text(k, v string) {
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, "\uFFFD")
	}
	w.key(k)
	w.b = appendText(w.b, v)
}

func (w *writer) int(k string, v int64) {
	w.key(k)
	w.b = appendInt(w.b, v)
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
		w.b = appendText(w.b, s)
	}
}

// appendText appends a string in its shortest form. It and appendInt do what the encoder
// does, which calls its writer for every byte of a head; they write most of a record.
func appendText(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n <= math.MaxUint8:
		b = append(b, 0xd9, byte(n))
	case n <= math.MaxUint16:
		b = append(b, 0xda, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
	}
	return append(b, s...)
}

// appendInt appends an integer in its shortest form.
func appendInt(b []byte, v int64) []byte {
	switch {
	case v >= 0 && v <= math.MaxInt8, v < 0 && v >= -32:
		return append(b, byte(v))
	case v >= 0 && v <= math.MaxUint8:
		return append(b, 0xcc, byte(v))
	case v >= 0 && v <= math.MaxUint16:
		return append(b, 0xcd, byte(v>>8), byte(v))
	case v >= 0 && v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	case v >= 0:
		return binary.BigEndian.AppendUint64(append(b, 0xcf), uint64(v))
	case v >= math.MinInt8:
		return append(b, 0xd0, byte(v))
	case v >= math.MinInt16:
		return append(b, 0xd1, byte(v>>8), byte(v))
	case v >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(v))
	default:
		return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
	}
}

// sink is the writer as the msgpack encoder sees it.
type sink writer

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) { s.b = append(s.b, p...); return len(p), nil }

// WriteByte implements io.ByteWriter.
func (s *sink) WriteByte(c byte) error { s.b = append(s.b, c); return nil }
