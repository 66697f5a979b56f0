package protocol

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestNextFrameAtEverySplit(t *testing.T) {
	var stream []byte
	var want []Type
	for _, typ := range allTypes() {
		stream = append(stream, frameOf(t, sampleMessages()[typ])...)
		want = append(want, typ)
	}
	stream = append(stream, 0, 0, 0, 0x7f) // unknown and empty
	want = append(want, 0x7f)
	for split := range len(stream) + 1 {
		var got []Type
		var buf, bodies []byte
		for _, part := range [][]byte{stream[:split], stream[split:]} {
			buf = append(buf, part...)
			for {
				typ, body, size, err := NextFrame(buf, MaxBodyBytes)
				require.NoError(t, err)
				if size == 0 {
					require.Nil(t, body)
					break
				}
				require.Len(t, body, size-HeaderBytes)
				bodies = append(append(bodies, buf[:HeaderBytes]...), body...)
				got, buf = append(got, typ), buf[size:]
			}
		}
		require.Equal(t, want, got, "split at %d", split)
		require.Empty(t, buf)
		require.True(t, bytes.Equal(stream, bodies))
	}
}

func TestNextFrameLimit(t *testing.T) {
	header := func(n int) []byte { return []byte{byte(n >> 16), byte(n >> 8), byte(n), byte(TypeJob)} }
	for _, limit := range []int{0, 1, MaxHelloBodyBytes, MaxBodyBytes, 1<<24 - 1} {
		typ, _, size, err := NextFrame(header(limit), limit)
		require.NoError(t, err)
		require.Equal(t, TypeJob, typ)
		if limit > 0 {
			require.Zero(t, size, "incomplete")
		}
		if limit < 1<<24-1 {
			typ, _, size, err = NextFrame(header(limit+1), limit)
			require.Equal(t, ReasonFrameTooLarge, ReasonOf(err), "refused from the header alone")
			require.Zero(t, size)
			require.Equal(t, TypeJob, typ)
		}
	}
	full := append(header(300), make([]byte, 301)...)
	_, body, size, err := NextFrame(full, 300)
	require.NoError(t, err)
	require.Equal(t, 304, size)
	require.Len(t, body, 300)
	for n := range HeaderBytes {
		_, _, size, err := NextFrame([]byte{0xff, 0xff, 0xff}[:min(n, 3)], 1)
		require.NoError(t, err)
		require.Zero(t, size)
	}
}

func TestNextFrameFindsWhatAppendWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "body")
		typ := rapid.Byte().Draw(t, "type")
		b := append([]byte{0, byte(len(body) >> 8), byte(len(body)), typ}, body...)
		b = append(b, rapid.SliceOf(rapid.Byte()).Draw(t, "rest")...)
		got, gotBody, size, err := NextFrame(b, MaxBodyBytes)
		if err != nil || got != Type(typ) || !bytes.Equal(gotBody, body) || size != HeaderBytes+len(body) {
			t.Fatal(got, size, err)
		}
		if cap(gotBody) < len(gotBody) {
			t.Fatal("bad slice")
		}
	})
}

func TestPreface(t *testing.T) {
	require.Equal(t, "ROOST/1\n", Preface)
	require.Contains(t, specText(t), "52 4f 4f 53 54 2f 31 0a")
}
