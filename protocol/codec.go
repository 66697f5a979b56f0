package protocol

import (
	"io"

	"github.com/vmihailenco/msgpack/v5"
)

// Message is one of the messages of the protocol; see the file of each.
type Message interface {
	// Type returns the frame type that carries the message.
	Type() Type
	encode(e *Encoder)
	decode(d *Decoder)
}

// Encoder appends messages as frames. It is reused for many messages and belongs to
// one goroutine.
type Encoder struct {
	buf []byte
	err error
	mp  *msgpack.Encoder
}

// NewEncoder returns an Encoder.
func NewEncoder() *Encoder {
	e := &Encoder{}
	e.mp = msgpack.NewEncoder(e)
	e.mp.UseCompactInts(true)
	return e
}

// Write implements io.Writer for the msgpack encoder; not for callers.
func (e *Encoder) Write(p []byte) (int, error) { e.buf = append(e.buf, p...); return len(p), nil }

// WriteByte implements io.ByteWriter for the msgpack encoder; not for callers.
func (e *Encoder) WriteByte(c byte) error { e.buf = append(e.buf, c); return nil }

// Append appends m as a frame to dst and returns the longer slice, as append does.
// When a field is over its limit dst comes back unchanged with an error that names
// the field. m is not kept.
func (e *Encoder) Append(dst []byte, m Message) ([]byte, error) {
	start := len(dst)
	e.buf, e.err = append(dst, 0, 0, 0, byte(m.Type())), nil
	m.encode(e)
	out := e.buf
	e.buf = nil
	n := len(out) - start - HeaderBytes
	if limit := maxBody(m.Type()); e.err == nil && n > limit {
		e.err = Errorf(ReasonFrameTooLarge, "%v body of %d bytes; at most %d are allowed", m.Type(), n, limit)
	}
	if e.err != nil {
		return out[:start], e.err
	}
	out[start], out[start+1], out[start+2] = byte(n>>16), byte(n>>8), byte(n)
	return out, nil
}

// maxBody returns the limit for the body of a type.
func maxBody(t Type) int {
	if t == TypeHello || t == TypeProof {
		return MaxHelloBodyBytes
	}
	return MaxBodyBytes
}

func (e *Encoder) array(n int) {
	if n < 16 {
		e.buf = append(e.buf, 0x90|byte(n))
		return
	}
	e.keep(e.mp.EncodeArrayLen(n))
}

func (e *Encoder) uint(field string, v, limit uint64) {
	if v > limit {
		e.fail("%s is %d; at most %d is allowed", field, v, limit)
	}
	switch { // by hand, as these are most of what JOB has
	case v < 1<<7:
		e.buf = append(e.buf, byte(v))
	case v < 1<<8:
		e.buf = append(e.buf, 0xcc, byte(v))
	case v < 1<<16:
		e.buf = append(e.buf, 0xcd, byte(v>>8), byte(v))
	default:
		e.keep(e.mp.EncodeUint(v))
	}
}

func (e *Encoder) str(field, s string, limit int) {
	if len(s) > limit {
		e.fail("%s has %d bytes; at most %d are allowed", field, len(s), limit)
		return
	}
	e.keep(e.mp.EncodeString(s))
}

// text writes bytes as a msgpack string.
func (e *Encoder) text(field string, b []byte, limit int) {
	switch n := len(b); {
	case n > limit:
		e.fail("%s has %d bytes; at most %d are allowed", field, n, limit)
		return
	case n < 32:
		e.buf = append(e.buf, 0xa0|byte(n))
	case n < 256:
		e.buf = append(e.buf, 0xd9, byte(n))
	default:
		e.buf = append(e.buf, 0xda, byte(n>>8), byte(n))
	}
	e.buf = append(e.buf, b...)
}

// note writes text for people, cut to the limit: a long explanation must not cost
// the message that it explains.
func (e *Encoder) note(s string, limit int) { e.keep(e.mp.EncodeString(clip(s, limit))) }

