package workload

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/protocol/record"
)

const (
	// abortDrain is how long an interrupted run waits for outcomes.
	abortDrain = 5 * time.Second
	// duplicateGrace is how long a run that has every outcome listens for second ones.
	duplicateGrace = 500 * time.Millisecond
	// maxOutstanding bounds the memory of an open loop that the server cannot follow.
	maxOutstanding = 1 << 18
	pollRecords    = 20_000
)

// Config says what load to put on. Durations of 0 are taken as they are.
type Config struct {
	Brokers     []string
	TopicPrefix string
	NodeIDs     []string // all of one length
	Window      int      // jobs outstanding in a closed loop
	Rate        float64  // jobs a second in an open loop; 0: closed loop
	Jobs        int64    // stop after so many; 0: after Duration
	Duration    time.Duration
	Warmup      time.Duration // the start that the figures leave out
	Drain       time.Duration // without any new outcome, after which jobs count as lost
	Size        int           // bytes of args
	Copies      bool          // results are the job records themselves, as a [Relay] passes them on

	ServerCPU func() (time.Duration, error) // nil: unknown
	SelfCPU   func() time.Duration
	NodeCPU   func() time.Duration
	Progress  func(Progress) // once a second; may be nil
}

// Progress is what a running load tells once a second.
type Progress struct {
	Elapsed  time.Duration
	Produced int64
	JobsPerS float64 // outcomes in the last second
	Counts   Counts
}

// Figures are what a run measured. Produced, Lost and the embedded counts are of all
// jobs; the Measured fields leave the warm-up out, unless the run was too short for it.
type Figures struct {
	Counts
	Run           string
	RecordBytes   int // of a job record's value
	Produced      int64
	ProduceFailed int64
	Lost          int64
	Interrupted   bool

	MeasuredFor  time.Duration
	MeasuredJobs int64 // outcomes consumed in that time

	// In microseconds. A job counts from when it was handed to the Kafka client, which
	// is its record's timestamp, or, in an open loop, from when it was due.
	Latency *hdrhistogram.Histogram // until its outcome was consumed, by a reader of committed records
	Deliver *hdrhistogram.Histogram // until its node had it; empty when the nodes do not call [Stamp]
	Commit  *hdrhistogram.Histogram // from then, when the node also sent its result, until its outcome was consumed
	Append  *hdrhistogram.Histogram // from the Kafka client until the broker had acknowledged it; part of Deliver

	ServerCPU time.Duration // 0 when unknown
	SelfCPU   time.Duration
	NodeCPU   time.Duration
}

// Validate refuses what cannot work, naming the flag.
func (c *Config) Validate() error {
	switch {
	case len(c.Brokers) == 0:
		return fmt.Errorf("--kafka: no address; host:port is expected")
	case len(c.NodeIDs) == 0:
		return fmt.Errorf("--nodes: at least 1 is needed")
	case c.Rate < 0 || c.Rate > 10e6:
		return fmt.Errorf("--rate: %v; allowed are 0 (closed loop) to 10000000", c.Rate)
	case c.Window < 1 || c.Window > maxOutstanding:
		return fmt.Errorf("--window: %d; allowed are 1 to %d", c.Window, maxOutstanding)
	case c.Size < MinSize || c.Size > MaxSize:
		return fmt.Errorf("--size: %d; allowed are %d to %d", c.Size, MinSize, MaxSize)
	case c.Jobs < 0 || c.Jobs > 1<<40-1:
		return fmt.Errorf("--jobs: %d; allowed are 0 (until --duration) to %d", c.Jobs, int64(1<<40-1))
	case c.Jobs == 0 && c.Duration <= 0:
		return fmt.Errorf("--duration: %v; a positive duration is expected", c.Duration)
	case c.Warmup < 0:
		return fmt.Errorf("--warmup: %v; it cannot be negative", c.Warmup)
	case c.Drain <= 0:
		return fmt.Errorf("--drain: %v; a positive duration is expected", c.Drain)
	}
	return nil
}

