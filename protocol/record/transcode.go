package record

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol"
)

// FromJSON turns one JSON value into msgpack. Integers stay integers as far as 64
// bits go; objects are written with sorted keys. Nesting over [protocol.MaxDepth] is
// refused.
func FromJSON(b []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("JSON: something follows the value")
	}
	a := &appender{}
	mp := msgpack.NewEncoder(a)
	mp.UseCompactInts(true)
	if err := encodeAny(mp, v, 0); err != nil {
		return nil, err
	}
	return a.b, nil
}

func encodeAny(mp *msgpack.Encoder, v any, depth int) error {
	if depth > protocol.MaxDepth {
		return fmt.Errorf("JSON: nested deeper than %d", protocol.MaxDepth)
	}
	switch v := v.(type) {
	case nil:
		return mp.EncodeNil()
	case bool:
		return mp.EncodeBool(v)
	case string:
		return mp.EncodeString(v)
	case json.Number:
		return encodeNumber(mp, v)
	case []any:
		_ = mp.EncodeArrayLen(len(v))
		for _, e := range v {
			if err := encodeAny(mp, e, depth+1); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		_ = mp.EncodeMapLen(len(v))
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			_ = mp.EncodeString(k)
			if err := encodeAny(mp, v[k], depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("JSON: unexpected %T", v)
}

func encodeNumber(mp *msgpack.Encoder, n json.Number) error {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return mp.EncodeInt(i)
	}
	if u, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
		return mp.EncodeUint(u)
	}
	f, err := n.Float64()
	if err != nil {
		return fmt.Errorf("JSON: number %s: %w", n, err)
	}
	return mp.EncodeFloat64(f)
}

// ToJSON turns one msgpack value into JSON. Binary becomes a base64 string, an
// extension {"ext":type,"data":base64}, NaN and infinities null; keys that are not
// strings become strings.
func ToJSON(b []byte) ([]byte, error) {
	end, err := protocol.Scan(b)
	if err != nil {
		return nil, err
	}
	if end != len(b) {
		return nil, fmt.Errorf("msgpack: %d bytes follow the value", len(b)-end)
	}
	r := &reader{b: b, mp: msgpack.GetDecoder()}
	r.mp.Reset((*source)(r))
	out := r.appendJSON(make([]byte, 0, len(b)+len(b)/2), false)
	msgpack.PutDecoder(r.mp)
	return out, r.err
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
	case c == 0xca || c == 0xcb:
		var f float64
		if f, err = r.mp.DecodeFloat64(); err == nil {
			if math.IsNaN(f) || math.IsInf(f, 0) {
				return append(dst, "null"...)
			}
			return strconv.AppendFloat(dst, f, 'g', -1, 64)
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

func appendBase64(dst []byte, s string) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, []byte(s))
	return append(dst, '"')
}

func appendJSONString(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return append(dst, `""`...)
	}
	return append(dst, b...)
}
