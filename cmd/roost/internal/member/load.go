package member

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// loadEvery is how often the others are told how many nodes are here.
const loadEvery = time.Second

// arrivals is how fast nodes connect, of late.
type arrivals struct{ perS atomic.Uint64 }

func (a *arrivals) rate() float64 { return math.Float64frombits(a.perS.Load()) }

// load measures and tells the load until ctx ends.
func (m *Member) load(ctx context.Context) error {
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	last, at := m.gateStats.Opened.Load(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		n, now := m.gateStats.Opened.Load(), time.Now()
		m.arrivals.perS.Store(math.Float64bits(float64(n-last) / now.Sub(at).Seconds()))
		last, at = n, now
		if m.cluster != nil {
			m.cluster.cluster.SetLoad(m.sessions())
		}
	}
}
