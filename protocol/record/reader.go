package record

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol"
)

// reader walks a scanned msgpack value in place; the first error sticks. Strings, numbers
// and maps, which records consist of, are read here, the rest with the msgpack library's
// primitives, never by reflection.
type reader struct {
	b   []byte
	pos int
	err error
	mp  *msgpack.Decoder
}

var readers = sync.Pool{New: func() any {
	r := &reader{}
	r.mp = msgpack.NewDecoder((*source)(r))
	return r
}}

// openReader scans the whole of b, which has to be one value.
func openReader(b []byte) (*reader, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("the record has no value")
	}
	end, err := protocol.Scan(b)
	if err != nil {
		return nil, fmt.Errorf("msgpack: %w", err)
	}
	if end != len(b) {
		return nil, fmt.Errorf("msgpack: %d bytes follow the value", len(b)-end)
	}
	r := readers.Get().(*reader)
	r.b, r.pos, r.err = b, 0, nil
	return r, nil
}

func (r *reader) close() {
	r.b = nil
	readers.Put(r)
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) code() byte {
	if r.pos < len(r.b) {
		return r.b[r.pos]
	}
	return 0xc1
}

// field takes the next key of a map and reports whether a value is to be read for
// it. A value of nil is taken as an absent field. Keys that are not among names, or
// come twice, are refused.
func (r *reader) field(prefix string, names []string, seen *uint32) (key string, ok bool) {
	key = r.str("a field's name")
	if r.err != nil {
		return "", false
	}
	i := slices.Index(names, key)
	switch {
	case i < 0:
		r.fail("%sunknown field %s; allowed are %s", prefix, quote(key), strings.Join(names, ", "))
		return "", false
	case *seen&(1<<i) != 0:
		r.fail("%s%s is there twice", prefix, key)
		return "", false
	}
	*seen |= 1 << i
	if r.code() == 0xc0 {
		r.pos++
		return "", false
	}
	return key, true
}

func (r *reader) mapLen(field string) int {
	if r.err != nil {
		return 0
	}
	switch c := r.code(); {
	case c&0xf0 == 0x80:
		r.pos++
		return int(c & 0x0f)
	case c == 0xde:
		return int(r.head(field, 2))
	case c == 0xdf:
		return int(r.head(field, 4))
	}
	r.fail("%s: a map is expected", field)
	return 0
}

// head takes a code, and the number of so many bytes after it.
func (r *reader) head(field string, bytes int) (n uint64) {
	end := r.pos + 1 + bytes
	if end > len(r.b) { // never after a scan
		r.fail("%s: cut short", field)
		return 0
	}
	for _, x := range r.b[r.pos+1 : end] {
		n = n<<8 | uint64(x)
	}
	r.pos = end
	return n
}

// str returns a view of a string or binary value as a string.
func (r *reader) str(field string) string {
	if r.err != nil {
		return ""
	}
	var n int
	switch c := r.code(); {
	case c&0xe0 == 0xa0:
		r.pos++
		n = int(c & 0x1f)
	case c == 0xd9, c == 0xc4:
		n = int(r.head(field, 1))
	case c == 0xda, c == 0xc5:
		n = int(r.head(field, 2))
	case c == 0xdb, c == 0xc6:
		n = int(r.head(field, 4))
	default:
		r.fail("%s: a string is expected", field)
		return ""
	}
	if n > len(r.b)-r.pos {
		r.fail("%s: cut short", field)
		return ""
	}
	if n == 0 {
		return ""
	}
	s := unsafe.String(&r.b[r.pos], n) // the record's value is never changed
	r.pos += n
	return s
}

// text is str for what people and other programs read: UTF-8 only.
func (r *reader) text(field string) string {
	s := r.str(field)
	if !utf8.ValidString(s) {
		r.fail("%s: not valid UTF-8", field)
		return ""
	}
	return s
}

func (r *reader) texts(field string, limit int) []string {
	if r.err != nil {
		return nil
	}
	if c := r.code(); c&0xf0 != 0x90 && c != 0xdc && c != 0xdd {
		r.fail("%s: an array is expected", field)
		return nil
	}
	n, err := r.mp.DecodeArrayLen()
	if err != nil || n > limit {
		r.fail("%s: %d entries; at most %d are allowed", field, n, limit)
		return nil
	}
	out := make([]string, 0, n)
	for range n {
		if out = append(out, r.text(field)); r.err != nil {
			return nil
		}
	}
	return out
}

func (r *reader) int(field string) int64 {
	if r.err != nil {
		return 0
	}
	switch c := r.code(); {
	case c <= 0x7f, c >= 0xe0:
		r.pos++
		return int64(int8(c))
	case c >= 0xcc && c <= 0xcf:
		u := r.head(field, 1<<(c-0xcc))
		if u > math.MaxInt64 {
			r.fail("%s: %d is out of range", field, u)
			return 0
		}
		return int64(u)
	case c >= 0xd0 && c <= 0xd3:
		unused := 64 - 8<<(c-0xd0)
		return int64(r.head(field, 1<<(c-0xd0))<<unused) >> unused
	}
	r.fail("%s: an integer is expected", field)
	return 0
}

func (r *reader) uint(field string, low, high int64) uint64 {
	v := r.int(field)
	if r.err == nil && (v < low || v > high) {
		r.fail("%s: %d; allowed are %d to %d", field, v, low, high)
		return 0
	}
	return uint64(v)
}

func (r *reader) bool(field string) bool {
	c := r.code()
	if c != 0xc2 && c != 0xc3 {
		r.fail("%s: true or false is expected", field)
		return false
	}
	r.pos++
	return c == 0xc3
}

func (r *reader) float(field string) float64 {
	if r.err != nil {
		return 0
	}
	if c := r.code(); c > 0x7f && c < 0xe0 && (c < 0xca || c > 0xd3) {
		r.fail("%s: a number is expected", field)
		return 0
	}
	v, err := r.mp.DecodeFloat64()
	if err != nil {
		r.fail("%s: %v", field, err)
	}
	return v
}

// raw takes any value as a view of its encoded bytes.
func (r *reader) raw(field string) []byte {
	if r.err != nil {
		return nil
	}
	n, err := protocol.Scan(r.b[r.pos:])
	if err != nil {
		r.fail("%s: %v", field, err)
		return nil
	}
	b := r.b[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return b
}

// quote quotes what a record says, for messages; long text is cut.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

// source is the reader as the msgpack decoder sees it: unbuffered, so that the
// reader always knows the position.
type source reader

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if s.pos >= len(s.b) {
		return 0, io.EOF
	}
	n := copy(p, s.b[s.pos:])
	s.pos += n
	return n, nil
}

// ReadByte implements io.ByteScanner.
func (s *source) ReadByte() (byte, error) {
	if s.pos >= len(s.b) {
		return 0, io.EOF
	}
	s.pos++
	return s.b[s.pos-1], nil
}

// UnreadByte implements io.ByteScanner.
func (s *source) UnreadByte() error {
	if s.pos == 0 {
		return io.ErrUnexpectedEOF
	}
	s.pos--
	return nil
}
