package member

import (
	"context"
	"runtime/debug"
	"time"
)

// When many nodes have come or gone, the heap holds their garbage until as much again
// was allocated, which an idle fleet never does. So once the number of sessions has
// settled after a large change, memory is collected and given back, at most once in
// settleEvery.
const (
	settleTick   = time.Second
	settleCalm   = 2 // ticks without much change
	settleEvery  = time.Minute
	settleLeast  = 1000 // sessions; smaller changes are not worth a collection
	settleShare  = 10   // percent of the sessions
	settleJitter = 1    // percent of the sessions that may come and go in calm
)

// settling decides when memory is worth giving back. It is plain state: the number
// of sessions and the time go in.
type settling struct {
	at, last int64 // sessions when memory was given back last, and a tick ago
	calm     int
	next     time.Time
}

// tick reports whether to give memory back now.
func (s *settling) tick(now time.Time, sessions int64) bool {
	if abs(sessions-s.last) > sessions*settleJitter/100 {
		s.calm = 0
	} else {
		s.calm++
	}
	s.last = sessions
	change := abs(sessions - s.at)
	if s.calm < settleCalm || change < settleLeast || change < s.at*settleShare/100 || now.Before(s.next) {
		return false
	}
	s.at, s.next = sessions, now.Add(settleEvery)
	return true
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

// settle is the service that does it.
func (m *Member) settle(ctx context.Context) error {
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	var s settling
	pace := newHeapPace()
	defer pace.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			pace.tick()
			if s.tick(now, m.gateStats.Sessions.Load()) {
				debug.FreeOSMemory()
			}
		}
	}
}
