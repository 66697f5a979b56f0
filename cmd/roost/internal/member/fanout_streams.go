package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// merge brings together what members send, each over a stream of its own. It belongs to one goroutine.
type merge[T any] struct {
	f       *fanout
	method  string
	body    []byte
	own     func(context.Context) (<-chan T, error)
	in      chan item[T]
	sources map[uint16]*teller
	running sync.WaitGroup
}

type teller struct {
	Peer
	cancel context.CancelFunc
}

// item is an event, or with end set the end of a source: without an error it has told all.
type item[T any] struct {
	from *teller
	ev   T
	end  bool
	err  error
}

func newMerge[T any](f *fanout, method string, question any, own func(context.Context) (<-chan T, error)) (*merge[T], error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("question %s: %w", method, err)
	}
	return &merge[T]{f: f, method: method, body: body, own: own, in: make(chan item[T]), sources: map[uint16]*teller{}}, nil
}

// sync makes the sources those that are wanted.
func (m *merge[T]) sync(ctx context.Context, want []Peer) {
	for slot, s := range m.sources {
		if !slices.Contains(want, s.Peer) {
			s.cancel()
			delete(m.sources, slot)
		}
	}
	for _, p := range want {
		if m.sources[p.Slot] == nil {
			m.open(ctx, p)
		}
	}
}

func (m *merge[T]) open(ctx context.Context, p Peer) {
	ctx, cancel := context.WithCancel(ctx)
	s := &teller{Peer: p, cancel: cancel}
	m.sources[p.Slot] = s
	m.running.Go(func() {
		defer cancel()
		var err error
		if p.Slot == 0 {
			err = m.readOwn(ctx, s)
		} else {
			err = m.readPeer(ctx, s)
		}
		m.put(ctx, item[T]{from: s, end: true, err: err})
	})
}

func (m *merge[T]) put(ctx context.Context, it item[T]) bool {
	select {
	case m.in <- it:
		return true
	case <-ctx.Done():
		return false
	}
}

func (m *merge[T]) readOwn(ctx context.Context, s *teller) error {
	events, err := m.own(ctx)
	if err != nil {
		return err
	}
	for ev := range events {
		m.put(ctx, item[T]{from: s, ev: ev}) // after ctx the channel closes soon
	}
	return ctx.Err()
}

func (m *merge[T]) readPeer(ctx context.Context, s *teller) error {
	done, err := m.f.quotas.stream(s.Name)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx) // leaves the stream also when an item cannot be read
	defer cancel()
	items, end := m.f.peers.Stream(ctx, s.Slot, m.method, m.body)
	var r eventReader
	for b := range items {
		text, err := r.read(b)
		var ev T
		if err == nil && text != nil {
			if err = json.Unmarshal(text, &ev); err == nil {
				m.put(ctx, item[T]{from: s, ev: ev})
			}
		}
		if err != nil {
			return fmt.Errorf("an event of member %s cannot be read: %w", s.Name, err)
		}
	}
	return fromRemote(end())
}

// lost forgets a source that has ended, and is false of one that was given up before.
func (m *merge[T]) lost(it *item[T]) bool {
	if m.sources[it.from.Slot] != it.from {
		return false
	}
	delete(m.sources, it.from.Slot)
	return true
}

// close gives up all sources and waits for them.
func (m *merge[T]) close() {
	for _, s := range m.sources {
		s.cancel()
	}
	m.running.Wait()
}

// all are this member and the others that are up.
func (f *fanout) all() []Peer {
	return append([]Peer{{Name: f.Name()}}, f.peers.Peers()...)
}

// Follow implements api.Backend. As long as no member has seen the job all are asked; then its partition
// is known, and only the partition's owner is, whoever that becomes. When the stream of a member breaks, or
// there are too many, the members are asked for the job as it is, now and then; of progress nothing is
// told then.
func (f *fanout) Follow(ctx context.Context, id string) (<-chan api.Event, error) {
	k, err := f.known(ctx, id, knownTimeout)
	switch {
	case err != nil:
		return nil, err
	case k.Ended && k.Job == nil:
		return nil, fmt.Errorf("job %q has %w, %s", id, api.ErrEnded, f.MissingText(id))
	}
	m, err := newMerge(f, methodFollow, idQuestion{ID: id}, func(ctx context.Context) (<-chan api.Event, error) { return f.local.Follow(ctx, id) })
	if err != nil {
		return nil, err
	}
	fl := &following{merge: m, id: id, partition: -1, seen: map[uint32]bool{}, out: make(chan api.Event)}
	if k.Job != nil {
		fl.partition = k.Job.Partition
	}
	ctx, cancel := context.WithCancel(ctx)
	fl.sync(ctx, fl.want())
	go func() {
		defer close(fl.out)
		defer m.close()
		defer cancel()
		fl.run(ctx)
	}()
	return fl.out, nil
}

// following is the merged stream of one job.
type following struct {
	*merge[api.Event]
	id        string
	partition int32           // of the job; -1: not known
	seen      map[uint32]bool // results sent, by assignment: whoever is asked anew begins with all
	state     *api.JobView    // the newest that was sent
	deaf      bool            // a member's stream has broken, or was refused
	out       chan api.Event
}

