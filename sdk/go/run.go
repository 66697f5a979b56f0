package roost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roost-server/roost/protocol"
)

// stopGrace is how long handlers have to return once shutdown ended their contexts.
const stopGrace = time.Second

// Run connects and works until ctx ends or a member says that the node must not come
// back. It may be called once.
//
// When ctx ends the node asks for no more jobs and waits up to [Config].DrainTimeout
// for those it has, and (while connected) for the acknowledgements of their results;
// then it ends the contexts of handlers that still run, says goodbye and returns nil,
// or [ErrHandlersRunning] when some of them do not return within a second. Their jobs
// have no result and are delivered again.
//
// After a reason that forbids to come back it drains in the same way, without a
// connection, and returns a [*CloseError].
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	ran := c.ran
	c.ran = true
	c.mu.Unlock()
	if ran {
		return errRanBefore
	}
	defer c.endBase(ErrShutdown)
	again := retry{rand: c.rand}
	addrs := rotation{servers: shuffled(c.cfg.Servers, c.rand)}
	for {
		addr := addrs.pick()
		end := c.connect(ctx, addr)
		wait, stop := again.after(end)
		if ctx.Err() != nil {
			c.emit(end.event(addr, -1))
			if end.bye {
				return end.err
			}
			return c.drain(nil)
		}
		if stop {
			c.emit(end.event(addr, -1))
			if err := c.drain(nil); err != nil {
				return errors.Join(end.stopError(addr), err)
			}
			return end.stopError(addr)
		}
		if end.goaway != nil {
			addrs.advise(end.goaway.Addresses)
		}
		if end.closed != nil && len(end.closed.Addresses) > 0 {
			addrs.advise(end.closed.Addresses)
		}
		c.emit(end.event(addr, wait))
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return c.drain(nil)
		}
	}
}

func (e *sessionEnd) event(addr string, wait time.Duration) Disconnected {
	d := Disconnected{Addr: addr, Err: e.err, RetryIn: wait}
	switch {
	case e.fatal != nil:
		d.Reason, d.Message = e.fatal.Reason, e.fatal.Message
	case e.closed != nil:
		d.Reason, d.Message = e.closed.Reason, e.closed.Message
	case e.goaway != nil:
		d.Reason, d.Message = e.goaway.Reason, e.goaway.Message
	}
	return d
}

func (e *sessionEnd) stopError(addr string) *CloseError {
	if e.fatal != nil {
		return e.fatal
	}
	return &CloseError{Reason: e.closed.Reason, Message: e.closed.Message, Addr: addr}
}

// connect opens one connection and serves it to its end.
func (c *Client) connect(ctx context.Context, addr string) *sessionEnd {
	dialCtx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	conn, err := c.cfg.Dial(dialCtx, "tcp", addr)
	if err != nil {
		return endOf(fmt.Errorf("dial: %w", err))
	}
	defer conn.Close()
	handCtx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	s, hello, err := c.handshake(handCtx, conn, addr)
	if err != nil {
		return endOf(err)
	}
	c.opened(s, hello)
	return s.serve(ctx)
}

// endOf sorts an error: the member's CLOSE, one that forbids to come back, or other.
func endOf(err error) *sessionEnd {
	e := &sessionEnd{}
	var closed *closedError
	switch {
	case errors.As(err, &closed):
		e.closed = &closed.frame
	case errors.As(err, &e.fatal):
	default:
		e.err = err
	}
	return e
}

