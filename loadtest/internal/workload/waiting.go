package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// MaxWaiting bounds the jobs of one [Waiting].
const MaxWaiting = 100_000_000

// WaitingConfig says which jobs wait.
type WaitingConfig struct {
	Brokers     []string
	TopicPrefix string
	Jobs        int64
	Nodes       int           // nodes that the jobs are for, in turn; none of them ever connects
	TTL         time.Duration // until jobs that nobody cancels expire
	Size        int           // bytes of each job's args

	// Beside are ids of nodes that are connected, if any: then the jobs that wait lie
	// only in partitions where jobs for these lie too. So when all of these jobs that
	// were written later have their outcomes, the server has taken all that wait.
	Beside []string
}

// Validate refuses what cannot work, naming the flag.
func (c *WaitingConfig) Validate() error {
	switch {
	case c.Jobs < 1 || c.Jobs > MaxWaiting:
		return fmt.Errorf("jobs that wait: %d; allowed are 1 to %d", c.Jobs, MaxWaiting)
	case c.Nodes < 1 || c.Nodes > 10_000_000:
		return fmt.Errorf("--away: %d; allowed are 1 to 10000000", c.Nodes)
	case c.TTL < time.Second || c.TTL > 30*24*time.Hour:
		return fmt.Errorf("--waiting-ttl: %v; allowed are 1s to 720h", c.TTL)
	case c.Size < MinSize || c.Size > MaxSize:
		return fmt.Errorf("--size: %d; allowed are %d to %d", c.Size, MinSize, MaxSize)
	}
	return nil
}

// Waiting are jobs for nodes that are away. One goroutine uses it.
type Waiting struct {
	cfg     WaitingConfig
	t       *template
	run     string
	cl      *kgo.Client
	tally   *tally
	keys    [][]byte
	parts   []int32
	jobs    string
	results string
	ends    map[int32]kgo.Offset // of results, before there were jobs
	next    int64                // jobs that were handed to the Kafka client
	readErr string
}

// NewWaiting prepares the jobs; none is written yet. The caller closes it.
func NewWaiting(ctx context.Context, cfg WaitingConfig) (*Waiting, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	w := &Waiting{cfg: cfg, run: NewRunID(), jobs: cfg.TopicPrefix + "jobs", results: cfg.TopicPrefix + "results"}
	var err error
	if w.t, err = newTemplate(w.run, form{target: record.Target{Node: awayID(0)}, size: cfg.Size, ttl: cfg.TTL}); err != nil {
		return nil, err
	}
	w.tally = newTally(w.run, 0)
	if w.cl, err = newClient(cfg.Brokers, 1<<16); err != nil {
		return nil, err
	}
	n, err := partitions(ctx, w.cl, w.jobs)
	if err == nil {
		w.place(n)
		n, err = partitions(ctx, w.cl, w.results)
	}
	if err == nil {
		w.ends, err = endOffsets(ctx, w.cl, w.results, n)
	}
	if err != nil {
		w.cl.Close()
		return nil, err
	}
	return w, nil
}

// Close ends the Kafka client.
func (w *Waiting) Close() { w.cl.Close() }

func awayID(i int) string { return fmt.Sprintf("away-%08d", i) }

// place chooses the nodes that are away, and their partitions of n.
func (w *Waiting) place(n int32) {
	allowed := make([]bool, n)
	for _, id := range w.cfg.Beside {
		allowed[record.Partition(id, n)] = true
	}
	for i := 0; len(w.keys) < w.cfg.Nodes; i++ {
		id := awayID(i)
		p := record.Partition(id, n)
		if len(w.cfg.Beside) == 0 || allowed[p] {
			w.keys, w.parts = append(w.keys, []byte(id)), append(w.parts, p)
		}
	}
}

// Submit writes the jobs, and returns when the broker has them all.
func (w *Waiting) Submit(ctx context.Context) error {
	return w.each(ctx, w.cfg.Jobs, func(seq int64, node int) []byte {
		w.next = seq + 1
		value := append([]byte(nil), w.t.value...)
		w.t.fill(value, 0, seq, stamp.Now())
		copy(w.t.node(value), w.keys[node])
		return value
	})
}

// each writes n records to the jobs topic, one for each job with the key of its node.
func (w *Waiting) each(ctx context.Context, n int64, value func(seq int64, node int) []byte) error {
	all := kgo.AbortingFirstErrPromise(w.cl)
	for seq := int64(0); seq < n && ctx.Err() == nil; seq++ {
		node := int(seq % int64(len(w.keys)))
		w.cl.Produce(ctx, &kgo.Record{Topic: w.jobs, Partition: w.parts[node], Key: w.keys[node], Value: value(seq, node)}, all.Promise())
	}
	if err := errors.Join(all.Err(), ctx.Err()); err != nil {
		return fmt.Errorf("jobs that wait: produce: %w", err)
	}
	return nil
}

// Cancelled is what became of jobs that waited.
type Cancelled struct {
	Submitted  int64
	Cancelled  int64 // have the outcome cancelled
	Open       int64 // have no outcome
	Duplicates int64
	ByOutcome  map[string]int64 // first outcomes, by their word
	ReadError  string           // the newest failure of the reader of outcomes
}

// Cancel writes a cancel record for each job that was submitted, and reads outcomes
// until each has one, no new one came for patience, or ctx ends.
func (w *Waiting) Cancel(ctx context.Context, patience time.Duration) (Cancelled, error) {
	w.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{w.results: w.ends})
	produced := make(chan error, 1)
	go func() {
		produced <- w.each(ctx, w.next, func(seq int64, _ int) []byte {
			value := append([]byte(`{"id":"`), appendID(nil, w.run, 0, seq)...)
			return append(value, `","cancel":true}`...)
		})
	}()
	var err error
	last, have, writing := time.Now(), int64(0), true
	for {
		select {
		case err = <-produced:
			writing, last = false, time.Now()
		default:
		}
		poll, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		w.enter(w.cl.PollRecords(poll, pollRecords))
		cancel()
		if n := w.tally.outcomes(); n != have {
			have, last = n, time.Now()
		}
		if !writing && (have >= w.next || time.Since(last) > patience || err != nil || ctx.Err() != nil) {
			break
		}
	}
	c := w.tally.counts()
	return Cancelled{
		Submitted: w.next, Cancelled: c.ByOutcome[protocol.OutcomeCancelled.String()], Open: w.next - c.Outcomes,
		Duplicates: c.Duplicates, ByOutcome: c.ByOutcome, ReadError: w.readErr,
	}, err
}

func (w *Waiting) enter(fs kgo.Fetches) {
	now := stamp.Now()
	fs.EachPartition(func(p kgo.FetchTopicPartition) {
		if p.Err != nil && !errors.Is(p.Err, context.Canceled) && !errors.Is(p.Err, context.DeadlineExceeded) {
			w.readErr = "consume " + p.Topic + ": " + p.Err.Error()
		}
		for _, rec := range p.Records {
			w.tally.record(contentType(rec), rec.Value, now)
		}
	})
}