func (fl *following) want() []Peer {
	all := fl.f.all()
	if fl.partition < 0 {
		return all
	}
	if slot, _, ok := fl.f.peers.Owner(uint32(fl.partition)); ok {
		if i := slices.IndexFunc(all, func(p Peer) bool { return p.Slot == slot }); i >= 0 {
			return all[i : i+1]
		}
	}
	return nil // whoever takes it over will tell everything again
}

// run sends events until the job is done.
func (fl *following) run(ctx context.Context) {
	again := time.NewTicker(refollowAfter) // members and partitions come and go
	defer again.Stop()
	for {
		select {
		case it := <-fl.in:
			switch {
			case !it.end:
				if !fl.take(ctx, &it) {
					return
				}
			case !fl.lost(&it):
			case it.err == nil || errors.Is(it.err, api.ErrEnded):
				return
			default:
				fl.deaf = true
			}
		case <-again.C:
			if fl.deaf && fl.look(ctx) {
				return
			}
			fl.sync(ctx, fl.want())
		case <-ctx.Done():
			return
		}
	}
}

// look tells what the members say of the job when they are asked, and reports whether that is all.
func (fl *following) look(ctx context.Context) bool {
	fl.deaf = false
	k, err := fl.f.known(ctx, fl.id, knownTimeout)
	switch {
	case err != nil:
		return false
	case k.Job == nil:
		return k.Ended
	}
	summary := *k.Job
	summary.Results, summary.Assignments = nil, nil
	events := []api.Event{{Type: api.EventState, Job: &summary}}
	for i := range k.Job.Results {
		events = append(events, api.Event{Type: api.EventResult, Result: &k.Job.Results[i]})
	}
	if fl.state != nil && fl.state.State == summary.State && ended(fl.state) == ended(&summary) {
		events = events[1:] // nothing has changed
	}
	for _, ev := range events {
		if !fl.take(ctx, &item[api.Event]{ev: ev}) {
			return true
		}
	}
	return summary.State == api.StateDone
}

// take sends an event on, unless it is known, and is false when nobody listens any more.
func (fl *following) take(ctx context.Context, it *item[api.Event]) bool {
	ev := it.ev
	switch {
	case ev.Result != nil:
		if fl.seen[ev.Result.Index] {
			return true
		}
		fl.seen[ev.Result.Index] = true
	case ev.Job != nil:
		if fl.partition < 0 {
			fl.partition = ev.Job.Partition
			if it.from != nil { // else it was asked for
				fl.sync(ctx, fl.narrowed(it.from))
			}
		}
		if fl.state != nil && ended(ev.Job) < ended(fl.state) {
			return true // of a member that has just taken it over, or lost it
		}
		fl.state = ev.Job
	}
	select {
	case fl.out <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

// narrowed is what is wanted when a member has shown the job: that one alone, as long as it may be the
// partition's owner.
func (fl *following) narrowed(from *teller) []Peer {
	if want := fl.want(); len(want) > 0 {
		return want
	}
	return []Peer{from.Peer}
}

// Trace implements api.Backend: of all members, for as long as they are there. The stream says whose
// steps it does not have.
func (f *fanout) Trace(ctx context.Context, filter api.TraceFilter) (<-chan api.TraceEvent, error) {
	m, err := newMerge(f, methodTrace, filter, func(ctx context.Context) (<-chan api.TraceEvent, error) { return f.local.Trace(ctx, filter) })
	if err != nil {
		return nil, err
	}
	t := &tracing{merge: m, missing: map[string]bool{}, out: make(chan api.TraceEvent)}
	ctx, cancel := context.WithCancel(ctx)
	t.sync(ctx, f.all())
	go func() {
		defer close(t.out)
		defer m.close()
		defer cancel()
		t.run(ctx)
	}()
	return t.out, nil
}

// tracing is one merged trace.
type tracing struct {
	*merge[api.TraceEvent]
	missing map[string]bool // members that it was said of
	out     chan api.TraceEvent
}

func (t *tracing) run(ctx context.Context) {
	again := time.NewTicker(refollowAfter)
	defer again.Stop()
	for {
		select {
		case it := <-t.in:
			switch {
			case !it.end:
				delete(t.missing, it.from.Name)
				if !t.send(ctx, it.ev) {
					return
				}
			case !t.lost(&it):
			case it.from.Slot == 0:
				return // this member stops
			default:
				if !t.lacks(ctx, it.from.Name, it.err) {
					return
				}
			}
		case <-again.C:
			t.sync(ctx, t.f.all())
		case <-ctx.Done():
			return
		}
	}
}

// lacks says once that a member's steps are missing.
func (t *tracing) lacks(ctx context.Context, name string, why error) bool {
	if t.missing[name] {
		return true
	}
	t.missing[name] = true
	text := "the member does not tell its steps"
	if why != nil {
		text += ": " + why.Error()
	}
	t.f.log.Debug("a trace lacks a member", zap.String("peer", name), zap.Error(why))
	return t.send(ctx, api.TraceEvent{TimeUs: time.Now().UnixMicro(), Member: name, Step: api.StepMissing, Text: text})
}

func (t *tracing) send(ctx context.Context, ev api.TraceEvent) bool {
	select {
	case t.out <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}
