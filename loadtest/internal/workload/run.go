package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol/record"
)

const (
	// abortDrain is how long an interrupted run waits for outcomes.
	abortDrain = 5 * time.Second
	// duplicateGrace is how long a run that has every outcome listens for second ones.
	duplicateGrace = 500 * time.Millisecond
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
	case c.Window < 1 || c.Window > MaxWindow:
		return fmt.Errorf("--window: %d; allowed are 1 to %d", c.Window, MaxWindow)
	case c.Size < MinSize || c.Size > MaxSize:
		return fmt.Errorf("--size: %d; allowed are %d to %d", c.Size, MinSize, MaxSize)
	case c.Jobs < 0 || c.Jobs > maxJobs:
		return fmt.Errorf("--jobs: %d; allowed are 0 (until --duration) to %d", c.Jobs, int64(maxJobs))
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
	*Load
	cfg    Config
	stream *Stream
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
	limit := cfg.Window
	if cfg.Rate > 0 {
		limit = MaxWindow
	}
	l, err := newLoad(ctx, LoadConfig{Brokers: cfg.Brokers, TopicPrefix: cfg.TopicPrefix, Names: list(cfg.NodeIDs), Most: limit})
	if err != nil {
		return nil, err
	}
	defer l.cl.Close()
	if cfg.Copies {
		node := record.Target{Node: cfg.NodeIDs[0]}
		if l.tally.copies, err = newTemplate(l.run, form{target: node, size: cfg.Size, ttl: DefaultTTL}); err != nil {
			return nil, err
		}
	}
	r := &run{Load: l, cfg: cfg}
	l.tally.warmNs = stamp.Now() + cfg.Warmup.Nanoseconds()
	l.read()
	defer l.quiet()
	if r.stream, err = l.Start(cfg.pace()); err != nil {
		return nil, err
	}
	f := r.supervise(ctx)
	r.stream.Stop()
	l.quiet()
	f.finish(r)
	return f, nil
}

func (c *Config) pace() Pace {
	return Pace{Rate: c.Rate, Window: c.Window, Jobs: c.Jobs, Nodes: len(c.NodeIDs), Size: c.Size}
}

func (r *run) mark() mark {
	m := mark{at: time.Since(r.stream.started), outcomes: r.tally.outcomes()}
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
