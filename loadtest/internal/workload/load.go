package workload

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/loadtest/internal/stamp"
)

// LoadConfig says where a load goes.
type LoadConfig struct {
	Brokers     []string
	TopicPrefix string
	Names       Names // of the nodes
	Most        int   // jobs under way at a time, of all streams; 0: MaxWindow
}

// Load is the producing and reading side of a whole test: streams of jobs come and go,
// and every assignment is accounted from the first to the last. Any goroutine may call
// its methods.
type Load struct {
	run        string
	names      Names
	topic      string
	partitions int32
	cl         *kgo.Client
	slots      *slots
	tally      *tally
	promise    func(*kgo.Record, error)

	streams  sync.WaitGroup
	consumer sync.WaitGroup
	stop     context.CancelFunc // of the consumer
	failed   atomic.Int64       // assignments whose job the broker refused, and that have no outcome

	mu      sync.Mutex
	next    int64 // assignments so far
	jobs    int64
	lastErr string
}

// Totals are what a load has done so far.
type Totals struct {
	Counts
	Jobs          int64
	Submitted     int64 // assignments, of all jobs
	ProduceFailed int64 // of them, those of jobs that the broker refused
}

// Lost is how many assignments have no outcome.
func (t *Totals) Lost() int64 { return max(0, t.Submitted-t.ProduceFailed-t.Outcomes) }

// Open connects to Kafka and begins to read outcomes. No job is sent before a stream is
// started. The caller closes it.
func Open(ctx context.Context, cfg LoadConfig) (*Load, error) {
	l, err := newLoad(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l.tally.watch()
	l.read()
	return l, nil
}

// newLoad is Open before anything is read.
func newLoad(ctx context.Context, cfg LoadConfig) (*Load, error) {
	if cfg.Most == 0 {
		cfg.Most = MaxWindow
	}
	l := &Load{run: NewRunID(), names: cfg.Names, topic: cfg.TopicPrefix + "jobs", slots: newSlots(cfg.Most)}
	l.tally = newTally(l.run, 0)
	var err error
	if l.cl, err = newClient(cfg.Brokers, cfg.Most); err != nil {
		return nil, err
	}
	results := cfg.TopicPrefix + "results"
	l.partitions, err = partitions(ctx, l.cl, l.topic)
	var n int32
	if err == nil {
		n, err = partitions(ctx, l.cl, results)
	}
	var ends map[int32]kgo.Offset
	if err == nil {
		ends, err = endOffsets(ctx, l.cl, results, n)
	}
	if err != nil {
		l.cl.Close()
		return nil, err
	}
	l.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{results: ends})
	l.promise = func(rec *kgo.Record, err error) { l.acked(rec.Context.(*slot), err) } // one for all records
	return l, nil
}

// read begins to consume outcomes.
func (l *Load) read() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.consumer.Go(func() { l.consume(ctx) })
}

// quiet ends the consumer and waits for that.
func (l *Load) quiet() {
	l.stop()
	l.consumer.Wait()
}

// Close ends everything. All streams have been stopped.
func (l *Load) Close() {
	l.streams.Wait()
	l.quiet()
	l.cl.Close()
}

func (l *Load) acked(s *slot, err error) {
	sent, open := l.slots.acked(s, err != nil)
	if err != nil {
		l.failed.Add(int64(open))
		l.note("produce: " + err.Error())
		return
	}
	l.tally.acked(sent, stamp.Now())
}

func (l *Load) note(err string) { l.mu.Lock(); l.lastErr = err; l.mu.Unlock() }

// Totals returns how things stand.
func (l *Load) Totals() Totals {
	t := Totals{Counts: l.tally.counts(), ProduceFailed: l.failed.Load()}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Jobs, t.Submitted = l.jobs, l.next
	if t.LastError == "" {
		t.LastError = l.lastErr
	}
	return t
}

// Submitted is how many assignments there are so far.
func (l *Load) Submitted() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.next }

// Open reports how many of them have no outcome and may still get one.
func (l *Load) Open() int64 {
	done := l.tally.outcomes() + l.failed.Load()
	return max(0, l.Submitted()-done)
}

// Until is how many assignments have their outcome without a gap, from the first: when
// it is as many as Submitted was at some moment, all of that moment have theirs.
func (l *Load) Until() int64 { return l.tally.until() }

// Look returns the latencies of what ended since the last call. It is valid until the
// next.
func (l *Load) Look() *Latencies { return l.tally.look() }

// Compare has the latencies of some nodes also entered apart, as Others; nil ends that.
// others is called on one goroutine and has to be quick.
func (l *Load) Compare(others func(node string) bool) {
	l.tally.mu.Lock()
	l.tally.win.others = others
	l.tally.mu.Unlock()
}

// consume enters every result into the tally.
func (l *Load) consume(ctx context.Context) {
	for {
		fs := l.cl.PollRecords(ctx, pollRecords)
		if ctx.Err() != nil || fs.IsClientClosed() {
			return
		}
		now := stamp.Now()
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Err != nil && !errors.Is(p.Err, context.Canceled) {
				l.note("consume " + p.Topic + ": " + p.Err.Error())
			}
			for _, rec := range p.Records {
				slot, seq, first := l.tally.record(contentType(rec), rec.Value, now)
				if first {
					l.slots.ended(slot, seq)
				}
			}
		})
	}
}
