package record

import (
	"bytes"
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"
)

// ToJSON turns one msgpack value into JSON. Binary becomes a base64 string, an
// extension {"ext":type,"data":base64}, NaN and infinities null; keys that are not
// strings become strings, and what is not UTF-8 becomes U+FFFD. A float stays one: 1
// as a float is written 1.0. A key that is an array or a map has no JSON form: that
// is an error.
func ToJSON(b []byte) ([]byte, error) {
	return appendJSON(make([]byte, 0, len(b)+len(b)/2), b)
}

// appendJSON is [ToJSON] that appends. dst comes back as it was with an error.
func appendJSON(dst, b []byte) ([]byte, error) {
	r, err := openReader(b)
	if err != nil {
		return dst, err
	}
	defer r.close()
	if out := r.appendJSON(dst, false); r.err == nil {
		return out, nil
	}
	return dst, r.err
}

// appendJSON recurses at most MaxDepth deep, which Scan has checked.
func (r *reader) appendJSON(dst []byte, key bool) []byte {
	c := r.code()
	switch {
	case r.err != nil:
		return dst
	case c&0xf0 == 0x80 || c == 0xde || c == 0xdf:
		return r.appendJSONMap(dst, key)
	case c&0xf0 == 0x90 || c == 0xdc || c == 0xdd:
		return r.appendJSONArray(dst, key)
	case c&0xe0 == 0xa0 || c >= 0xd9 && c <= 0xdb:
		return appendJSONString(dst, r.str("a string"))
	}
	start := len(dst)
	dst = r.appendJSONScalar(dst, c)
	if key && dst[start] != '"' {
		dst = appendJSONString(dst[:start], string(dst[start:]))
	}
	return dst
}

func (r *reader) appendJSONMap(dst []byte, key bool) []byte {
	if key {
		r.fail("msgpack: a map as a map's key has no JSON form")
		return dst
	}
	dst = append(dst, '{')
	for i := range r.mapLen("map") {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(r.appendJSON(dst, true), ':')
		dst = r.appendJSON(dst, false)
	}
	return append(dst, '}')
}

func (r *reader) appendJSONArray(dst []byte, key bool) []byte {
	if key {
		r.fail("msgpack: an array as a map's key has no JSON form")
		return dst
	}
	n, err := r.mp.DecodeArrayLen()
	if err != nil {
		r.fail("msgpack: %v", err)
		return dst
	}
	dst = append(dst, '[')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = r.appendJSON(dst, false)
	}
	return append(dst, ']')
}

func (r *reader) appendJSONScalar(dst []byte, c byte) []byte {
	var err error
	switch {
	case c == 0xc0:
		r.pos++
		return append(dst, "null"...)
	case c == 0xc2 || c == 0xc3:
		r.pos++
		return strconv.AppendBool(dst, c == 0xc3)
	case c >= 0xc4 && c <= 0xc6:
		return appendBase64(dst, r.str("binary"))
	case c == 0xca:
		var f float32
		if f, err = r.mp.DecodeFloat32(); err == nil {
			return appendFloat(dst, float64(f), 32)
		}
	case c == 0xcb:
		var f float64
		if f, err = r.mp.DecodeFloat64(); err == nil {
			return appendFloat(dst, f, 64)
		}
	case c == 0xcf:
		var u uint64
		if u, err = r.mp.DecodeUint64(); err == nil {
			return strconv.AppendUint(dst, u, 10)
		}
	case c <= 0x7f || c >= 0xe0 || c >= 0xcc && c <= 0xd3:
		var i int64
		if i, err = r.mp.DecodeInt64(); err == nil {
			return strconv.AppendInt(dst, i, 10)
		}
	default:
		return r.appendJSONExt(dst)
	}
	r.fail("msgpack: %v", err)
	return append(dst, "null"...)
}

func (r *reader) appendJSONExt(dst []byte) []byte {
	id, n, err := r.mp.DecodeExtHeader()
	if err != nil || n > len(r.b)-r.pos {
		r.fail("msgpack: bad extension")
		return append(dst, "null"...)
	}
	dst = append(dst, `{"ext":`...)
	dst = strconv.AppendInt(dst, int64(id), 10)
	dst = append(dst, `,"data":`...)
	dst = appendBase64(dst, string(r.b[r.pos:r.pos+n]))
	r.pos += n
	return append(dst, '}')
}

// appendFloat marks whole numbers with a fraction, so that they come back as floats.
func appendFloat(dst []byte, f float64, bits int) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'g', -1, bits)
	if bytes.IndexByte(dst[start:], '.') < 0 && bytes.IndexByte(dst[start:], 'e') < 0 {
		dst = append(dst, ".0"...)
	}
	return dst
}

func appendBase64(dst []byte, s string) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, []byte(s))
	return append(dst, '"')
}

func appendJSONString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[done:i]...), "\uFFFD"...)
				done = i + 1
			}
			i += size
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			dst = append(dst, s[done:i]...)
			if c < ' ' {
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				dst = append(dst, '\\', c)
			}
			done = i + 1
		}
		i++
	}
	return append(append(dst, s[done:]...), '"')
}
