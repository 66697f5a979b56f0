package nodes

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Constants of protocol/SPEC.md, 8.3.
const (
	nowJitter   = time.Second
	nowsInARow  = 5
	baseBackoff = 500 * time.Millisecond
	maxBackoff  = 60 * time.Second
	heldAfter   = 30 * time.Second
)

// way is where a node with one session goes next, and when. It belongs to the link's
// reader.
type way struct {
	addrs   []string
	at      int
	advised []string // by GOAWAY or CLOSE, to be tried first

	nows, backoffs int           // since a session held
	retryAfter     time.Duration // of the newest CLOSE
	leaving        bool          // the node goes after GOAWAY
}

func newWay(addrs []string, i int) *way { return &way{addrs: addrs, at: i % len(addrs)} }

// shuffled is the order in which a node tries the addresses.
func shuffled(addrs []string, i int) []string {
	addrs = slices.Clone(addrs)
	rand.New(rand.NewPCG(uint64(i), 0x77617973)).Shuffle(len(addrs), func(a, b int) { addrs[a], addrs[b] = addrs[b], addrs[a] })
	return addrs
}

// next is the address of the next try.
func (w *way) next() string {
	if len(w.advised) > 0 {
		a := w.advised[0]
		w.advised = w.advised[1:]
		return a
	}
	a := w.addrs[w.at]
	w.at = (w.at + 1) % len(w.addrs)
	return a
}

func (w *way) closed(m *protocol.Close) {
	w.retryAfter = time.Duration(m.RetryAfterMs) * time.Millisecond
	if len(m.Addresses) > 0 {
		w.advised = slices.Clone(m.Addresses)
	}
}

// pause is how long to wait after a session that lasted so long, or never opened.
func (w *way) pause(rng *rand.Rand, policy protocol.Policy, lasted time.Duration) time.Duration {
	if lasted >= heldAfter {
		w.nows, w.backoffs = 0, 0
	}
	after := w.retryAfter
	w.retryAfter = 0
	if w.leaving {
		w.leaving = false
		return 0
	}
	if policy == protocol.ReconnectNow && w.nows < nowsInARow {
		w.nows++
		return after + time.Duration(rng.Int64N(int64(nowJitter)))
	}
	limit := min(maxBackoff, baseBackoff<<min(w.backoffs, 7))
	w.backoffs++
	return after + time.Duration(rng.Int64N(int64(limit)))
}

// roam opens one session after the other until ctx ends.
func (l *link) roam(ctx context.Context) {
	for ctx.Err() == nil {
		l.addr = l.way.next()
		begin := time.Now()
		policy, open := l.session(ctx)
		lasted := time.Duration(0)
		if open {
			lasted = time.Since(begin)
		}
		l.node.mu.Lock()
		wait := l.way.pause(l.node.rng, policy, lasted)
		l.node.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// goAway has the session end by itself within the jitter. A second one is ignored.
func (s *session) goAway(body []byte) error {
	var m protocol.GoAway
	if err := s.dec.Decode(body, &m); err != nil {
		return err
	}
	w, n := s.link.way, s.link.node
	if w.leaving {
		return nil
	}
	w.leaving, w.advised = true, slices.Clone(m.Addresses)
	n.mu.Lock()
	wait := time.Duration(n.rng.Int64N(int64(m.JitterMs)+1)) * time.Millisecond
	bye := n.frame(&protocol.Close{Reason: protocol.ReasonBye})
	n.mu.Unlock()
	s.goodbye = time.AfterFunc(wait, func() {
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, _ = s.conn.Write(bye)
		s.conn.Close()
	})
	return nil
}
