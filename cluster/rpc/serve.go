package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
)

// handler answers a call: it sends all of the answer with its end, or returns an error.
type handler func(s *served, body []byte) error

// served is a call or a stream of a member, from its first message until its handler has
// returned. peer.mu guards what changes.
type served struct {
	peer   *peer
	id     uint64
	method string
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   []byte
	total  int
	whole  chan struct{} // closed when the body is
	credit int64
	wake   chan struct{} // there is credit
}

// called takes a call's first message.
func (p *peer) called(id uint64, m *reader) {
	timeout, total, method := m.number(), m.number(), m.text()
	if m.err != nil {
		return
	}
	h := p.rpc.method(method)
	var refused *RemoteError
	switch {
	case h == nil:
		refused = &RemoteError{CodeUnknownMethod, fmt.Sprintf("the member has no method %q", cut(string(method), MaxMethodBytes))}
	case total > MaxBytes || total < uint64(len(m.rest)):
		refused = &RemoteError{CodeTooLarge, fmt.Sprintf("the call has %d bytes, its first message %d; allowed are %d", total, len(m.rest), MaxBytes)}
	default:
		s := &served{
			peer: p, id: id, method: string(method), body: m.rest, total: int(total),
			whole: make(chan struct{}), credit: windowBytes, wake: make(chan struct{}, 1),
		}
		refused = p.admit(s, h, timeout)
	}
	if refused != nil {
		p.post(errorMessage(id, refused))
	}
}

// admit starts a call's goroutine if the peer has not too many.
func (p *peer) admit(s *served, h handler, timeoutMs uint64) *RemoteError {
	p.mu.Lock()
	defer p.mu.Unlock()
	missing := s.total - len(s.body)
	switch {
	case p.serving[s.id] != nil:
		return &RemoteError{CodeBroken, fmt.Sprintf("call %d is under way already", s.id)}
	case len(p.serving) >= maxHandlers:
		return &RemoteError{CodeBusy, fmt.Sprintf("%d calls are under way already, try again later", maxHandlers)}
	case missing > 0 && p.assembling+s.total > maxAssembly:
		return &RemoteError{CodeBusy, fmt.Sprintf("calls of %d bytes are on the way already, try again later", p.assembling)}
	}
	s.ctx, s.cancel = context.WithCancelCause(p.ctx)
	release := context.CancelFunc(func() {})
	if timeoutMs > 0 && timeoutMs < uint64(math.MaxInt64/time.Millisecond) {
		s.ctx, release = context.WithTimeout(s.ctx, time.Duration(timeoutMs)*time.Millisecond)
	}
	started := p.rpc.spawn(func() {
		s.run(h)
		release()
	})
	if !started { // closed: nobody listens
		release()
		s.cancel(ErrClosed)
		return nil
	}
	p.serving[s.id] = s
	if missing > 0 {
		p.assembling += s.total
	} else {
		close(s.whole)
	}
	return nil
}

// more takes another part of a call's body.
func (p *peer) more(id uint64, part []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.serving[id]
	if s == nil || len(s.body) >= s.total { // refused, or given up
		return
	}
	if len(s.body)+len(part) > s.total {
		s.cancel(&RemoteError{CodeBroken, fmt.Sprintf("the call is longer than the %d bytes that it said", s.total)})
		return
	}
	if s.body = append(s.body, part...); len(s.body) == s.total {
		p.assembling -= s.total
		close(s.whole)
	}
}

// cancelled ends a call that its caller does not wait for any more.
func (p *peer) cancelled(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.serving[id]; s != nil {
		s.cancel(context.Canceled)
	}
}

// credited lets a handler send more.
func (p *peer) credited(id, bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.serving[id]
	if s == nil {
		return
	}
	s.credit = min(s.credit+int64(min(bytes, windowBytes)), windowBytes)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run waits for the whole body, and runs the handler.
func (s *served) run(h handler) {
	p := s.peer
	select {
	case <-s.whole:
	case <-s.ctx.Done():
	}
	err := context.Cause(s.ctx)
	if err == nil {
		err = s.protected(h)
	}
	s.cancel(context.Canceled)
	p.mu.Lock()
	delete(p.serving, s.id)
	if len(s.body) < s.total {
		p.assembling -= s.total
	}
	p.mu.Unlock()
	if err != nil {
		p.post(errorMessage(s.id, remote(err)))
	}
}

// protected runs the handler; a panic becomes an error.
func (s *served) protected(h handler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.peer.rpc.log.Error("rpc: the handler of a method crashed; its caller gets an error",
				zap.String("method", s.method), zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			err = &RemoteError{CodeBroken, fmt.Sprintf("the handler of %s crashed; the member's log says where", s.method)}
		}
	}()
	s.peer.mu.Lock()
	body := s.body
	s.body, s.total = nil, 0
	s.peer.mu.Unlock()
	return h(s, body)
}

// remote makes an error that can travel.
func remote(err error) *RemoteError {
	var e *RemoteError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &RemoteError{CodeTimeout, "the call's time was over: " + err.Error()}
	default:
		return &RemoteError{CodeFailed, err.Error()}
	}
}

// answer sends the answer of a call, and its end.
func (s *served) answer(body []byte) error {
	if len(body) > MaxBytes {
		return &RemoteError{CodeTooLarge, fmt.Sprintf("the answer has %d bytes, allowed are %d", len(body), MaxBytes)}
	}
	for ; len(body) > ChunkBytes; body = body[ChunkBytes:] {
		if err := s.emit(opItem, body[:ChunkBytes]); err != nil {
			return err
		}
	}
	return s.emit(opLast, body)
}

// emit sends an item when the reader has room for it.
func (s *served) emit(op byte, item []byte) error {
	if len(item) > ChunkBytes {
		return fmt.Errorf("%w: the item has %d bytes, allowed are %d", ErrTooLarge, len(item), ChunkBytes)
	}
	for !s.spend(len(item) + itemOverhead) {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	return s.peer.send(s.ctx, nil, message(op, s.id, item))
}

func (s *served) spend(bytes int) bool {
	s.peer.mu.Lock()
	defer s.peer.mu.Unlock()
	if s.credit <= 0 {
		return false
	}
	s.credit -= int64(bytes)
	return true
}
