package record

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/roost-server/roost/protocol"
)

// FromJSON turns one JSON value into msgpack. A number without fraction and exponent
// is an integer as far as 64 bits go, any other a float. Keys keep their order, and
// come twice where they do in b. Text that is not UTF-8 and nesting over
// [protocol.MaxDepth] are refused. The result does not alias b.
func FromJSON(b []byte) ([]byte, error) {
	if !json.Valid(b) {
		var v json.RawMessage
		return nil, fmt.Errorf("JSON: %w", json.Unmarshal(b, &v))
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("JSON: not valid UTF-8")
	}
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.b = make([]byte, 0, len(b))
	t := transcoder{b: b, w: w}
	t.value(0)
	out := w.take()
	if t.err != nil {
		return nil, t.err
	}
	return out, nil
}

// transcoder walks b, which is known to be valid JSON; the first error sticks.
type transcoder struct {
	b   []byte
	pos int
	w   *writer
	err error
}

// value recurses at most MaxDepth deep.
func (t *transcoder) value(depth int) {
	if depth > protocol.MaxDepth {
		t.err = fmt.Errorf("JSON: nested deeper than %d", protocol.MaxDepth)
	}
	if t.err != nil {
		return
	}
	switch t.peek() {
	case '{':
		t.items(depth, '}', 0x80, 0xde)
	case '[':
		t.items(depth, ']', 0x90, 0xdc)
	case '"':
		t.string()
	case 't':
		t.word("true", 0xc3)
	case 'f':
		t.word("false", 0xc2)
	case 'n':
		t.word("null", 0xc0)
	default:
		t.number()
	}
}

// peek returns the next byte that is not white space.
func (t *transcoder) peek() byte {
	for {
		switch c := t.b[t.pos]; c {
		case ' ', '\t', '\r', '\n':
			t.pos++
		default:
			return c
		}
	}
}

func (t *transcoder) word(w string, code byte) {
	t.pos += len(w)
	t.w.b = append(t.w.b, code)
}

// items writes an object or an array. How many items there are is known only after
// the last, so a longer header than one byte is made room for then.
func (t *transcoder) items(depth int, end, fix, code16 byte) {
	t.pos++
	start, n := len(t.w.b), 0
	t.w.b = append(t.w.b, fix)
	for t.err == nil && t.peek() != end {
		if t.b[t.pos] == ',' {
			t.pos++
		}
		if end == '}' {
			t.peek()
			t.string()
			t.peek()
			t.pos++ // the colon
		}
		t.value(depth + 1)
		n++
	}
	t.pos++
	switch body := start + 1; {
	case n < 16:
		t.w.b[start] |= byte(n)
	case n < 1<<16:
		t.w.b = append(t.w.b, 0, 0)
		copy(t.w.b[body+2:], t.w.b[body:])
		t.w.b[start] = code16
		binary.BigEndian.PutUint16(t.w.b[body:], uint16(n))
	default:
		t.w.b = append(t.w.b, 0, 0, 0, 0)
		copy(t.w.b[body+4:], t.w.b[body:])
		t.w.b[start] = code16 + 1
		binary.BigEndian.PutUint32(t.w.b[body:], uint32(n))
	}
}

func (t *transcoder) string() {
	start := t.pos
	for t.pos++; t.b[t.pos] != '"'; t.pos++ {
		if t.b[t.pos] == '\\' {
			t.pos++
		}
	}
	t.pos++
	raw := t.b[start+1 : t.pos-1]
	var s string
	switch {
	case len(raw) == 0:
	case bytes.IndexByte(raw, '\\') < 0:
		s = unsafe.String(&raw[0], len(raw)) // copied at once by EncodeString
	default:
		s = t.unescape(t.b[start:t.pos])
	}
	_ = t.w.mp.EncodeString(s)
}

// unescape is apart because its result is on the heap.
func (t *transcoder) unescape(quoted []byte) (s string) {
	if err := json.Unmarshal(quoted, &s); err != nil {
		t.err = fmt.Errorf("JSON: %w", err)
	}
	return s
}

func (t *transcoder) number() {
	start := t.pos
	isFloat := false
loop:
	for ; t.pos < len(t.b); t.pos++ {
		switch c := t.b[t.pos]; {
		case c == '.' || c == 'e' || c == 'E':
			isFloat = true
		case c >= '0' && c <= '9' || c == '-' || c == '+':
		default:
			break loop
		}
	}
	s := unsafe.String(&t.b[start], t.pos-start) // kept by nobody but errors, which copy it
	if !isFloat {
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			_ = t.w.mp.EncodeInt(i)
			return
		}
		if u, err := strconv.ParseUint(s, 10, 64); err == nil {
			_ = t.w.mp.EncodeUint(u)
			return
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.err = fmt.Errorf("JSON: the number %s has no 64-bit form", quote(s))
		return
	}
	_ = t.w.mp.EncodeFloat64(f)
}
