package tcp

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/roost-server/roost/protocol"
)

const (
	// stopBatch is how many connections a loop closes before it is at its sockets
	// again.
	stopBatch = 256

	// stopPoll is how often Stop looks whether all connections have ended.
	stopPoll = 5 * time.Millisecond

	// stopGrace is how long the engine may take to end after ctx did.
	stopGrace = 2 * time.Second
)

// Stop ends the server: new connections are refused, every node gets CLOSE with
// these words, the output leaves or CloseLinger passes, what was given to Execute
// runs, and the loops and listeners are closed. When ctx ends first the sockets that
// are left are cut, and the error says so. Closed has been called for every
// established connection when Stop returns nil. Only the first call counts; others
// wait for the same end.
func (s *Server) Stop(ctx context.Context, reason protocol.Reason, message string) error {
	s.mu.Lock()
	first := !s.stopping.Load()
	if first {
		s.no.Store(&refusal{reason: reason, message: message, cause: refusedDrain})
		s.stopping.Store(true)
	}
	s.mu.Unlock()
	if first {
		s.closeAll(ctx, reason, message)
		s.drained(ctx)
		s.left.Store(s.open.Load())
		s.sealAll(ctx)
		s.halt()
	}
	return s.ended(ctx)
}

// closeAll closes every connection, all loops at the same time, each in batches. The
// next batch is given when the one before is done and flushed by then or soon: a loop
// that gave itself the next would not be at its sockets in between.
func (s *Server) closeAll(ctx context.Context, reason protocol.Reason, message string) {
	var wg sync.WaitGroup
	for _, l := range *s.loops.Load() {
		wg.Go(func() {
			var conns []*Conn
			at, known := 0, false
			batch := func() {
				if !known {
					conns, known = l.wheel.all(), true
				}
				for end := min(len(conns), at+stopBatch); at < end; at++ {
					conns[at].Close(reason, message, 0)
				}
			}
			for more := true; more; more = at < len(conns) {
				if !s.onLoop(ctx, l, batch) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// onLoop runs fn on l and waits for it. It reports false when it gave up waiting.
func (s *Server) onLoop(ctx context.Context, l *Loop, fn func()) bool {
	done := make(chan struct{})
	if l.Execute(func() { defer close(done); fn() }) != nil {
		return false
	}
	return s.wait(ctx, done)
}

// wait waits for c; false means that ctx or the engine ended first.
func (s *Server) wait(ctx context.Context, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-s.done:
	case <-ctx.Done():
	}
	return false
}

// drained waits until no admitted connection is left.
func (s *Server) drained(ctx context.Context) {
	poll := time.NewTicker(stopPoll)
	defer poll.Stop()
	for s.open.Load() > 0 {
		select {
		case <-poll.C:
		case <-s.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// sealAll lets the loops finish what they were given, and refuses more.
func (s *Server) sealAll(ctx context.Context) {
	for _, l := range *s.loops.Load() {
		s.wait(ctx, l.seal())
	}
}

// halt tells the engine to end. gnet's Stop polls every half second whether it has;
// its answer is not waited for, since done says so at once.
func (s *Server) halt() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.engine.Stop(over)
}

// ended waits for the engine's end.
func (s *Server) ended(ctx context.Context) error {
	select {
	case <-s.done:
		return s.stopError()
	case <-ctx.Done():
	}
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-s.done:
		return s.stopError()
	case <-grace.C:
		return fmt.Errorf("tcp: stopping: a handler does not return: %w", ctx.Err())
	}
}

func (s *Server) stopError() error {
	if n := s.left.Load(); n > 0 && s.err == nil {
		return fmt.Errorf("tcp: stopping: %d connections had not ended in time and were cut", n)
	}
	return s.err
}
