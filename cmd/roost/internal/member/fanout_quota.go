package member

import (
	"context"
	"errors"
	"sync"
)

// What this member has under way with one other at once. Package rpc serves 64 calls and streams of a
// peer together and refuses more: the two have places of their own, so that streams, which may last for
// hours, leave room for calls.
const (
	peerCalls   = 32 // more wait for their turn
	peerStreams = 32 // more are refused, see following
)

// errNoStream says that there are as many streams from a member as are allowed.
var errNoStream = errors.New("too many streams of events of that member are open")

// quotas keeps the places, by the member's name.
type quotas struct {
	mu     sync.Mutex
	byName map[string]*quota
}

type quota struct{ calls, streams chan struct{} }

func (q *quotas) of(name string) *quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.byName == nil {
		q.byName = map[string]*quota{}
	}
	p := q.byName[name]
	if p == nil {
		p = &quota{calls: make(chan struct{}, peerCalls), streams: make(chan struct{}, peerStreams)}
		q.byName[name] = p
	}
	return p
}

// call waits for a place; the function gives it back.
func (q *quotas) call(ctx context.Context, name string) (func(), error) {
	p := q.of(name)
	select {
	case p.calls <- struct{}{}:
		return func() { <-p.calls }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stream takes a place, or none when there is none.
func (q *quotas) stream(name string) (func(), error) {
	p := q.of(name)
	select {
	case p.streams <- struct{}{}:
		return func() { <-p.streams }, nil
	default:
		return nil, errNoStream
	}
}
