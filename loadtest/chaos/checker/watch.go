package checker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// WatchConfig says what to follow.
type WatchConfig struct {
	Brokers []string
	Topics  Topics
	Path    string // of the log of marks that is written
	// Outcome, when set, hears of every committed result. It is called from one
	// goroutine.
	Outcome func(job string, index int, outcome string)
	// Seen, when set, hears the same and more, from the same goroutine.
	Seen func(Seen)
}

// Seen is a committed result, as a live reader met it.
type Seen struct {
	Job, Node, Outcome, Member string
	Index                      int
	Partition                  int32 // of roost.jobs
}

// Watch follows roost.results and roost.progress with committed reads, from their
// beginnings, and logs the marks.
type Watch struct {
	cfg        WatchConfig
	cl         *kgo.Client
	file       *os.File
	out        *bufio.Writer
	cancel     context.CancelFunc
	done       chan struct{}
	err        error
	partitions map[string]int32 // of results and dead
	snapshots  int
	waiting    []*waitingMark
	last       sync.Map // int64 by partition of roost.jobs
	marks      atomic.Int64
}

// waitingMark is a mark whose transaction's end has not come by.
type waitingMark struct {
	mark *Mark
	id   int64 // of the producer
}

// StartWatch begins to follow. The topics have to exist; without roost.progress only
// the results are followed.
func StartWatch(ctx context.Context, cfg WatchConfig) (*Watch, error) {
	cl, err := newClient(cfg.Brokers, kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	w := &Watch{cfg: cfg, cl: cl, done: make(chan struct{}), partitions: map[string]int32{}}
	if err := w.prepare(ctx); err != nil {
		cl.Close()
		return nil, err
	}
	ctx, w.cancel = context.WithCancel(ctx)
	go w.run(ctx)
	return w, nil
}

func (w *Watch) prepare(ctx context.Context) error {
	t := w.cfg.Topics
	at := map[string]map[int32]kgo.Offset{}
	for _, topic := range []string{t.Results, t.Dead, t.Progress} {
		n, err := partitionsOf(ctx, w.cl, topic)
		switch {
		case errors.Is(err, errNoTopic) && topic == t.Progress:
			continue
		case err != nil:
			return err
		case topic != t.Progress:
			w.partitions[topic] = n
		}
		if topic == t.Dead {
			continue
		}
		at[topic] = map[int32]kgo.Offset{}
		for p := range n {
			at[topic][p] = kgo.NewOffset().AtStart()
		}
	}
	f, err := os.Create(w.cfg.Path)
	if err != nil {
		return err
	}
	w.file, w.out = f, bufio.NewWriter(f)
	w.cl.AddConsumePartitions(at)
	return nil
}

// Watermark returns the newest one seen of a partition of roost.jobs.
func (w *Watch) Watermark(partition int32) (int64, bool) {
	v, ok := w.last.Load(partition)
	if !ok {
		return 0, false
	}
	return v.(int64), true
}

// Marks returns how many there were.
func (w *Watch) Marks() int64 { return w.marks.Load() }

// Stop ends the watch. The error is of the log that could not be written.
func (w *Watch) Stop() error {
	w.cancel()
	<-w.done
	w.cl.Close()
	return w.err
}

func (w *Watch) run(ctx context.Context) {
	defer close(w.done)
	for ctx.Err() == nil {
		fetches := w.cl.PollFetches(ctx)
		seen := false
		// A transaction's end comes with or after its records.
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Topic == w.cfg.Topics.Progress {
				seen = w.progress(r) || seen
			} else if !r.Attrs.IsControl() {
				w.result(r)
			}
		})
		if seen {
			w.log(ctx)
		}
	}
	w.keep(errors.Join(w.out.Flush(), w.file.Close()))
}

func (w *Watch) result(r *kgo.Record) {
	if w.cfg.Outcome == nil && w.cfg.Seen == nil {
		return
	}
	res, err := parseResult(header(r, headerContentType), r.Value)
	if err != nil {
		return
	}
	if w.cfg.Outcome != nil {
		w.cfg.Outcome(*res.Job, *res.Index, *res.Outcome)
	}
	if w.cfg.Seen != nil {
		w.cfg.Seen(Seen{Job: *res.Job, Node: *res.Node, Outcome: *res.Outcome, Member: *res.Member, Index: *res.Index, Partition: *res.Partition})
	}
}

// progress notes a record; it reports whether a mark is whole now.
func (w *Watch) progress(r *kgo.Record) bool {
	if r.Attrs.IsControl() {
		for _, q := range w.waiting {
			if q.id == r.ProducerID && q.mark.CommittedMs == 0 {
				q.mark.CommittedMs = r.Timestamp.UnixMilli()
			}
		}
		return len(w.waiting) > 0
	}
	m := &Mark{At: r.Offset, Transaction: r.Attrs.IsTransactional()}
	if !m.Transaction {
		m.CommittedMs = r.Timestamp.UnixMilli()
	}
	p, err := parseProgress(r.Key, r.Value)
	if err != nil {
		m.Bad = fmt.Sprintf("offset %d: %v", r.Offset, err)
	} else {
		m.Partition, m.Offset, m.JobMs, m.TimeMs, m.Member = *p.Partition, *p.Offset, *p.JobMs, *p.TimeMs, *p.Member
		w.last.Store(m.Partition, m.Offset)
	}
	w.marks.Add(1)
	w.waiting = append(w.waiting, &waitingMark{m, r.ProducerID})
	return !m.Transaction
}

// log writes the marks that are whole, with where the topics of outcomes end now.
func (w *Watch) log(ctx context.Context) {
	snapshot := 0
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	ends, err := offsets(ask, w.cl, latest, w.partitions)
	cancel()
	if err == nil {
		w.snapshots++
		snapshot = w.snapshots
		w.write(&Mark{Snapshot: snapshot, Ends: &Ends{Results: ends[w.cfg.Topics.Results], Dead: ends[w.cfg.Topics.Dead]}})
	}
	rest := w.waiting[:0]
	for _, q := range w.waiting {
		if q.mark.CommittedMs == 0 {
			rest = append(rest, q)
			continue
		}
		q.mark.Snapshot = snapshot
		w.write(q.mark)
	}
	w.waiting = rest
	w.keep(w.out.Flush())
}

func (w *Watch) write(m *Mark) {
	b, err := json.Marshal(m)
	if err == nil {
		_, err = w.out.Write(append(b, '\n'))
	}
	w.keep(err)
}

func (w *Watch) keep(err error) {
	if w.err == nil {
		w.err = err
	}
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}