// serve runs the reader and the writer until the connection ends, the node has to
// leave, or ctx ends.
func (s *session) serve(ctx context.Context) *sessionEnd {
	c, since := s.client, time.Now()
	go func() {
		defer close(s.readDone)
		s.readErr = s.readLoop()
	}()
	go func() {
		defer close(s.writeDone)
		s.writeErr = s.writeLoop()
	}()
	var goaway *protocol.GoAway
	var leaveAt <-chan time.Time
	end := &sessionEnd{}
	for waiting := true; waiting; {
		select {
		case l := <-s.goaway:
			goaway = &l.frame
			timer := time.NewTimer(l.in)
			defer timer.Stop()
			leaveAt = timer.C
			continue
		case <-leaveAt:
			s.depart(protocol.ReasonBye, "leaving as asked")
			end.left = true
		case <-ctx.Done():
			end.bye, end.err = true, c.drain(s)
			s.depart(protocol.ReasonBye, "the node stops")
		case <-s.readDone:
			end = s.readEnded()
		case <-s.writeDone:
			end = s.writeEnded()
		}
		waiting = false
	}
	s.stop()
	if goaway == nil {
		select { // it came together with the end
		case l := <-s.goaway:
			goaway = &l.frame
		default:
		}
	}
	end.goaway, end.lasted = goaway, time.Since(since)
	return end
}

// readEnded tells the member what it did wrong, if that is why.
func (s *session) readEnded() *sessionEnd {
	var pe *protocol.Error
	if errors.As(s.readErr, &pe) {
		s.depart(pe.Reason, pe.Message)
	}
	return endOf(s.readErr)
}

// writeEnded prefers a CLOSE that waits to be read: a member that closes makes
// writes fail before the reader comes to its words.
func (s *session) writeEnded() *sessionEnd {
	timer := time.NewTimer(lingerTimeout)
	defer timer.Stop()
	select {
	case <-s.readDone:
		if end := endOf(s.readErr); end.closed != nil {
			return end
		}
	case <-timer.C:
	}
	return endOf(fmt.Errorf("write: %w", s.writeErr))
}

// depart sends CLOSE after everything queued, and gives the member time to take it:
// closing a socket with unread bytes would reset it.
func (s *session) depart(reason protocol.Reason, message string) {
	s.out.finish(&protocol.Close{Reason: reason, Message: message})
	<-s.writeDone // bounded by the write deadline
	half, ok := s.conn.(interface{ CloseWrite() error })
	if !ok || s.writeErr != nil || half.CloseWrite() != nil {
		return
	}
	timer := time.NewTimer(lingerTimeout)
	defer timer.Stop()
	select {
	case <-s.readDone:
	case <-timer.C:
	}
}

// stop closes the connection and waits for both goroutines.
func (s *session) stop() {
	s.out.abandon()
	_ = s.conn.Close()
	<-s.readDone
	<-s.writeDone
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
}

// drain takes no more jobs and waits for those that the node has; with a session also
// for acknowledgements. See Run.
func (c *Client) drain(s *session) error {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	var gone <-chan struct{}
	if s != nil {
		s.out.send(&protocol.Credit{Credit: 0})
		gone = s.readDone
	}
	timer := time.NewTimer(c.cfg.DrainTimeout)
	defer timer.Stop()
	if c.rest(gone, timer.C) {
		return nil
	}
	c.mu.Lock()
	c.stopping = true // before the contexts end: a slot that gets free starts nothing
	for _, t := range c.tasks {
		if t.next != nil {
			c.discard(t.next)
		}
		if t.state == taskQueued {
			c.discard(t)
			delete(c.tasks, t.id)
		}
	}
	c.mu.Unlock()
	c.endBase(ErrShutdown)
	timer.Reset(stopGrace)
	c.rest(nil, timer.C)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.tasks); n > 0 {
		return fmt.Errorf("%w: %d", ErrHandlersRunning, n)
	}
	return nil
}

// rest waits until no job is left, nor, before gone is closed, a result without its
// acknowledgement. A nil gone means that there is no connection.
func (c *Client) rest(gone <-chan struct{}, timeout <-chan time.Time) bool {
	for {
		c.mu.Lock()
		if len(c.tasks) == 0 && (gone == nil || len(c.held) == 0) {
			c.mu.Unlock()
			return true
		}
		if c.idle == nil {
			c.idle = make(chan struct{})
		}
		idle := c.idle
		c.mu.Unlock()
		select {
		case <-idle:
		case <-gone:
			gone = nil
		case <-timeout:
			return false
		}
	}
}
