package tcp

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// collector takes frames as the state machine finds them.
type collector struct {
	limit  int
	got    []found
	stopAt int // stops reading after so many frames; 0: never
	fail   error
}

type found struct {
	t    protocol.Type
	body string
}

func (c *collector) bodyLimit() int { return c.limit }
func (c *collector) reading() bool  { return c.stopAt == 0 || len(c.got) < c.stopAt }
func (c *collector) frame(t protocol.Type, body []byte) error {
	c.got = append(c.got, found{t, string(body)})
	return c.fail
}

// reference reads the whole stream at once.
func reference(b []byte, limit int) (out []found, err error) {
	head := min(len(b), len(protocol.Preface))
	if len(b) > 0 && b[0] == proxySignature[0] {
		return nil, proxyErrorf("")
	}
	if string(b[:head]) != protocol.Preface[:head] {
		return nil, protocol.Errorf(protocol.ReasonBadPreface, "")
	}
	b = b[head:]
	for {
		t, body, size, err := protocol.NextFrame(b, limit)
		if err != nil || size == 0 {
			return out, err
		}
		out = append(out, found{t, string(body)})
		b = b[size:]
	}
}

func rawFrame(t protocol.Type, body []byte) []byte {
	n := len(body)
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), byte(t)}, body...)
}

func stream(bodies ...int) []byte {
	b := []byte(protocol.Preface)
	for i, n := range bodies {
		b = append(b, rawFrame(protocol.Type(i+1), bytes.Repeat([]byte{byte('a' + i)}, n))...)
	}
	return b
}

func TestInputEverySplit(t *testing.T) {
	b := stream(0, 1, 5, 0, 700, 3)
	want, err := reference(b, 1000)
	require.NoError(t, err)
	require.Len(t, want, 6)
	for cut := 0; cut <= len(b); cut++ {
		var in input
		var pool buffers
		got := &collector{limit: 1000}
		require.NoError(t, in.feed(b[:cut], &pool, got))
		require.NoError(t, in.feed(b[cut:], &pool, got))
		require.Equal(t, want, got.got, "cut at %d", cut)
		require.Nil(t, in.part)
	}
}

func TestInputChunks(t *testing.T) {
	b := stream(0, 3, 20, 4000, 0, 70000, 1)
	want, err := reference(b, protocol.MaxBodyBytes)
	require.NoError(t, err)
	for _, chunk := range []int{1, 2, 3, 4, 5, 7, 64, 511, 512, 513, 4096, 65536} {
		var in input
		var pool buffers
		got := &collector{limit: protocol.MaxBodyBytes}
		for at := 0; at < len(b); at += chunk {
			require.NoError(t, in.feed(b[at:min(len(b), at+chunk)], &pool, got))
			requireBounded(t, &in)
		}
		require.Equal(t, want, got.got, "chunks of %d", chunk)
		require.Nil(t, in.part)
	}
}

// requireBounded: a partial frame holds what has come and a little, not what its
// header promises.
func requireBounded(t testing.TB, in *input) {
	if in.part == nil {
		return
	}
	if n, c := len(in.part.b), cap(in.part.b); c > max(2*smallBuffer, 4*n) || c >= 2*largestFrame {
		require.Failf(t, "holds too much", "%d bytes reserved for %d", c, n)
	}
}

func TestInputHoldsWhatCame(t *testing.T) {
	var in input
	var pool buffers
	// As after a time of large frames: the pool is full of large buffers.
	for range 100 {
		for class := range bufferClasses {
			pool.put(&buffer{b: make([]byte, 0, classSize(class))})
		}
	}
	got := &collector{limit: protocol.MaxBodyBytes}
	whole := append([]byte(protocol.Preface), rawFrame(9, make([]byte, protocol.MaxBodyBytes))...)
	for i := 0; i < len(whole); i++ {
		require.NoError(t, in.feed(whole[i:i+1], &pool, got))
		requireBounded(t, &in)
	}
	require.Len(t, got.got, 1)
	require.Len(t, got.got[0].body, protocol.MaxBodyBytes)
}