// run is the state of one Run.
type run struct {
	cfg     Config
	cl      *kgo.Client
	t       *template
	slots   *slots
	tally   *tally
	keys    [][]byte
	parts   []int32
	stride  int
	started time.Time
	startNs int64 // the same on the clock of stamps

	produced atomic.Int64
	failed   atomic.Int64
	errMu    sync.Mutex
	lastErr  string
	promise  func(*kgo.Record, error)
}

// mark is a moment of a run with the counters that rates are made of.
type mark struct {
	at               time.Duration
	outcomes         int64
	server, self, nd time.Duration
}

// Run puts the load on until it is done or ctx ends, waits for the outcomes that are
// due, and returns what it measured. An error means that it could not be measured at
// all; lost or failed jobs are figures.
func Run(ctx context.Context, cfg Config) (*Figures, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer r.cl.Close()

	consume, stopConsumer := context.WithCancel(context.Background())
	produce, stopProducer := context.WithCancel(ctx)
	defer stopConsumer()
	defer stopProducer()
	var consumer sync.WaitGroup
	r.started, r.startNs = time.Now(), clock()
	r.tally.warmNs = r.startNs + cfg.Warmup.Nanoseconds()
	consumer.Go(func() { r.consume(consume) })
	producerDone := make(chan struct{})
	go func() { defer close(producerDone); r.produce(produce) }()

	f := r.supervise(ctx, producerDone, stopProducer)
	stopConsumer()
	consumer.Wait()
	f.finish(r)
	return f, nil
}

// NewRunID returns a new name for a run: the start of the ids of its jobs.
func NewRunID() string {
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

func prepare(ctx context.Context, cfg Config) (*run, error) {
	r := &run{cfg: cfg, stride: stride(len(cfg.NodeIDs))}
	var err error
	if r.t, err = newTemplate(NewRunID(), cfg.NodeIDs[0], cfg.Size, jobTTL); err != nil {
		return nil, err
	}
	limit := cfg.Window
	if cfg.Rate > 0 {
		limit = maxOutstanding
	}
	jobs, results := cfg.TopicPrefix+"jobs", cfg.TopicPrefix+"results"
	r.slots = newSlots(r.t, jobs, limit)
	r.tally = newTally(r.t, 0)
	r.tally.copies = cfg.Copies
	if r.cl, err = newClient(cfg.Brokers, limit); err != nil {
		return nil, err
	}
	n, err := partitions(ctx, r.cl, jobs)
	if err == nil {
		for _, id := range cfg.NodeIDs {
			r.keys = append(r.keys, []byte(id))
			r.parts = append(r.parts, record.Partition(id, n))
		}
		n, err = partitions(ctx, r.cl, results)
	}
	var ends map[int32]kgo.Offset
	if err == nil {
		ends, err = endOffsets(ctx, r.cl, results, n)
	}
	if err != nil {
		r.cl.Close()
		return nil, err
	}
	r.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{results: ends})
	r.promise = func(rec *kgo.Record, err error) { // one for all records
		if err != nil {
			r.failed.Add(1)
			r.note("produce: " + err.Error())
		}
		if sent := r.slots.acked(rec.Context.(*slot), err != nil); err == nil {
			r.tally.acked(sent, clock())
		}
	}
	return r, nil
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

func (r *run) note(err string) { r.errMu.Lock(); r.lastErr = err; r.errMu.Unlock() }

func (r *run) mark() mark {
	m := mark{at: time.Since(r.started), outcomes: r.tally.outcomes()}
	if r.cfg.ServerCPU != nil {
		d, err := r.cfg.ServerCPU()
		if err != nil {
			r.note(err.Error())
		}
		m.server = d
	}
	if r.cfg.SelfCPU != nil {
		m.self = r.cfg.SelfCPU()
	}
	if r.cfg.NodeCPU != nil {
		m.nd = r.cfg.NodeCPU()
	}
	return m
}
