package checker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

var errShort = errors.New("msgpack: it ends early")

// unpack decodes one msgpack value that fills b. Maps become map[string]any, integers
// int64, binaries strings.
func unpack(b []byte) (any, error) {
	v, rest, err := unpackValue(b, 0)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("msgpack: %d bytes after the value", len(rest))
	}
	return v, err
}

func unpackValue(b []byte, depth int) (v any, rest []byte, err error) {
	if len(b) == 0 || depth > 32 {
		return nil, nil, errShort
	}
	c := b[0]
	b = b[1:]
	switch {
	case c <= 0x7f:
		return int64(c), b, nil
	case c >= 0xe0:
		return int64(int8(c)), b, nil
	case c&0xf0 == 0x80:
		return unpackMap(b, int(c&0x0f), depth)
	case c&0xf0 == 0x90:
		return unpackArray(b, int(c&0x0f), depth)
	case c&0xe0 == 0xa0:
		return unpackText(b, int(c&0x1f))
	}
	switch c {
	case 0xc0:
		return nil, b, nil
	case 0xc2, 0xc3:
		return c == 0xc3, b, nil
	}
	return unpackLong(c, b, depth)
}

// unpackLong handles the forms whose code is followed by a number: a value or a length.
func unpackLong(c byte, b []byte, depth int) (any, []byte, error) {
	size := map[byte]int{
		0xc4: 1, 0xc5: 2, 0xc6: 4, 0xca: 4, 0xcb: 8, 0xcc: 1, 0xcd: 2, 0xce: 4, 0xcf: 8,
		0xd0: 1, 0xd1: 2, 0xd2: 4, 0xd3: 8, 0xd9: 1, 0xda: 2, 0xdb: 4, 0xdc: 2, 0xdd: 4, 0xde: 2, 0xdf: 4,
	}[c]
	if size == 0 {
		return nil, nil, fmt.Errorf("msgpack: code 0x%02x", c)
	}
	if len(b) < size {
		return nil, nil, errShort
	}
	var word [8]byte
	copy(word[8-size:], b[:size])
	n := binary.BigEndian.Uint64(word[:])
	b = b[size:]
	switch c {
	case 0xca:
		return float64(math.Float32frombits(uint32(n))), b, nil
	case 0xcb:
		return math.Float64frombits(n), b, nil
	case 0xcc, 0xcd, 0xce, 0xcf:
		return int64(n), b, nil
	case 0xd0:
		return int64(int8(n)), b, nil
	case 0xd1:
		return int64(int16(n)), b, nil
	case 0xd2:
		return int64(int32(n)), b, nil
	case 0xd3:
		return int64(n), b, nil
	}
	if n > uint64(len(b)) {
		return nil, nil, errShort
	}
	switch c {
	case 0xdc, 0xdd:
		return unpackArray(b, int(n), depth)
	case 0xde, 0xdf:
		return unpackMap(b, int(n), depth)
	}
	return unpackText(b, int(n))
}

func unpackText(b []byte, n int) (any, []byte, error) {
	if n > len(b) {
		return nil, nil, errShort
	}
	return string(b[:n]), b[n:], nil
}

func unpackArray(b []byte, n, depth int) (any, []byte, error) {
	list := []any{}
	for range n {
		v, rest, err := unpackValue(b, depth+1)
		if err != nil {
			return nil, nil, err
		}
		list, b = append(list, v), rest
	}
	return list, b, nil
}

func unpackMap(b []byte, n, depth int) (any, []byte, error) {
	m := map[string]any{}
	for range n {
		k, rest, err := unpackValue(b, depth+1)
		if err != nil {
			return nil, nil, err
		}
		key, ok := k.(string)
		if !ok {
			return nil, nil, fmt.Errorf("msgpack: a key is %T", k)
		}
		if _, twice := m[key]; twice {
			return nil, nil, fmt.Errorf("msgpack: key %q is there twice", key)
		}
		if m[key], b, err = unpackValue(rest, depth+1); err != nil {
			return nil, nil, err
		}
	}
	return m, b, nil
}
