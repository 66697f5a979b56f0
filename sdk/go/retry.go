package roost

import (
	"slices"
	"time"

	"github.com/roost-server/roost/protocol"
)

const (
	retryBase = 500 * time.Millisecond // first backoff
	retryCap  = time.Minute            // largest backoff
	quickTime = time.Second            // of which a random part passes before coming back at once

	// stableAfter is how long a session has to last for earlier failures to be
	// forgotten.
	stableAfter = 30 * time.Second

	// quickReturns without a stable session between them are as many as a rolling
	// restart may cause; after that a member that keeps closing meets backoff.
	quickReturns = 5
)

// sessionEnd is how a connection, or the try of one, ended.
type sessionEnd struct {
	lasted time.Duration    // since WELCOME; 0 without
	closed *protocol.Close  // the member's CLOSE
	goaway *protocol.GoAway // the member's GOAWAY
	left   bool             // the node left as GOAWAY asked, jitter included
	fatal  *CloseError      // not to be tried again
	bye    bool             // Run's context ended and the node has drained
	err    error            // otherwise; with bye, what draining returned
}

// retry decides when to come back. It is a pure state machine over session ends.
type retry struct {
	rand     func() float64 // in [0, 1)
	failures int            // since the last stable session
	quick    int            // returns at once since then
}

// after returns how long to wait after e, or stop when the node must not come back.
// Backoff is exponential with full jitter: a random part of the whole interval, which
// spreads a crowd best (Brooker, "Exponential Backoff And Jitter", AWS 2015).
func (r *retry) after(e *sessionEnd) (wait time.Duration, stop bool) {
	if e.lasted >= stableAfter {
		r.failures, r.quick = 0, 0
	}
	switch {
	case e.fatal != nil:
		return 0, true
	case e.closed != nil:
		atLeast := time.Duration(e.closed.RetryAfterMs) * time.Millisecond
		switch e.closed.Reason.Policy() {
		case protocol.ReconnectNever:
			return 0, true
		case protocol.ReconnectNow:
			return atLeast + r.atOnce(), false
		default:
			return atLeast + r.backoff(), false
		}
	case e.left:
		if r.quick == 0 {
			r.quick++
			return 0, false
		}
		return r.atOnce(), false
	default:
		return r.backoff(), false
	}
}

func (r *retry) atOnce() time.Duration {
	if r.quick >= quickReturns {
		return r.backoff()
	}
	r.quick++
	return r.part(quickTime)
}

func (r *retry) backoff() time.Duration {
	d := retryCap
	if r.failures < 16 {
		d = min(d, retryBase<<r.failures)
	}
	r.failures++
	return r.part(d)
}

func (r *retry) part(d time.Duration) time.Duration { return time.Duration(r.rand() * float64(d)) }

// shuffled returns the addresses in an order of this node's own, so that the nodes of a
// member that is gone spread over all others. rnd returns numbers from [0, 1).
func shuffled(addrs []string, rnd func() float64) []string {
	out := slices.Clone(addrs)
	for i := len(out) - 1; i > 0; i-- {
		j := int(rnd() * float64(i+1))
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// rotation chooses the next address: those that GOAWAY or CLOSE named, once each, then
// the configured ones in turn.
type rotation struct {
	servers []string
	next    int
	advised []string
}

func (r *rotation) pick() string {
	if len(r.advised) > 0 {
		addr := r.advised[0]
		r.advised = r.advised[1:]
		return addr
	}
	addr := r.servers[r.next%len(r.servers)]
	r.next = (r.next + 1) % len(r.servers)
	return addr
}

// advise takes over the usable addresses of a GOAWAY or CLOSE.
func (r *rotation) advise(addrs []string) {
	r.advised = nil
	for _, a := range addrs {
		if checkAddr(a) == nil {
			r.advised = append(r.advised, a)
		}
	}
}