func TestInputRefuses(t *testing.T) {
	over := []byte{0, 4, 1, 7} // 1025 bytes
	for name, c := range map[string]struct {
		b      []byte
		reason protocol.Reason
		frames int
	}{
		"http":                  {[]byte("GET / HTTP/1.1\r\n\r\n"), protocol.ReasonBadPreface, 0},
		"tls":                   {[]byte{0x16, 3, 1}, protocol.ReasonBadPreface, 0},
		"last preface byte":     {[]byte("ROOST/1\r"), protocol.ReasonBadPreface, 0},
		"oversized first frame": {append([]byte(protocol.Preface), over...), protocol.ReasonFrameTooLarge, 0},
		"oversized later frame": {append(stream(3, 1024), over...), protocol.ReasonFrameTooLarge, 2},
	} {
		for _, chunk := range []int{1, 3, len(c.b)} {
			var in input
			var pool buffers
			got := &collector{limit: 1024}
			var err error
			for at := 0; at < len(c.b) && err == nil; at += chunk {
				err = in.feed(c.b[at:min(len(c.b), at+chunk)], &pool, got)
			}
			require.Error(t, err, name)
			require.Equal(t, c.reason, protocol.ReasonOf(err), name)
			require.Len(t, got.got, c.frames, name)
		}
	}
}

func TestInputStopsWhenNotReading(t *testing.T) {
	var in input
	var pool buffers
	got := &collector{limit: 1000, stopAt: 2}
	require.NoError(t, in.feed(stream(1, 2, 3, 4), &pool, got))
	require.Len(t, got.got, 2)
	require.Nil(t, in.part, "the rest is not kept")

	boom := errors.New("boom")
	in, got = input{}, &collector{limit: 1000, fail: boom}
	b := stream(10, 10)
	require.NoError(t, in.feed(b[:12], &pool, got))
	require.ErrorIs(t, in.feed(b[12:], &pool, got), boom)
	require.Len(t, got.got, 1)
}

func TestInputAllocatesNothing(t *testing.T) {
	var pool buffers
	sink := &counting{}
	b := stream(10, 700, 3000, 20)[len(protocol.Preface):]
	in := input{preface: uint8(len(protocol.Preface))}
	require.Zero(t, testing.AllocsPerRun(200, func() {
		for _, cut := range []int{0, 2, 9, 500, 1500, len(b)} {
			_ = in.feed(b[:cut], &pool, sink)
			_ = in.feed(b[cut:], &pool, sink)
		}
	}))
	require.NotZero(t, sink.n)
}

type counting struct{ n int }

func (c *counting) bodyLimit() int                    { return protocol.MaxBodyBytes }
func (c *counting) reading() bool                     { return true }
func (c *counting) frame(protocol.Type, []byte) error { c.n++; return nil }

// Whatever comes, in whatever pieces: the same frames and the same error as when
// it is read at once, and never more memory than what came.
func FuzzInput(f *testing.F) {
	enc := protocol.NewEncoder()
	valid := []byte(protocol.Preface)
	for _, m := range []protocol.Message{hello(), &protocol.Ping{Nonce: 1}, result(900), &protocol.Close{Reason: 1003}} {
		valid, _ = enc.Append(valid, m)
	}
	f.Add(valid, uint16(1), uint16(7))
	f.Add(stream(0, 1, 600, 2), uint16(3), uint16(512))
	f.Add([]byte("GET / HTTP/1.1"), uint16(1), uint16(1))
	f.Add([]byte("\r\n\r\n\x00"), uint16(98), uint16(1))
	f.Add([]byte("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"), uint16(98), uint16(1))
	f.Add([]byte("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"), uint16(0), uint16(1))
	f.Add(append(stream(4), 0xff, 0xff, 0xff, 1), uint16(2), uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, one, two uint16) {
		const limit = 2048
		want, wantErr := reference(b, limit)
		var in input
		var pool buffers
		got := &collector{limit: limit}
		var err error
		for rest, i := b, 0; len(rest) > 0 && err == nil; i++ {
			n := 1 + int(one)
			if i%2 == 1 {
				n = 1 + int(two)
			}
			n = min(n, len(rest))
			err = in.feed(rest[:n], &pool, got)
			rest = rest[n:]
			requireBounded(t, &in)
		}
		switch {
		case wantErr == nil:
			require.NoError(t, err)
		case bytes.HasPrefix(b, []byte(proxyV1)): // known for what it is when it comes in one piece
			require.Contains(t, []protocol.Reason{protocol.ReasonBadPreface, protocol.ReasonOf(proxyErrorf(""))}, protocol.ReasonOf(err))
		default:
			require.Equal(t, protocol.ReasonOf(wantErr), protocol.ReasonOf(err))
		}
		require.Equal(t, want, got.got)
	})
}
