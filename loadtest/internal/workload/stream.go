package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol/record"
)

// Stream produces jobs at a pace until it has had enough, or is stopped.
type Stream struct {
	l     *Load
	pace  Pace
	stop  context.CancelFunc
	done  chan struct{}
	freed chan struct{} // has an element when it may have a slot again
	limit int           // jobs under way at a time

	open int // jobs under way; guarded by slots.mu

	// The stream's own goroutine's.
	one     *template         // of jobs that differ in their node alone
	lists   map[int]*template // of jobs for lists, by their number; nil: made each time
	listOf  int               // nodes of a list
	started time.Time
	startNs int64
	sent    int64 // jobs
	stride  int
}

// keptLists is how many lists of nodes are kept encoded.
const keptLists = 8

// Start begins a stream. The caller stops it, or waits for its end.
func (l *Load) Start(p Pace) (*Stream, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if p.TTL == 0 {
		p.TTL = DefaultTTL
	}
	s := &Stream{
		l: l, pace: p, done: make(chan struct{}), freed: make(chan struct{}, 1), limit: p.Window,
		stride: stride(p.Nodes), started: time.Now(), startNs: stamp.Now(),
	}
	if p.open() {
		s.limit = MaxWindow
	}
	var err error
	switch first := string(l.names.AppendID(nil, 0)); p.Target {
	case OneNode:
		s.one, err = newTemplate(l.run, s.form(record.Target{Node: first}))
	case Selected:
		s.one, err = newTemplate(l.run, s.form(record.Target{Select: &record.Selector{Count: uint32(p.Selected)}}))
	case AllNodes:
		var jobs int
		if jobs, s.listOf = p.lists(len(first)); jobs <= keptLists {
			s.lists = map[int]*template{}
		}
		_, err = s.list(0)
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	l.streams.Go(func() {
		defer close(s.done)
		s.produce(ctx)
	})
	return s, nil
}

// Rounds is how many jobs a stream needs for every node to have had one.
func (l *Load) Rounds(p Pace) int64 {
	if p.Target != AllNodes {
		return int64(p.Nodes)
	}
	jobs, _ := p.lists(len(l.names.AppendID(nil, 0)))
	return int64(jobs)
}

// Done is closed when the stream has produced all, or was stopped.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Stop ends the stream and waits for that. Jobs under way go on.
func (s *Stream) Stop() { s.stop(); <-s.done }

func (s *Stream) form(to record.Target) form {
	return form{target: to, size: s.pace.Size, ttl: s.pace.TTL, attempts: uint32(s.pace.Attempts), runFor: s.pace.RunFor}
}

// list returns the template of the jobs for the k-th list of nodes.
func (s *Stream) list(k int) (*template, error) {
	if t := s.lists[k]; t != nil {
		return t, nil
	}
	var ids []string
	for i := k * s.listOf; i < min((k+1)*s.listOf, s.pace.Nodes); i++ {
		ids = append(ids, string(s.l.names.AppendID(nil, i)))
	}
	t, err := newTemplate(s.l.run, s.form(record.Target{Nodes: ids}))
	if err == nil && s.lists != nil {
		s.lists[k] = t
	}
	return t, err
}

// produce sends jobs until ctx ends or there are enough: as slots become free (closed
// loop) or as they become due (open loop), then with the time they were due.
func (s *Stream) produce(ctx context.Context) {
	var batch []*slot
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil && (s.pace.Jobs == 0 || s.sent < s.pace.Jobs) {
		most, wait := s.may(time.Since(s.started))
		batch = s.l.slots.take(s, batch[:0], most)
		if len(batch) == 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
			case <-timer.C:
			case <-s.freed:
			}
			continue
		}
		for _, slot := range batch {
			s.send(slot)
		}
	}
}

// slotWait is how long a stream waits at most for a slot: one of another stream may have
// become free.
const slotWait = 20 * time.Millisecond

// may tells how many jobs may be sent now, and how long to wait when there are none.
func (s *Stream) may(now time.Duration) (most int, wait time.Duration) {
	n := int64(s.limit)
	wait = slotWait
	if s.pace.open() {
		if n = s.pace.expected(now) - s.sent; n <= 0 {
			if due, ok := s.pace.due(s.sent); ok {
				return 0, max(due-now, time.Microsecond)
			}
			return 0, time.Hour // until it is stopped
		}
	}
	if s.pace.Jobs > 0 {
		n = min(n, s.pace.Jobs-s.sent)
	}
	return int(min(n, int64(s.limit))), wait
}

// send hands the next job to the Kafka client.
func (s *Stream) send(slot *slot) {
	now := stamp.Now()
	due := now
	if s.pace.open() {
		if at, ok := s.pace.due(s.sent); ok {
			due = s.startNs + at.Nanoseconds()
		}
	}
	turn := s.sent
	s.sent++
	t := s.one
	if s.pace.Target == AllNodes {
		jobs, _ := s.pace.lists(len(s.l.names.AppendID(nil, 0)))
		var err error
		if t, err = s.list(int(turn % int64(jobs))); err != nil { // it was valid when the stream began
			s.l.note(fmt.Sprintf("list of nodes: %v", err))
			s.l.slots.giveBack(slot)
			return
		}
	}
	slot.carry(t)
	if s.pace.Target == OneNode {
		node := (int64(s.pace.Begin) + turn%int64(s.pace.Nodes)*int64(s.stride)) % int64(s.pace.Nodes)
		at := t.node(slot.value)
		s.l.names.AppendID(at[:0], int(node))
	}
	s.l.send(slot, now, due)
}

// send gives a job its number, and hands it to the Kafka client.
func (l *Load) send(s *slot, now, due int64) {
	n := s.t.targets()
	l.mu.Lock()
	seq := l.next
	l.next += int64(n)
	l.jobs++
	l.mu.Unlock()
	if n > 1 {
		l.tally.widen(seq, n)
	}
	s.t.fill(s.value, s.idx, seq, due)
	key := s.t.key(s.value)
	s.rec = kgo.Record{Context: s, Topic: l.topic, Partition: record.Partition(key, l.partitions), Key: key, Value: s.value}
	l.slots.begin(s, seq, now, n)
	l.cl.Produce(s, &s.rec, l.promise)
}

// stride returns a step that visits all n nodes before any twice, far from the last.
func stride(n int) int {
	for s := 7919; ; s++ {
		a, b := s, n
		for b != 0 {
			a, b = b, a%b
		}
		if a == 1 {
			return s
		}
	}
}
