package record

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

// TestAppendIsWhatTheEncoderWrites compares with msgpack/v5 at every change of form.
func TestAppendIsWhatTheEncoderWrites(t *testing.T) {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.UseCompactInts(true)
	for shift := range 64 {
		for _, near := range []int64{-2, -1, 0, 1, 2} {
			for _, v := range []int64{1<<shift + near, -1<<shift + near, math.MinInt64, math.MaxInt64} {
				buf.Reset()
				require.NoError(t, enc.EncodeInt(v))
				require.Equal(t, buf.Bytes(), appendInt(nil, v), "%d", v)
				reads(t, v, buf.Bytes())
				buf.Reset()
				require.NoError(t, enc.EncodeInt64(v)) // 9 bytes, whatever v
				reads(t, v, buf.Bytes())
			}
		}
	}
	for _, n := range []int{0, 1, 31, 32, 255, 256, 65_535, 65_536} {
		s := strings.Repeat("x", n)
		buf.Reset()
		require.NoError(t, enc.EncodeString(s))
		require.Equal(t, buf.Bytes(), appendText(nil, s), "%d bytes", n)
	}
}

// reads checks that the reader takes an integer for what it is.
func reads(t *testing.T, v int64, encoded []byte) {
	r, err := openReader(encoded)
	require.NoError(t, err)
	defer r.close()
	require.Equal(t, v, r.int("n"))
	require.NoError(t, r.err)
	require.Equal(t, len(encoded), r.pos)
}
