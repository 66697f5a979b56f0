package tcp

import (
	"errors"
	"io"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

// This file is the life of a connection on its loop: open, traffic, time, end.

// open takes a socket that was just accepted, or refuses it.
func (l *Loop) open(gc gnet.Conn) {
	was := l.begin()
	s := l.server
	c := &Conn{gc: gc, loop: l, slot: noSlot, last: l.tick}
	gc.SetContext(c)
	l.stats.accepted.Add(1)
	if s.cfg.ProxyProtocol {
		c.flags |= flagProxy
	}
	if no := s.admit(l, gc); no != nil {
		c.flags |= flagRefused
		l.stats.refused[no.cause].Add(1)
		if int(s.refusing.Add(1)) > s.limits.refused {
			c.flags |= flagAbrupt // no files are left for waiting
		}
		c.Close(no.reason, no.message, spread(no.retryAfter))
	} else {
		l.stats.open.Add(1)
		l.stats.handshaking.Add(1)
		c.in.until = l.tick + s.helloTicks
		l.wheel.schedule(c, c.in.until)
	}
	l.end(was)
}

// traffic takes what was read.
func (l *Loop) traffic(c *Conn, gc gnet.Conn) {
	was := l.begin()
	// gnet's own buffer is always empty, so this is the loop's read buffer, which
	// stays as it is until the next read, discarded or not.
	b, _ := gc.Peek(-1)
	_, _ = gc.Discard(-1)
	l.stats.reads.Add(1)
	l.stats.bytesIn.Add(uint64(len(b)))
	if c.reading() {
		c.last = l.tick
		had, frames := c.in.part != nil, l.frames
		if err := l.take(c, b); err != nil {
			c.fail(err)
		}
		if begun := l.frames - frames; begun > 0 {
			l.stats.framesIn.Add(begun)
			had = false
		}
		if c.state == stateOpen && c.in.part != nil && !had {
			l.partial(c)
		}
	}
	if c.state >= stateClosing {
		c.in.release(&l.pool)
	}
	l.end(was)
}

// take takes the next bytes of a connection.
func (l *Loop) take(c *Conn, b []byte) (err error) {
	if c.flags&flagProxy != 0 {
		if b, err = l.proxied(c, b); err != nil || len(b) == 0 {
			return err
		}
	}
	return c.in.feed(b, &l.pool, c)
}

// partial notes that a frame has begun that has to be complete in FrameTimeout.
func (l *Loop) partial(c *Conn) {
	c.in.until = l.tick + l.server.frameTicks
	if after(l.wheel.due(c), c.in.until) {
		l.wheel.schedule(c, c.in.until)
	}
}

// ticked is the tick's task.
func (l *Loop) ticked() {
	l.ticking.Store(false)
	l.wheel.advance(l.tick, l.expire)
}

// expired looks at a connection whose slot came round.
func (l *Loop) expired(c *Conn) {
	due := c.due()
	if after(due, l.tick) && (c.state < stateClosing || c.flags&flagHalf != 0) {
		l.wheel.schedule(c, due)
		return
	}
	switch {
	case c.state == stateHandshake:
		c.close(protocol.ReasonHelloTimeout, "the handshake is not complete in time", 0, nil)
	case c.state == stateOpen && c.in.part != nil && due == c.in.until:
		c.close(protocol.ReasonHeartbeatTimeout, "a frame is not complete in time", 0, nil)
	case c.state == stateOpen:
		c.close(protocol.ReasonHeartbeatTimeout, "nothing was heard for too long", 0, nil)
	case c.state == stateClosing && after(due, l.tick):
		l.linger(c)
	case c.state == stateClosing:
		l.cuts = append(l.cuts, c)
	}
}

// leave is the one way out: it makes c a connection that is closing, counts why, and
// remembers to tell the handler at the end of the batch.
func (l *Loop) leave(c *Conn, reason protocol.Reason, cause error) {
	switch {
	case c.flags&flagRefused != 0:
	case c.state == stateHandshake:
		l.server.handshaking.Add(-1)
		l.stats.handshaking.Add(-1)
	case c.state == stateOpen:
		l.stats.established.Add(-1)
		l.gone = append(l.gone, gone{c, cause})
	}
	c.state = stateClosing
	c.reason = reason
	c.in.release(&l.pool)
	c.in.until = l.tick + l.server.lingerTicks
	l.stats.lingering.Add(1)
	l.stats.countClose(reason)
	l.markDirty(c) // flush goes on with the closing
}

// linger half-closes once all output has left, and waits for the peer to close.
func (l *Loop) linger(c *Conn) {
	if c.flags&flagHalf == 0 && c.gc.OutboundBuffered() == 0 {
		c.flags |= flagHalf
		// Fails when the peer is gone already, which the next read event tells.
		_ = unix.Shutdown(c.gc.Fd(), unix.SHUT_WR)
	}
	if c.flags&flagHalf != 0 {
		l.wheel.schedule(c, c.in.until)
	} else {
		l.wheel.schedule(c, l.tick+1) // nothing tells when output has left
	}
}

// cut closes the socket.
func (l *Loop) cut(c *Conn) {
	if c.gc == nil {
		return
	}
	if c.gc.OutboundBuffered() > 0 {
		l.stats.cut.Add(1)
	}
	_ = l.el.Close(socket(c.gc))
}

// closed takes gnet's news that the socket is gone, for whatever reason. It may come
// in the middle of a batch.
func (l *Loop) closed(c *Conn, err error) {
	was := l.begin()
	if c.state < stateClosing {
		reason, cause := l.server.whyClosed(err)
		l.leave(c, reason, cause)
	}
	if c.state == stateClosing {
		c.state = stateClosed
		l.stats.lingering.Add(-1)
		if c.flags&flagRefused != 0 {
			l.server.refusing.Add(-1)
		} else {
			l.server.open.Add(-1)
			l.stats.open.Add(-1)
		}
		l.wheel.remove(c)
		l.pool.put(c.out)
		c.out = nil
	}
	if was {
		c.gc = nil // in the middle of a batch, the rest of which must not touch it
	}
	l.end(was)
	c.gc = nil // until here Closed may ask for the address
}

// whyClosed sorts the errors that end a socket.
func (s *Server) whyClosed(err error) (protocol.Reason, error) {
	switch {
	case err == nil:
		if no := s.no.Load(); no != nil && s.stopping.Load() {
			return no.reason, nil // the engine closes what is left
		}
		return protocol.ReasonInternal, errors.New("tcp: closed after a panic")
	case errors.Is(err, io.EOF): // with or without CLOSE: it is the node that left
		return protocol.ReasonBye, io.EOF
	case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return protocol.ReasonHeartbeatTimeout, err // the kernel's own kind of silence
	default: // reset, broken pipe
		return protocol.ReasonBye, err
	}
}
