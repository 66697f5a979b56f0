package member

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol/record"
)

// refollowAfter is the pause between two looks for shards that were not there before,
// or that have stopped and may be there again.
const refollowAfter = 500 * time.Millisecond

// Follow implements local. A job's partition is not known from its id alone, so
// every shard is asked; the one that has it, or gets it, answers.
func (b *backend) Follow(ctx context.Context, id string) (<-chan api.Event, error) {
	switch a, err := b.known(ctx, id); {
	case err != nil:
		return nil, err
	case a.Ended && a.Summary == nil:
		return nil, fmt.Errorf("job %q has %w, %s", id, api.ErrEnded, b.MissingText(id))
	}
	q := &eventQueue{wake: make(chan struct{}, 1)}
	f := &shard.Follower{Fn: q.push}
	out := make(chan api.Event)
	followed := map[uint32]bool{}
	b.subscribe(id, f, followed)
	go func() {
		defer close(out)
		defer b.unsubscribe(id, f)
		b.forward(ctx, id, f, q, out, followed)
	}()
	return out, nil
}

// subscribe follows the job at every shard where it does not do so yet.
func (b *backend) subscribe(id string, f *shard.Follower, followed map[uint32]bool) {
	for _, p := range b.m.tree.Router().Shards() {
		if !followed[p] {
			followed[p] = b.m.tree.Router().ToShard(p, &shard.Follow{ID: id, Follower: f})
		}
	}
}

func (b *backend) unsubscribe(id string, f *shard.Follower) {
	for _, p := range b.m.tree.Router().Shards() {
		b.m.tree.Router().ToShard(p, &shard.Unfollow{ID: id, Follower: f})
	}
}

// forward turns what shards say into events until the job is done.
func (b *backend) forward(ctx context.Context, id string, f *shard.Follower, q *eventQueue, out chan<- api.Event, followed map[uint32]bool) {
	seen := map[uint32]bool{} // results sent, by assignment: following again repeats them
	gone := false
	again := time.NewTicker(refollowAfter) // shards come and go
	defer again.Stop()
	for {
		for _, e := range q.take() {
			gone = gone || e.Gone
			for _, ev := range events(id, &e, seen) {
				select {
				case out <- ev:
				case <-ctx.Done():
					return
				}
			}
			if e.Done {
				return
			}
		}
		select {
		case <-q.wake:
		case <-again.C:
			if gone {
				gone = false
				b.unsubscribe(id, f)
				clear(followed)
			}
			b.subscribe(id, f, followed)
		case <-ctx.Done():
			return
		}
	}
}

func events(id string, e *shard.FollowEvent, seen map[uint32]bool) []api.Event {
	var out []api.Event
	result := func(value []byte) {
		r, err := record.ParseResult("", value)
		if err != nil || seen[r.Index] {
			return
		}
		seen[r.Index] = true
		if v, err := api.NewResultView(&r); err == nil {
			out = append(out, api.Event{Type: api.EventResult, Result: &v})
		}
	}
	switch {
	case e.Summary != nil:
		job := jobView(e.Summary, false)
		out = append(out, api.Event{Type: api.EventState, Job: &job})
		for _, value := range e.Summary.Results {
			result(value)
		}
	case e.Value != nil:
		result(e.Value)
	case e.Progress != nil:
		out = append(out, api.Event{Type: api.EventProgress, Progress: progressView(id, e.Progress)})
	}
	return out
}

func progressView(id string, p *actors.Progress) *api.ProgressView {
	v := &api.ProgressView{Job: id, Node: p.Node, Attempt: p.Attempt, TimeMs: nowMs()}
	if data, err := record.ToJSON(p.Data); err == nil && len(p.Data) > 0 {
		v.Data = data
	}
	return v
}

// eventQueue takes events without ever making the shard wait. It is bounded by the
// job: one result for each target; of progress only the newest maxProgress are kept.
type eventQueue struct {
	wake chan struct{}

	mu       sync.Mutex
	events   []shard.FollowEvent
	progress int
}

const maxProgress = 1024

func (q *eventQueue) push(e shard.FollowEvent) {
	q.mu.Lock()
	if e.Progress == nil || q.progress < maxProgress {
		q.events = append(q.events, e)
	}
	if e.Progress != nil {
		q.progress++
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) take() []shard.FollowEvent {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.events
	q.events, q.progress = nil, 0
	return out
}
