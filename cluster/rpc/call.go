package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// call is a call or a stream of this side. peer.mu guards it until it has ended.
type call struct {
	peer   *peer
	id     uint64
	stream bool
	ended  chan struct{} // closed at the end
	err    error

	body []byte // of an answer
	owed uint64 // bytes that were taken and for which the peer has no new credit yet

	items  [][]byte // of a stream, not read yet
	unread int      // their bytes, with overhead
	wake   chan struct{}
}

func newCall(stream bool) *call {
	return &call{stream: stream, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// finish ends the call; the caller holds peer.mu.
func (c *call) finish(err error) {
	c.err = err
	close(c.ended)
}

// abandon ends a call that nobody waits for any more, here and at the peer.
func (c *call) abandon(why error) {
	p := c.peer
	p.mu.Lock()
	mine := p.calls[c.id] == c
	if mine {
		delete(p.calls, c.id)
		c.finish(why)
	}
	p.mu.Unlock()
	if mine {
		p.post(appendOp(nil, opCancel, c.id))
	}
}

// begin sends a call.
func (r *RPC) begin(ctx context.Context, slot uint16, c *call, method string, body []byte) error {
	if len(body) > MaxBytes || len(method) > MaxMethodBytes {
		return fmt.Errorf("%w: the body has %d bytes, allowed are %d; the method's name %d, allowed are %d",
			ErrTooLarge, len(body), MaxBytes, len(method), MaxMethodBytes)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := r.peer(slot)
	if err != nil {
		return err
	}
	if err := p.add(c); err != nil {
		return err
	}
	rest := body
	chunk := func() (part []byte) {
		n := min(len(rest), ChunkBytes)
		part, rest = rest[:n], rest[n:]
		return part
	}
	first := appendOp(make([]byte, 0, 48+len(method)+min(len(body), ChunkBytes)), opCall, c.id)
	first = binary.AppendUvarint(first, timeoutMs(ctx))
	first = binary.AppendUvarint(first, uint64(len(body)))
	first = append(appendText(first, method), chunk()...)
	if !r.transmit(slot, first) {
		p.mu.Lock()
		delete(p.calls, c.id)
		p.mu.Unlock()
		return ErrUnreachable
	}
	for len(rest) > 0 {
		select {
		case <-c.ended: // refused, or the member is gone
			return nil
		default:
		}
		switch err := p.send(ctx, c.ended, message(opMore, c.id, chunk())); {
		case errors.Is(err, errStopped):
			return nil
		case err != nil:
			c.abandon(err)
			return err
		}
	}
	return nil
}

// timeoutMs is what the context leaves; 0: it has no end.
func timeoutMs(ctx context.Context) uint64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return uint64(max(1, time.Until(deadline).Milliseconds()))
}

func (p *peer) add(c *call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == nil {
		return context.Cause(p.ctx)
	}
	p.lastID++
	c.peer, c.id = p, p.lastID
	p.calls[c.id] = c
	return nil
}

// item takes an item of a stream, or a part of an answer.
func (p *peer) item(id uint64, item []byte, last bool) {
	p.mu.Lock()
	c := p.calls[id]
	if c == nil { // not waited for any more
		p.mu.Unlock()
		return
	}
	var broken *RemoteError
	var credit uint64
	switch {
	case c.stream && c.unread > windowBytes:
		broken = &RemoteError{CodeBroken, fmt.Sprintf("the member sends more than the %d bytes that were asked for", windowBytes)}
	case c.stream:
		c.items = append(c.items, item)
		c.unread += len(item) + itemOverhead
	case len(c.body)+len(item) > MaxBytes:
		broken = &RemoteError{CodeBroken, fmt.Sprintf("the member sends an answer of more than %d bytes", MaxBytes)}
	case last && len(c.body) == 0:
		c.body = item
	default:
		c.body = append(c.body, item...)
		credit = c.take(len(item))
	}
	if last && broken == nil {
		delete(p.calls, id)
		c.finish(nil)
	}
	p.mu.Unlock()
	c.wakeUp()
	if broken != nil {
		c.abandon(broken)
	} else if credit > 0 && !last {
		p.credit(id, credit)
	}
}

// take notes what was taken, and returns the credit that is due. The caller holds peer.mu.
func (c *call) take(bytes int) uint64 {
	if c.owed += uint64(bytes + itemOverhead); c.owed < windowBytes/2 {
		return 0
	}
	credit := c.owed
	c.owed = 0
	return credit
}

func (p *peer) credit(id, bytes uint64) {
	p.post(binary.AppendUvarint(appendOp(nil, opCredit, id), bytes))
}

// ended takes the end of a stream, or an error.
func (p *peer) ended(id uint64, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.calls[id]
	if c == nil {
		return
	}
	if why == nil && !c.stream {
		why = &RemoteError{CodeBroken, "the member answers with a stream; it has another kind of method of that name"}
	}
	delete(p.calls, id)
	c.finish(why)
}

func (c *call) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// pump passes the items of a stream to its reader.
func (c *call) pump(ctx context.Context, items chan<- []byte) error {
	p := c.peer
	for {
		item, ok, over := c.next()
		switch {
		case ok:
		case over:
			return c.err
		default:
			select {
			case <-c.wake:
			case <-c.ended:
			case <-ctx.Done():
				c.abandon(ctx.Err())
			}
			continue
		}
		select {
		case items <- item:
		case <-ctx.Done():
			c.abandon(ctx.Err())
			return ctx.Err()
		case <-p.rpc.ctx.Done():
			return ErrClosed
		}
		if credit := c.taken(len(item)); credit > 0 {
			p.credit(c.id, credit)
		}
	}
}

// next returns the next item of a stream; over: there is none and none will come.
func (c *call) next() (item []byte, ok, over bool) {
	c.peer.mu.Lock()
	defer c.peer.mu.Unlock()
	if len(c.items) > 0 {
		item = c.items[0]
		c.items[0] = nil
		c.items = c.items[1:]
		c.unread -= len(item) + itemOverhead
		return item, true, false
	}
	select {
	case <-c.ended:
		return nil, false, true
	default:
		return nil, false, false
	}
}

func (c *call) taken(bytes int) uint64 {
	c.peer.mu.Lock()
	defer c.peer.mu.Unlock()
	return c.take(bytes)
}
