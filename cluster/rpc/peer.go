package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Sending is tried again after this, since nobody says when there is room.
const (
	firstRetry = time.Millisecond
	lastRetry  = 50 * time.Millisecond
	maxLate    = 4096 // short messages that wait for room
)

// peer is what is under way with a member.
type peer struct {
	rpc    *RPC
	slot   uint16
	ctx    context.Context // ends with the member, its cause says why
	cancel context.CancelCauseFunc

	mu         sync.Mutex
	lastID     uint64
	calls      map[uint64]*call   // of this side; nil after the end
	serving    map[uint64]*served // of the member
	assembling int                // bytes of its calls that are not complete
	late       [][]byte
	retrying   bool
	complained bool
}

func newPeer(r *RPC, slot uint16) *peer {
	p := &peer{rpc: r, slot: slot, calls: map[uint64]*call{}, serving: map[uint64]*served{}}
	p.ctx, p.cancel = context.WithCancelCause(r.ctx)
	return p
}

// end ends all that is under way.
func (p *peer) end(why error) {
	p.mu.Lock()
	p.cancel(why)
	calls := p.calls
	p.calls = nil
	for _, c := range calls {
		c.finish(why)
	}
	p.late = nil
	p.mu.Unlock()
}

// send sends a message and waits for room as long as the context and the member live,
// and until stop.
func (p *peer) send(ctx context.Context, stop <-chan struct{}, body []byte) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		if err := context.Cause(p.ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if p.rpc.transmit(p.slot, body) {
			return nil
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-p.ctx.Done():
		case <-stop:
			t.Stop()
			return errStopped
		}
		t.Stop()
	}
}

// errStopped: what was to be sent is not wanted any more.
var errStopped = errors.New("rpc: stopped")

// post sends a short message, now or when there is room, without blocking.
func (p *peer) post(body []byte) {
	p.mu.Lock()
	waiting := p.retrying
	p.mu.Unlock()
	if p.ctx.Err() != nil || !waiting && p.rpc.transmit(p.slot, body) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.late) >= maxLate {
		p.complain("too many messages wait for room to the member, one is dropped: a call may last until its timeout")
		return
	}
	p.late = append(p.late, body)
	if !p.retrying {
		p.retrying = p.rpc.spawn(p.retry)
	}
}

// retry sends what waits for room.
func (p *peer) retry() {
	for {
		p.mu.Lock()
		if len(p.late) == 0 {
			p.retrying, p.late = false, nil
			p.mu.Unlock()
			return
		}
		body := p.late[0]
		p.late = p.late[1:]
		p.mu.Unlock()
		if p.send(p.ctx, nil, body) != nil {
			return // the member is gone
		}
	}
}

// complain logs the first thing that goes wrong with a member. The caller holds p.mu.
func (p *peer) complain(what string, fields ...zap.Field) {
	if !p.complained {
		p.complained = true
		p.rpc.log.Warn("rpc: "+what+" (said once for each peer)", append(fields, zap.Uint16("slot", p.slot))...)
	}
}

// Message takes a message that a member sent. It does not block; the body is the callee's.
func (r *RPC) Message(slot uint16, body []byte) {
	p, err := r.peer(slot)
	if err != nil {
		return
	}
	if err := p.message(body); err != nil {
		p.mu.Lock()
		p.complain("a message is not understood and dropped; a member of another version, perhaps", zap.Error(err))
		p.mu.Unlock()
	}
}

func (p *peer) message(body []byte) error {
	m := reader{rest: body}
	kind, op, id := m.byte(), m.byte(), m.number()
	if m.err == nil && kind != KindRPC {
		return fmt.Errorf("rpc: kind %d, expected is %d", kind, KindRPC)
	}
	switch op {
	case opCall:
		p.called(id, &m)
	case opMore:
		if m.err == nil {
			p.more(id, m.rest)
		}
	case opCancel:
		p.cancelled(id)
	case opCredit:
		n := m.number()
		p.credited(id, n)
	case opItem, opLast:
		if m.err == nil {
			p.item(id, m.rest, op == opLast)
		}
	case opEnd:
		p.ended(id, nil)
	case opError:
		e := &RemoteError{Code: string(m.text()), Text: string(m.text())}
		if m.err == nil {
			p.ended(id, e)
		}
	default:
		return fmt.Errorf("rpc: unknown operation %d", op)
	}
	if m.err != nil {
		return fmt.Errorf("rpc: operation %d: %w", op, m.err)
	}
	return nil
}