// clip shortens s to at most n bytes without cutting a rune.
func clip[S ~string | ~[]byte](s S, n int) S {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

func (e *Encoder) bin(field string, b []byte, limit int) {
	if len(b) > limit {
		e.fail("%s has %d bytes; at most %d are allowed", field, len(b), limit)
		return
	}
	e.keep(e.mp.EncodeBytesLen(len(b)))
	e.buf = append(e.buf, b...)
}

func (e *Encoder) strs(field string, list []string, count, limit int) {
	if len(list) > count {
		e.fail("%s has %d entries; at most %d are allowed", field, len(list), count)
		return
	}
	e.array(len(list))
	for _, s := range list {
		e.str(field, s, limit)
	}
}

// payload writes an encoded msgpack value as it is; an empty one as nil. It is
// checked, because the peer would close the session over one that is malformed.
func (e *Encoder) payload(field string, b []byte) {
	if len(b) == 0 {
		e.buf = append(e.buf, 0xc0)
		return
	}
	if err := CheckPayload(b); err != nil {
		e.fail("%s: %s", field, messageOf(err))
		return
	}
	e.buf = append(e.buf, b...)
}

func (e *Encoder) keep(err error) {
	if err != nil && e.err == nil {
		e.err = err
	}
}

func (e *Encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = Errorf(ReasonMalformed, format, args...)
	}
}

// Decoder decodes frame bodies. It is reused for many bodies and belongs to one
// goroutine.
type Decoder struct {
	b    []byte
	pos  int
	left int // fields left in the message's array
	err  error
	mp   *msgpack.Decoder
}

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder {
	d := &Decoder{}
	d.mp = msgpack.NewDecoder(d)
	return d
}

// Read implements io.Reader for the msgpack decoder; not for callers.
func (d *Decoder) Read(p []byte) (int, error) {
	if d.pos >= len(d.b) {
		return 0, io.EOF
	}
	n := copy(p, d.b[d.pos:])
	d.pos += n
	return n, nil
}

// ReadByte implements io.ByteScanner for the msgpack decoder; not for callers.
func (d *Decoder) ReadByte() (byte, error) {
	if d.pos >= len(d.b) {
		return 0, io.EOF
	}
	d.pos++
	return d.b[d.pos-1], nil
}

// UnreadByte implements io.ByteScanner for the msgpack decoder; not for callers.
func (d *Decoder) UnreadByte() error {
	if d.pos == 0 {
		return io.ErrUnexpectedEOF
	}
	d.pos--
	return nil
}

// Decode decodes a frame's body into m. Fields of type []byte alias body and are
// valid only as long as it is; strings are copies. Every field of m is set. Fields
// after those that this version knows are skipped; missing ones at the end are
// zero, unless the message requires them. The error is a *[Error] whose reason is
// [ReasonMalformed].
func (d *Decoder) Decode(body []byte, m Message) error {
	end, err := Scan(body)
	if err != nil {
		return err
	}
	if end != len(body) {
		return Errorf(ReasonMalformed, "%v: %d bytes after the body's value", m.Type(), len(body)-end)
	}
	d.b, d.pos, d.err = body, 0, nil
	d.left = d.arrayLen("body", len(body))
	m.decode(d)
	d.b = nil
	if d.err != nil {
		return Errorf(ReasonMalformed, "%v: %s", m.Type(), messageOf(d.err))
	}
	return nil
}

// next reports whether another field of the message is there, and takes it.
func (d *Decoder) next(field string, required bool) bool {
	if d.err != nil {
		return false
	}
	if d.left <= 0 {
		if required {
			d.fail("%s is missing", field)
		}
		return false
	}
	d.left--
	return true
}

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = Errorf(ReasonMalformed, format, args...)
	}
}

func (d *Decoder) arrayLen(field string, limit int) int {
	c := d.code()
	if c&0xf0 == 0x90 && int(c&0x0f) <= limit {
		d.pos++
		return int(c & 0x0f)
	}
	if c&0xf0 != 0x90 && c != 0xdc && c != 0xdd {
		d.fail("%s is not an array", field)
		return 0
	}
	n, err := d.mp.DecodeArrayLen()
	if err != nil {
		d.fail("%s: %v", field, err)
		return 0
	}
	if n > limit {
		d.fail("%s has %d entries; at most %d are allowed", field, n, limit)
		return 0
	}
	return n
}

func (d *Decoder) code() byte {
	if d.pos >= len(d.b) {
		return 0xc1
	}
	return d.b[d.pos]
}

