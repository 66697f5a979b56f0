// Package submit produces the records of the harness at a steady rate: jobs of every
// kind of target and fate, cancels, duplicates, and records that have to be refused.
// It logs what it produces, and what Kafka acknowledged, for the checker.
package submit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/loadtest/chaos/checker"
)

// Config says what to submit.
type Config struct {
	Brokers    []string
	Topic      string
	Partitions int32
	Rate       int // records a second
	Seed       uint64
	Nodes      []string // ids of nodes that exist
	Path       string   // of the log
	// Made, when set, hears of every record before it is produced. It is called from one
	// goroutine, and must not keep what it is given.
	Made func(*checker.Submission)
	// Acked, when set, hears of every job record that Kafka has, and how many assignments
	// it has; a job's second record has as many. It is called from the client's goroutines.
	Acked func(id string, assignments int)
}

// Submitter is a running submission.
type Submitter struct {
	cfg    Config
	cl     *kgo.Client
	mix    *mix
	cancel context.CancelFunc
	done   chan struct{}

	submitted, acked, failed atomic.Int64

	mu   sync.Mutex
	file *os.File
	log  *bufio.Writer
	err  error
}

// Start begins to submit.
func Start(ctx context.Context, cfg Config) (*Submitter, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(cfg.Brokers...),
		kgo.ClientID("chaos-submitter"),
		kgo.DisableClientMetrics(),
		kgo.DefaultProduceTopic(cfg.Topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.ProduceRequestTimeout(5*time.Second),
		kgo.RecordDeliveryTimeout(60*time.Second),
		kgo.MetadataMinAge(100*time.Millisecond),
		kgo.MaxBufferedRecords(20_000),
	)
	if err != nil {
		return nil, err
	}
	file, err := os.Create(cfg.Path)
	if err != nil {
		cl.Close()
		return nil, err
	}
	s := &Submitter{cfg: cfg, cl: cl, file: file, log: bufio.NewWriterSize(file, 64<<10), done: make(chan struct{})}
	s.mix = newMix(rand.New(rand.NewPCG(cfg.Seed, 0x6a6f6273)), cfg.Nodes, cfg.Partitions)
	ctx, s.cancel = context.WithCancel(ctx)
	go s.run(ctx)
	return s, nil
}

// Counts returns how many records were produced, how many of them Kafka acknowledged,
// and how many it did not.
func (s *Submitter) Counts() (submitted, acked, failed int64) {
	return s.submitted.Load(), s.acked.Load(), s.failed.Load()
}

// Finish stops producing, waits for the acknowledgements that are due, and closes the
// log.
func (s *Submitter) Finish(ctx context.Context) error {
	s.cancel()
	<-s.done
	err := s.cl.Flush(ctx)
	s.cl.Close() // fails what is left
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(err, s.err, s.log.Flush(), s.file.Close())
}

// run produces at the rate; after a pause, because Kafka was away, it does not catch up
// with more than a second of it.
func (s *Submitter) run(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	due, last := 0.0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		due = min(due+float64(s.cfg.Rate)*now.Sub(last).Seconds(), float64(s.cfg.Rate))
		last = now
		for ; due >= 1; due-- {
			if ctx.Err() != nil {
				return
			}
			s.produce(ctx, s.mix.next(now.UnixMilli()))
		}
	}
}

// made is a record to be produced, and what is known of it.
type made struct {
	sub     checker.Submission
	key     string
	value   []byte
	headers []kgo.RecordHeader
}

func (s *Submitter) produce(ctx context.Context, m *made) {
	seq := s.submitted.Add(1)
	m.sub.Seq = seq
	s.note(&m.sub)
	if s.cfg.Made != nil {
		s.cfg.Made(&m.sub)
	}
	r := &kgo.Record{Key: []byte(m.key), Value: m.value,
		Headers: append(m.headers, kgo.RecordHeader{Key: checker.SeqHeader, Value: strconv.AppendInt(nil, seq, 10)})}
	// Not with ctx: a record that was handed over is waited for.
	s.cl.Produce(context.WithoutCancel(ctx), r, func(r *kgo.Record, err error) {
		f := &checker.Fate{Seq: seq, Acked: err == nil, Partition: r.Partition, Offset: r.Offset}
		if err != nil {
			s.failed.Add(1)
			f.Err = err.Error()
		} else {
			s.acked.Add(1)
			if m.sub.What == checker.Job && s.cfg.Acked != nil {
				s.cfg.Acked(m.sub.ID, m.sub.Size())
			}
		}
		s.note(f)
	})
}

// note logs a submission or a fate.
func (s *Submitter) note(v any) {
	b, err := json.Marshal(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		_, err = fmt.Fprintf(s.log, "%s\n", b)
	}
	if s.err == nil {
		s.err = err
	}
}
