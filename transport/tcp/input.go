package tcp

import (
	"github.com/roost-server/roost/protocol"
)

// frames receives what [input] finds.
type frames interface {
	// bodyLimit is the largest body allowed at this moment.
	bodyLimit() int
	// frame takes a frame; body is valid until it returns.
	frame(t protocol.Type, body []byte) error
	// reading reports whether more input is wanted.
	reading() bool
}

// input is the state of a connection's incoming bytes: where in the preface it is,
// and the beginning of a frame whose end has not come. It is pure: bytes in, frames
// out.
//
// Whole frames are taken where they lie in the read buffer. A frame that is cut is
// collected in part; each of its bytes is copied once (and again, amortized, when
// part grows), however slowly they come, and part never reserves more than four
// times what has come, nor more than the frame needs when that is over 512 bytes.
type input struct {
	part    *buffer // nil between frames
	until   uint32  // owner's: the tick by which what is waited for has to be there
	preface uint8   // bytes of the preface that have come
}

// feed takes the next bytes. The error is the handler's, or a *protocol.Error.
func (in *input) feed(b []byte, pool *buffers, to frames) error {
	if int(in.preface) < len(protocol.Preface) {
		if in.preface == 0 && len(b) > 0 {
			if err := unwantedProxy(b); err != nil {
				return err
			}
		}
		n, err := in.matchPreface(b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	for len(b) > 0 && to.reading() {
		if in.part != nil {
			n, err := in.fill(b, pool, to)
			if err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		t, body, size, err := protocol.NextFrame(b, to.bodyLimit())
		if err != nil {
			return err
		}
		if size == 0 {
			in.part = pool.get(len(b))
			in.part.b = append(in.part.b, b...)
			return nil
		}
		b = b[size:]
		if err := to.frame(t, body); err != nil {
			return err
		}
	}
	return nil
}

// matchPreface compares as much of the preface as has come, so that the first wrong
// byte ends it.
func (in *input) matchPreface(b []byte) (n int, err error) {
	for n < len(b) && int(in.preface) < len(protocol.Preface) {
		if want := protocol.Preface[in.preface]; b[n] != want {
			return n, protocol.Errorf(protocol.ReasonBadPreface,
				"byte %d of the preface is 0x%02x instead of 0x%02x; a connection starts with %q",
				in.preface, b[n], want, protocol.Preface)
		}
		in.preface++
		n++
	}
	return n, nil
}

// fill adds to the partial frame and hands it over once it is whole. It returns how
// much of b it took.
func (in *input) fill(b []byte, pool *buffers, to frames) (taken int, err error) {
	part := in.part
	if need := protocol.HeaderBytes - len(part.b); need > 0 {
		taken = min(need, len(b))
		part.b = append(part.b, b[:taken]...)
		if taken < need {
			return taken, nil
		}
	}
	// Refused by its header alone, before anything is reserved for the body.
	t, _, _, err := protocol.NextFrame(part.b, to.bodyLimit())
	if err != nil {
		return taken, err
	}
	size := frameSize(part.b)
	n := min(size-len(part.b), len(b)-taken)
	part = pool.grow(part, len(part.b)+n)
	part.b = append(part.b, b[taken:taken+n]...)
	taken += n
	if len(part.b) < size {
		in.part = part
		return taken, nil
	}
	in.part = nil
	err = to.frame(t, part.b[protocol.HeaderBytes:])
	pool.put(part)
	return taken, err
}

// frameSize returns the whole length of the frame whose header is at the start of b.
func frameSize(b []byte) int {
	return protocol.HeaderBytes + (int(b[0])<<16 | int(b[1])<<8 | int(b[2]))
}

// release gives back what is held.
func (in *input) release(pool *buffers) {
	pool.put(in.part)
	in.part = nil
}
