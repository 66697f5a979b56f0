// Package relay is the bare loop that consumes records, produces them to another
// topic and commits both in one transaction, with nothing in between: what the broker
// and a Kafka client can do at most on this machine, for a server that does more to be
// compared with.
//
// The loop runs in a process of its own, as a server does, so that its processor time
// can be told from that of the load. It ends when its standard input does: so it never
// outlives the process that started it.
package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// pollRecords is how many records one poll returns at most: enough to be no limit,
// few enough to look at the clock between.
const pollRecords = 10_000

// Config says what to relay. From and To have equal numbers of partitions: a record
// keeps its partition.
type Config struct {
	Brokers  []string
	From, To string
	Group    string
	Interval time.Duration // a transaction ends so long after its first record
	Records  int           // or as soon as it has so many; 0: no limit
}

// Validate refuses what cannot work, naming the flag.
func (c *Config) Validate() error {
	switch {
	case c.Interval < time.Millisecond || c.Interval > 10*time.Second:
		return fmt.Errorf("--commit-interval: %v; allowed are 1ms to 10s", c.Interval)
	case c.Records < 0:
		return fmt.Errorf("--commit-records: %d; a number is expected, or 0 for no limit", c.Records)
	}
	return nil
}

// Stats is what a loop has done.
type Stats struct {
	Records      int64 // in committed transactions
	Transactions int64 // committed
	Aborted      int64 // by a rebalance; their records are relayed again
}

// Loop relays until ctx ends. It calls ready when all of so many partitions are
// assigned to it.
func Loop(ctx context.Context, cfg Config, partitions int, ready func()) (st Stats, err error) {
	assigned := 0
	s, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(cfg.Brokers...),
		kgo.ClientID("roost-loadtest-relay"),
		kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(100*time.Millisecond), // a leader that is not one yet is asked for again soon
		kgo.TransactionalID(cfg.Group),
		kgo.TransactionTimeout(10*time.Second),
		kgo.ConsumerGroup(cfg.Group),
		kgo.ConsumeTopics(cfg.From),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// A fetch that waits at the broker does not learn of partitions whose offsets
		// became known meanwhile; by default it waits for seconds.
		kgo.FetchMaxWait(50*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(time.Millisecond),
		kgo.MaxBufferedRecords(1<<20),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			if assigned += len(got[cfg.From]); assigned == partitions {
				ready()
			}
		}),
	)
	if err != nil {
		return st, fmt.Errorf("relay: %w", err)
	}
	defer s.Close()
	for ctx.Err() == nil {
		fs := s.PollRecords(ctx, pollRecords)
		if err := failure(fs); err != nil {
			return st, err
		}
		if fs.Empty() {
			continue
		}
		if err := one(ctx, s, &cfg, fs, &st); err != nil {
			return st, err
		}
	}
	return st, nil
}

// one is a transaction, from its first records on.
func one(ctx context.Context, s *kgo.GroupTransactSession, cfg *Config, fs kgo.Fetches, st *Stats) error {
	if err := s.Begin(); err != nil {
		return fmt.Errorf("relay: begin: %w", err)
	}
	until, cancel := context.WithTimeout(ctx, cfg.Interval)
	defer cancel()
	n := 0
	for {
		fs.EachRecord(func(r *kgo.Record) {
			n++
			s.Produce(context.Background(), &kgo.Record{
				Topic: cfg.To, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers,
			}, nil) // what fails is reported by End
		})
		most := pollRecords
		if cfg.Records > 0 {
			most = min(most, cfg.Records-n)
		}
		if most <= 0 || until.Err() != nil {
			break
		}
		fs = s.PollRecords(until, most)
		if err := failure(fs); err != nil {
			return err
		}
	}
	// Also when ctx has ended: an interrupted end leaves the transaction open.
	committed, err := s.End(context.Background(), kgo.TryCommit)
	if err != nil {
		return fmt.Errorf("relay: commit: %w", err)
	}
	if !committed {
		st.Aborted++
		return nil
	}
	st.Transactions++
	st.Records += int64(n)
	return nil
}

// failure is what a poll tells beyond that its time was over.
func failure(fs kgo.Fetches) error {
	for _, e := range fs.Errors() {
		if !errors.Is(e.Err, context.Canceled) && !errors.Is(e.Err, context.DeadlineExceeded) {
			return fmt.Errorf("relay: consume %s: %w", e.Topic, e.Err)
		}
	}
	return nil
}
