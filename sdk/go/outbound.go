package roost

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/roost-server/roost/protocol"
)

const (
	// roomBytes of queued frames stop the reader and PROGRESS until the writer has
	// caught up: so a member that does not read is not read from either.
	roomBytes = 1 << 20

	// writeChunk is the most that one write deadline has to cover.
	writeChunk = 256 << 10

	// keepBytes is the largest buffer kept for reuse.
	keepBytes = 64 << 10
)

// outbound is what waits to be written on one connection. Frames are encoded when
// they are queued; the writer takes all of them at once.
type outbound struct {
	wake chan struct{} // of capacity 1: there is something to write
	gone chan struct{} // closed by abandon

	mu      sync.Mutex
	buf     []byte
	enc     *protocol.Encoder
	limit   int           // of a body, by WELCOME
	closing bool          // nothing more may be queued
	dead    bool          // gone is closed
	drained chan struct{} // closed at the next take; nil without a waiter
}

func newOutbound() *outbound {
	return &outbound{
		wake: make(chan struct{}, 1), gone: make(chan struct{}),
		enc: protocol.NewEncoder(), limit: protocol.MaxBodyBytes,
	}
}

// send queues a frame. It never blocks. An error means that m cannot be encoded or
// the connection is ending; the former only for m over a limit.
func (o *outbound) send(m protocol.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return ErrNotConnected
	}
	start := len(o.buf)
	buf, err := o.enc.Append(o.buf, m)
	o.buf = buf
	if err == nil && len(buf)-start-protocol.HeaderBytes > o.limit {
		o.buf = buf[:start]
		err = protocol.Errorf(protocol.ReasonFrameTooLarge, "%v of %d bytes; the member takes at most %d",
			m.Type(), len(buf)-start-protocol.HeaderBytes, o.limit)
	}
	if err == nil {
		o.signal()
	}
	return err
}

// finish queues a last frame, if it can be encoded, and lets the writer end after it.
func (o *outbound) finish(m protocol.Message) {
	_ = o.send(m)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closing = true
	o.signal()
}

// abandon ends everything that waits, without writing what is queued.
func (o *outbound) abandon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closing = true
	if !o.dead {
		o.dead = true
		close(o.gone)
	}
}

func (o *outbound) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take gives the writer what is queued, and spare for what comes next.
func (o *outbound) take(spare []byte) (buf []byte, closing bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if cap(spare) > keepBytes {
		spare = nil
	}
	buf, o.buf = o.buf, spare[:0]
	if o.drained != nil {
		close(o.drained)
		o.drained = nil
	}
	return buf, o.closing
}

// waitRoom waits until less than roomBytes are queued. It returns ErrNotConnected
// after abandon, or the cause of ctx's end.
func (o *outbound) waitRoom(ctx context.Context) error {
	for {
		o.mu.Lock()
		switch {
		case o.dead:
			o.mu.Unlock()
			return ErrNotConnected
		case len(o.buf) < roomBytes:
			o.mu.Unlock()
			return nil
		case o.drained == nil:
			o.drained = make(chan struct{})
		}
		drained := o.drained
		o.mu.Unlock()
		select {
		case <-drained:
		case <-o.gone:
			return ErrNotConnected
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// writeAll writes b under a deadline for each chunk of it.
func writeAll(conn net.Conn, b []byte, timeout time.Duration) error {
	for len(b) > 0 {
		n := min(len(b), writeChunk)
		if err := conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
