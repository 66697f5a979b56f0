package roost

import (
	"io"

	"github.com/roost-server/roost/protocol"
)

// firstReadBytes is the read buffer of a connection that carries small frames.
const firstReadBytes = 4 << 10

// frameReader reads frames. Its buffer grows with the bytes that have come, never
// with what a header announces, and shrinks again after a large frame.
type frameReader struct {
	src   io.Reader
	buf   []byte
	start int // of the bytes not yet taken
	end   int
}

func newFrameReader(src io.Reader) *frameReader {
	return &frameReader{src: src, buf: make([]byte, firstReadBytes)}
}

// buffered takes the next frame that is there already; size is 0 when it is not.
// The body is valid until the next call of fill.
func (r *frameReader) buffered(maxBody int) (t protocol.Type, body []byte, size int, err error) {
	t, body, size, err = protocol.NextFrame(r.buf[r.start:r.end], maxBody)
	r.start += size
	return t, body, size, err
}

// fill reads once.
func (r *frameReader) fill() error {
	n := copy(r.buf, r.buf[r.start:r.end])
	r.start, r.end = 0, n
	switch {
	case n == len(r.buf): // all of it is one frame's beginning
		bigger := make([]byte, 2*len(r.buf))
		copy(bigger, r.buf)
		r.buf = bigger
	case len(r.buf) > keepBytes && n < firstReadBytes:
		smaller := make([]byte, firstReadBytes)
		copy(smaller, r.buf[:n])
		r.buf = smaller
	}
	n, err := r.src.Read(r.buf[r.end:])
	r.end += n
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}
