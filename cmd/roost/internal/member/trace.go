package member

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// tracer brings the steps of jobs to whoever traces them. As long as nobody does, a step costs one
// atomic load. All its methods may be called from any goroutine, event loops included: none waits.
type tracer struct {
	member string
	active atomic.Int32

	mu   sync.RWMutex
	subs map[*traced]struct{}
}

// maxTraced is how many steps wait for a receiver that is behind; more are dropped, and it is told.
const maxTraced = 4096

// traced is one who traces.
type traced struct {
	filter  api.TraceFilter
	steps   chan api.TraceEvent
	dropped atomic.Int64
}

func newTracer(member string) *tracer {
	return &tracer{member: member, subs: map[*traced]struct{}{}}
}

// Wants is whether anybody traces anything; what a step would cost to make can be saved otherwise. A nil
// tracer wants nothing.
func (t *tracer) Wants() bool { return t != nil && t.active.Load() > 0 }

// fits is whether anybody traces this node or job.
func (t *tracer) fits(node string, job []byte) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for s := range t.subs {
		if (s.filter.Node == "" || s.filter.Node == node) && (s.filter.Job == "" || s.filter.Job == string(job)) {
			return true
		}
	}
	return false
}

// Step tells of a step, of a job or a node or both. Its time and member are filled in.
func (t *tracer) Step(ev api.TraceEvent) {
	if !t.Wants() {
		return
	}
	ev.Member, ev.TimeUs = t.member, time.Now().UnixMicro()
	t.mu.RLock()
	defer t.mu.RUnlock()
	for s := range t.subs {
		if (s.filter.Node != "" && s.filter.Node != ev.Node) || (s.filter.Job != "" && s.filter.Job != ev.Job) {
			continue
		}
		select {
		case s.steps <- ev:
		default:
			s.dropped.Add(1)
		}
	}
}

// Trace sends what fits the filter until ctx ends, and closes the channel then.
func (t *tracer) Trace(ctx context.Context, f api.TraceFilter) <-chan api.TraceEvent {
	s := &traced{filter: f, steps: make(chan api.TraceEvent, maxTraced)}
	t.mu.Lock()
	t.subs[s] = struct{}{}
	t.mu.Unlock()
	t.active.Add(1)
	out := make(chan api.TraceEvent)
	go func() {
		defer close(out)
		defer t.active.Add(-1)
		defer func() {
			t.mu.Lock()
			delete(t.subs, s)
			t.mu.Unlock()
		}()
		s.forward(ctx, t.member, out)
	}()
	return out
}

func (s *traced) forward(ctx context.Context, member string, out chan<- api.TraceEvent) {
	send := func(ev api.TraceEvent) bool {
		select {
		case out <- ev:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case ev := <-s.steps:
			if !send(ev) {
				return
			}
		case <-ctx.Done():
			return
		}
		if n := s.dropped.Swap(0); n > 0 && !send(api.TraceEvent{TimeUs: time.Now().UnixMicro(), Member: member,
			Step: api.StepMissing, Text: fmt.Sprintf("%d steps: they came faster than they were read", n)}) {
			return
		}
	}
}