func (d *Decoder) uint(field string, required bool, limit uint64) uint64 {
	if !d.next(field, required) {
		return 0
	}
	return d.uintValue(field, limit)
}

func (d *Decoder) uintValue(field string, limit uint64) uint64 {
	c := d.code()
	if c <= 0x7f && uint64(c) <= limit {
		d.pos++
		return uint64(c)
	}
	if c > 0x7f && (c < 0xcc || c > 0xcf) {
		d.fail("%s is not an unsigned integer", field)
		return 0
	}
	v, err := d.mp.DecodeUint64()
	if err != nil {
		d.fail("%s: %v", field, err)
		return 0
	}
	if v > limit {
		d.fail("%s is %d; at most %d is allowed", field, v, limit)
		return 0
	}
	return v
}

// text takes a string or binary field as a view into the body.
func (d *Decoder) text(field string, required bool, limit int) []byte {
	if !d.next(field, required) {
		return nil
	}
	b := d.textValue(field, limit)
	if required && len(b) == 0 {
		d.fail("%s is empty", field)
	}
	return b
}

func (d *Decoder) textValue(field string, limit int) []byte {
	c := d.code()
	if c&0xe0 != 0xa0 && (c < 0xd9 || c > 0xdb) && (c < 0xc4 || c > 0xc6) {
		d.fail("%s is not a string", field)
		return nil
	}
	n, err := 0, error(nil)
	switch {
	case c&0xe0 == 0xa0:
		n = int(c & 0x1f)
		d.pos++
	case (c == 0xd9 || c == 0xc4) && d.pos+1 < len(d.b):
		n = int(d.b[d.pos+1])
		d.pos += 2
	default:
		n, err = d.mp.DecodeBytesLen()
	}
	if err != nil || n < 0 || n > len(d.b)-d.pos {
		d.fail("%s is cut short", field)
		return nil
	}
	if n > limit {
		d.fail("%s has %d bytes; at most %d are allowed", field, n, limit)
		return nil
	}
	b := d.b[d.pos : d.pos+n : d.pos+n]
	d.pos += n
	return b
}

func (d *Decoder) str(field string, required bool, limit int) string {
	return string(d.text(field, required, limit))
}

func (d *Decoder) strs(field string, count, limit int) []string {
	if !d.next(field, false) {
		return nil
	}
	return d.strsValue(field, count, limit)
}

func (d *Decoder) strsValue(field string, count, limit int) []string {
	n := d.arrayLen(field, count)
	if n == 0 || d.err != nil {
		return nil
	}
	out := make([]string, 0, n)
	for range n {
		out = append(out, string(d.textValue(field, limit)))
		if d.err != nil {
			return nil
		}
	}
	return out
}

// payload takes any one value of the message's own array as a view of its encoded
// bytes; nil when absent.
func (d *Decoder) payload(field string) []byte {
	if !d.next(field, false) {
		return nil
	}
	n := len(d.b) - d.pos // the last field reaches to the end: no second scan
	if d.left > 0 {
		var err error
		if n, err = Scan(d.b[d.pos:]); err != nil {
			d.fail("%s: %v", field, err)
			return nil
		}
	}
	if n > MaxPayloadBytes {
		d.fail("%s has %d bytes; at most %d are allowed", field, n, MaxPayloadBytes)
		return nil
	}
	b := d.b[d.pos : d.pos+n : d.pos+n]
	d.pos += n
	return b
}

// list runs one for each entry of an array field; each entry is an array itself, of
// which trailing unknown fields are skipped.
func (d *Decoder) list(field string, limit int, one func()) {
	if !d.next(field, false) {
		return
	}
	outer := d.left
	for range d.arrayLen(field, limit) {
		d.nested(field, one)
		if d.err != nil {
			return
		}
	}
	d.left = outer
}

// nested reads an array whose fields one takes, and skips the rest of them.
func (d *Decoder) nested(field string, one func()) {
	outer := d.left
	d.left = d.arrayLen(field, len(d.b))
	if d.err != nil {
		return
	}
	one()
	for d.err == nil && d.left > 0 {
		d.left--
		n, err := Scan(d.b[d.pos:])
		if err != nil {
			d.fail("%s: %v", field, err)
			return
		}
		d.pos += n
	}
	d.left = outer
}
