package tcp

import (
	"github.com/roost-server/roost/protocol"
)

const (
	// smallBuffer is the least that is reserved for a partial frame or for output.
	smallBuffer = 512

	// bufferClasses counts the sizes: 512 B, doubling up to 256 KiB, then the largest
	// frame there is.
	bufferClasses = 11

	// largestFrame is what the largest class holds.
	largestFrame = protocol.HeaderBytes + protocol.MaxBodyBytes

	// retainBytes is how much each class keeps for reuse, and at least one buffer.
	retainBytes = 64 << 10
)

// buffer is a slice behind a pointer: connections hold 8 bytes for each.
type buffer struct{ b []byte }

// buffers is a loop's store of unused buffers. A buffer given for n bytes has a
// capacity below 4n, so a connection does not hold a large buffer for a few bytes.
type buffers struct {
	free [bufferClasses][]*buffer
}

func classSize(class int) int {
	if class == bufferClasses-1 {
		return largestFrame
	}
	return smallBuffer << class
}

// get returns an empty buffer with room for n bytes, at most largestFrame.
func (p *buffers) get(n int) *buffer {
	class := 0
	for class < bufferClasses-1 && classSize(class) < n {
		class++
	}
	if list := p.free[class]; len(list) > 0 {
		last := len(list) - 1
		out := list[last]
		list[last] = nil
		p.free[class] = list[:last]
		return out
	}
	return &buffer{b: make([]byte, 0, max(n, classSize(class)))}
}

// put takes a buffer back; nothing may use it afterwards. Nil is allowed.
func (p *buffers) put(buf *buffer) {
	if buf == nil {
		return
	}
	size := cap(buf.b)
	if size < smallBuffer || size >= 2*largestFrame {
		return
	}
	class := bufferClasses - 1
	for classSize(class) > size {
		class--
	}
	if keep := max(1, retainBytes/classSize(class)); len(p.free[class]) < keep {
		buf.b = buf.b[:0]
		p.free[class] = append(p.free[class], buf)
	}
}

// grow returns a buffer with the bytes of old and room for n in all, and takes old
// back when it is another one.
func (p *buffers) grow(old *buffer, n int) *buffer {
	if n <= cap(old.b) {
		return old
	}
	out := p.get(n)
	out.b = append(out.b, old.b...)
	p.put(old)
	return out
}
