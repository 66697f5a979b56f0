package protocol

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// reference is Scan written as naively as possible: recursive, by the format's table.
func reference(b []byte, depth int) (rest []byte, ok bool) {
	if len(b) == 0 || depth > MaxDepth {
		return nil, false
	}
	c, b := b[0], b[1:]
	number := func(n int) int {
		if len(b) < n {
			ok = false
			return 0
		}
		v := append(make([]byte, 8-n), b[:n]...)
		b, ok = b[n:], true
		return int(binary.BigEndian.Uint64(v))
	}
	skip := func(n int) ([]byte, bool) {
		if !ok || n > len(b) {
			return nil, false
		}
		return b[n:], true
	}
	elements := func(n int) ([]byte, bool) {
		if !ok || n > len(b) {
			return nil, false
		}
		for range n {
			if b, ok = reference(b, depth+1); !ok {
				return nil, false
			}
		}
		return b, true
	}
	ok = true
	switch {
	case c <= 0x7f || c >= 0xe0 || c == 0xc0 || c == 0xc2 || c == 0xc3:
		return b, true
	case c <= 0x8f:
		return elements(2 * int(c&0x0f))
	case c <= 0x9f:
		return elements(int(c & 0x0f))
	case c <= 0xbf:
		return skip(int(c & 0x1f))
	case c >= 0xc4 && c <= 0xc6:
		return skip(number(1 << (c - 0xc4)))
	case c >= 0xc7 && c <= 0xc9:
		return skip(1 + number(1<<(c-0xc7)))
	case c == 0xca || c == 0xcb:
		return skip(4 << (c - 0xca))
	case c >= 0xcc && c <= 0xd3:
		return skip(1 << ((c - 0xcc) & 3))
	case c >= 0xd4 && c <= 0xd8:
		return skip(1 + 1<<(c-0xd4))
	case c >= 0xd9 && c <= 0xdb:
		return skip(number(1 << (c - 0xd9)))
	case c == 0xdc || c == 0xdd:
		return elements(number(2 << (c - 0xdc)))
	case c == 0xde || c == 0xdf:
		return elements(2 * number(2<<(c-0xde)))
	}
	return nil, false
}

func agree(t require.TestingT, b []byte) {
	end, err := Scan(b)
	rest, ok := reference(b, 0)
	require.Equal(t, ok, err == nil, "% x: %v", b[:min(len(b), 64)], err)
	if ok {
		require.Equal(t, len(b)-len(rest), end, "% x", b[:min(len(b), 64)])
	} else {
		require.Equal(t, ReasonMalformed, ReasonOf(err))
		require.Zero(t, end)
	}
}

func TestScanAgreesWithReference(t *testing.T) {
	for c := range 256 { // every code before every next byte, then zeros
		for next := range 256 {
			for _, n := range []int{0, 1, 2, 3, 5, 9, 18, 300} {
				b := append([]byte{byte(c), byte(next)}, make([]byte, n)...)
				agree(t, b)
			}
		}
		agree(t, []byte{byte(c)})
	}
	rapid.Check(t, func(t *rapid.T) {
		agree(t, rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	})
	rapid.Check(t, func(t *rapid.T) {
		b := genPayload().Draw(t, "value")
		agree(t, b)
		b = append(b, rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "more")...)
		agree(t, b)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		agree(t, b)
		agree(t, b[:rapid.IntRange(0, len(b)).Draw(t, "cut")])
	})
}

func TestScanDepth(t *testing.T) {
	for _, open := range [][]byte{{0x91}, {0x81, 1}, {0xdc, 0, 1}, {0xdf, 0, 0, 0, 1, 0xa1, 'k'}} {
		deep := func(n int) []byte { return append(bytes.Repeat(open, n), 0xc0) }
		_, err := Scan(deep(MaxDepth))
		require.NoError(t, err)
		_, err = Scan(deep(MaxDepth + 1))
		require.ErrorContains(t, err, "deeper than 16")
		require.NoError(t, CheckPayload(deep(MaxPayloadDepth)))
		require.ErrorContains(t, CheckPayload(deep(MaxPayloadDepth+1)), "deeper than 15")
	}
	_, err := Scan(append(bytes.Repeat([]byte{0x91}, MaxDepth), 0x90))
	require.NoError(t, err, "an empty array is a value, not a level")
	// Many siblings at the deepest level, and coming up again.
	b := []byte{0x93, 0x92, 0x91, 0x91, 1, 2, 0x82, 1, 0x91, 2, 3, 0x90, 5}
	end, err := Scan(append(b, 0xff))
	require.NoError(t, err)
	require.Equal(t, len(b), end)
}

func TestScanHostile(t *testing.T) {
	millionArrays := bytes.Repeat([]byte{0x91}, 1_000_000)
	for name, b := range map[string][]byte{
		"bin32 of 2 GB in 5 bytes":    {0xc6, 0x7f, 0xff, 0xff, 0xff},
		"str32 of 4 GB":               {0xdb, 0xff, 0xff, 0xff, 0xff},
		"ext32 of 4 GB":               {0xc9, 0xff, 0xff, 0xff, 0xff, 1},
		"array32 of 4 G":              {0xdd, 0xff, 0xff, 0xff, 0xff, 1},
		"map32 of 4 G":                {0xdf, 0xff, 0xff, 0xff, 0xff, 1, 1},
		"map16 of half what it says":  {0xde, 0, 2, 1, 1},
		"fixmap without a value":      {0x81, 1},
		"one element short":           {0x93, 1, 2},
		"a million nested arrays":     millionArrays,
		"a million nested maps":       bytes.Repeat([]byte{0x81, 1}, 500_000),
		"the unused code":             {0xc1},
		"the unused code within":      {0x92, 1, 0xc1},
		"empty":                       {},
		"fixext 16 cut":               {0xd8, 1, 2, 3},
		"array16 header cut":          {0xdc, 1},
		"counts that add up too high": {0x92, 0x92, 1, 1, 0x95, 1, 1},
	} {
		var end int
		var err error
		bytesUsed := allocated(func() { end, err = Scan(b) })
		require.Error(t, err, name)
		require.Zero(t, end)
		require.Less(t, bytesUsed, uint64(256<<10), name)
		require.Error(t, NewDecoder().Decode(b, &Job{}), name)
		require.Error(t, CheckPayload(b), name)
	}
	good := pack(t, []any{1, "text", []byte("bin"), map[string]any{"k": []any{1.5, nil, true}}})
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = Scan(good) }))
}

func TestCheckPayloadSize(t *testing.T) {
	require.NoError(t, CheckPayload(payloadOf(MaxPayloadBytes)))
	require.ErrorContains(t, CheckPayload(payloadOf(MaxPayloadBytes+1)), "458752")
	require.ErrorContains(t, CheckPayload([]byte{1, 2}), "follow")
}

// allocated returns how many bytes f allocated, give or take some pages: the least of
// a few runs, since the runtime counts small ones late and others run too.
func allocated(f func()) uint64 {
	read := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	least := uint64(math.MaxUint64)
	for range 4 {
		before := read()
		f()
		if least = min(least, read()-before); least < 64<<10 {
			break
		}
	}
	return least
}
