package protocol

import "encoding/binary"

// Scan walks the one msgpack value at the start of b and returns where it ends. It
// is linear in the bytes present and never recurses or allocates. It refuses
// nesting over [MaxDepth], the unused code 0xc1, and every length or count that is
// larger than the bytes which remain (each element takes at least one byte): so a
// body that passed cannot make a decoder reserve more than was sent.
func Scan(b []byte) (end int, err error) { return scan(b, MaxDepth) }

// CheckPayload reports whether b can be a payload: exactly one encoded msgpack value
// of at most [MaxPayloadBytes] and [MaxPayloadDepth]. The error is a *[Error].
func CheckPayload(b []byte) error {
	if len(b) > MaxPayloadBytes {
		return Errorf(ReasonMalformed, "%d bytes; at most %d are allowed", len(b), MaxPayloadBytes)
	}
	end, err := scan(b, MaxPayloadDepth)
	if err != nil {
		return err
	}
	if end != len(b) {
		return Errorf(ReasonMalformed, "%d bytes follow the msgpack value", len(b)-end)
	}
	return nil
}

func scan(b []byte, maxDepth int) (end int, err error) {
	var left [MaxDepth + 1]uint64 // values still to come at each level
	depth, pos := 0, 0
	left[0] = 1
	for {
		for left[depth] == 0 {
			if depth == 0 {
				return pos, nil
			}
			depth--
		}
		left[depth]--
		if pos >= len(b) {
			return 0, Errorf(ReasonMalformed, "msgpack value ends early at byte %d", pos)
		}
		items, size, ok := shape(b[pos:])
		if !ok {
			return 0, Errorf(ReasonMalformed, "bad msgpack code 0x%02x at byte %d", b[pos], pos)
		}
		if remain := uint64(len(b) - pos); size > remain || items > remain-size {
			return 0, Errorf(ReasonMalformed, "msgpack length %d at byte %d exceeds the %d bytes that remain", max(size, items), pos, remain)
		}
		pos += int(size)
		if items > 0 {
			if depth == maxDepth {
				return 0, Errorf(ReasonMalformed, "msgpack nested deeper than %d at byte %d", maxDepth, pos)
			}
			depth++
			left[depth] = items
		}
	}
}

// shape returns how many values follow the one at the start of b as its elements,
// and how many bytes the value takes without them. A header cut short reports a
// size beyond b, which the caller refuses.
func shape(b []byte) (items, size uint64, ok bool) {
	c := b[0]
	switch {
	case c <= 0x7f || c >= 0xe0: // fixint
		return 0, 1, true
	case c <= 0x8f: // fixmap
		return 2 * uint64(c&0x0f), 1, true
	case c <= 0x9f: // fixarray
		return uint64(c & 0x0f), 1, true
	case c <= 0xbf: // fixstr
		return 0, 1 + uint64(c&0x1f), true
	}
	switch c {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return 0, 1, true
	case 0xc4, 0xd9: // bin8, str8
		return 0, 2 + be(b, 1), true
	case 0xc5, 0xda: // bin16, str16
		return 0, 3 + be(b, 2), true
	case 0xc6, 0xdb: // bin32, str32
		return 0, 5 + be(b, 4), true
	case 0xc7: // ext8
		return 0, 3 + be(b, 1), true
	case 0xc8:
		return 0, 4 + be(b, 2), true
	case 0xc9:
		return 0, 6 + be(b, 4), true
	case 0xcc, 0xd0: // 1-byte numbers
		return 0, 2, true
	case 0xcd, 0xd1:
		return 0, 3, true
	case 0xce, 0xd2, 0xca:
		return 0, 5, true
	case 0xcf, 0xd3, 0xcb:
		return 0, 9, true
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // fixext 1, 2, 4, 8, 16
		return 0, 2 + 1<<(c-0xd4), true
	case 0xdc: // array16
		return be(b, 2), 3, true
	case 0xdd:
		return be(b, 4), 5, true
	case 0xde: // map16
		return 2 * be(b, 2), 3, true
	case 0xdf:
		return 2 * be(b, 4), 5, true
	}
	return 0, 0, false // 0xc1
}

// be reads the n-byte big-endian length after the code. When it is cut short the
// result is larger than any buffer.
func be(b []byte, n int) uint64 {
	if len(b) < 1+n {
		return 1 << 40
	}
	switch n {
	case 1:
		return uint64(b[1])
	case 2:
		return uint64(binary.BigEndian.Uint16(b[1:]))
	default:
		return uint64(binary.BigEndian.Uint32(b[1:]))
	}
}
