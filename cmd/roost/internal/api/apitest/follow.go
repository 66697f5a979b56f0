package apitest

import (
	"context"
	"slices"
	"sync"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// follower hands the events of one job to one channel. Putting never waits.
type follower struct {
	mu     sync.Mutex
	events []api.Event
	closed bool
	ready  chan struct{}
}

func (f *follower) put(ev api.Event) {
	f.mu.Lock()
	f.events = append(f.events, ev)
	f.mu.Unlock()
	f.wake()
}

func (f *follower) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.wake()
}

func (f *follower) wake() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

func (f *follower) take() (events []api.Event, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	events, f.events = f.events, nil
	return events, f.closed
}

// run sends until the job has ended or ctx has.
func (f *follower) run(ctx context.Context, out chan<- api.Event) {
	defer close(out)
	for {
		events, closed := f.take()
		for _, ev := range events {
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			}
		}
		if closed {
			return
		}
		select {
		case <-f.ready:
		case <-ctx.Done():
			return
		}
	}
}

// Follow implements [api.Backend].
func (b *Backend) Follow(ctx context.Context, id string) (<-chan api.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return nil, b.down
	}
	if b.ended[id] {
		return nil, gone(id)
	}
	f := &follower{ready: make(chan struct{}, 1)}
	e, known := b.jobs[id]
	if known {
		v := e.view
		f.put(api.Event{Type: api.EventState, Job: &v})
		for i := range e.view.Results {
			r := e.view.Results[i]
			f.put(api.Event{Type: api.EventResult, Result: &r})
		}
	}
	if known && e.view.State == api.StateDone {
		f.close()
	} else {
		b.followers[id] = append(b.followers[id], f)
	}
	out := make(chan api.Event)
	go func() {
		f.run(ctx, out)
		b.unfollow(id, f)
	}()
	return out, nil
}

func (b *Backend) unfollow(id string, f *follower) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rest := slices.DeleteFunc(b.followers[id], func(g *follower) bool { return g == f }); len(rest) > 0 {
		b.followers[id] = rest
	} else {
		delete(b.followers, id)
	}
}

// Interrupt ends all streams of a job, as a member does that loses its partition.
func (b *Backend) Interrupt(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.followers[id] {
		f.close()
	}
	delete(b.followers, id)
}

// Following is how many streams follow a job.
func (b *Backend) Following(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.followers[id])
}
