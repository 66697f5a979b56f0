package kafka

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
)

// rawTx is a transactional producer as the binding has it, for transactions that are left
// open, or that do what a Transactor would not.
type rawTx struct {
	t    testing.TB
	p    *ck.Producer
	once sync.Once
}

func newRawTx(t testing.TB, cfg Config, id string, set ...string) *rawTx {
	t.Helper()
	m := cfg.producerMap(make(chan ck.LogEvent, 1024))
	m["go.logs.channel.enable"] = false
	delete(m, "go.logs.channel")
	delete(m, "message.timeout.ms")
	m["transactional.id"] = id
	m["transaction.timeout.ms"] = 60_000
	for i := 0; i < len(set); i += 2 {
		m[set[i]] = set[i+1]
	}
	p, err := ck.NewProducer(&m)
	require.NoError(t, err)
	x := &rawTx{t: t, p: p}
	go func() {
		for range p.Events() { //nolint:revive // the delivery reports
		}
	}()
	t.Cleanup(x.close)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, p.InitTransactions(ctx))
	return x
}

// close leaves an open transaction open.
func (x *rawTx) close() { x.once.Do(x.p.Close) }

func (x *rawTx) begin() *rawTx {
	x.t.Helper()
	require.NoError(x.t, x.p.BeginTransaction())
	return x
}

func (x *rawTx) produce(topic string, partition int32, key, value []byte) *rawTx {
	x.t.Helper()
	for {
		err := x.p.Produce(&ck.Message{TopicPartition: ck.TopicPartition{Topic: &topic, Partition: partition}, Key: key, Value: value}, nil)
		if code(err) != ck.ErrQueueFull {
			require.NoError(x.t, err)
			return x
		}
		x.p.Flush(10)
	}
}

func (x *rawTx) flush() *rawTx {
	x.t.Helper()
	require.Zero(x.t, x.p.Flush(int(patience/time.Millisecond)))
	return x
}

func (x *rawTx) offsets(topic string, offsets map[int32]int64, g *GroupMetadata) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var tps []ck.TopicPartition
	for p, o := range offsets {
		tps = append(tps, ck.TopicPartition{Topic: &topic, Partition: p, Offset: ck.Offset(o)})
	}
	return x.p.SendOffsetsToTransaction(ctx, tps, g.meta)
}

func (x *rawTx) commit() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return x.p.CommitTransaction(ctx)
}

func (x *rawTx) abort() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return x.p.AbortTransaction(ctx)
}

// commitOffsets is a transaction with these offsets alone; it is aborted when they are
// refused.
func (x *rawTx) commitOffsets(topic string, offsets map[int32]int64, g *GroupMetadata) error {
	x.begin()
	if err := x.offsets(topic, offsets, g); err != nil {
		return errors.Join(err, x.abort())
	}
	return x.commit()
}

// testCommitter commits noted offsets as a member does: in transactions, with the group
// metadata of the consumer, whatever happens to the broker.
type testCommitter struct {
	cfg     Config
	topic   string
	c       *Consumer
	commits atomic.Uint64

	mu   sync.Mutex
	want map[int32]int64
	have map[int32]int64
}

// attachCommitter has all records that the recorder gets committed.
func attachCommitter(t testing.TB, cfg Config, topic string, rec *recorder) *testCommitter {
	k := &testCommitter{cfg: cfg, topic: topic, want: map[int32]int64{}, have: map[int32]int64{}}
	rec.onRecords = func(p int32, rs []Record) { k.note(p, rs[len(rs)-1].Offset+1) }
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { k.run(ctx, "tx-"+unique(), rec.consumer) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return k
}

func (k *testCommitter) note(p int32, next int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.want[p] = max(k.want[p], next)
}

func (k *testCommitter) due() map[int32]int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	due := maps.Clone(k.want)
	maps.DeleteFunc(due, func(p int32, next int64) bool { return k.have[p] >= next })
	return due
}

func (k *testCommitter) run(ctx context.Context, id string, consumer func() *Consumer) {
	var p *ck.Producer
	defer func() {
		if p != nil {
			p.Close()
		}
	}()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := k.due()
		c := consumer()
		if len(due) == 0 || c == nil || c.Group() == nil {
			continue
		}
		if p == nil {
			m := k.cfg.producerMap(make(chan ck.LogEvent, 1024))
			m["go.logs.channel.enable"] = false
			delete(m, "go.logs.channel")
			delete(m, "message.timeout.ms")
			m["transactional.id"] = id
			m["transaction.timeout.ms"] = 5000
			m["socket.timeout.ms"] = 4000
			var err error
			if p, err = ck.NewProducer(&m); err != nil {
				panic(err)
			}
			go func(p *ck.Producer) {
				for range p.Events() { //nolint:revive // client errors
				}
			}(p)
			if p.InitTransactions(ctx) != nil {
				p.Close()
				p = nil
				continue
			}
		}
		if err := k.commit(ctx, p, due, c.Group()); err != nil {
			p.Close()
			p = nil
		}
	}
}

func (k *testCommitter) commit(ctx context.Context, p *ck.Producer, due map[int32]int64, g *GroupMetadata) error {
	var tps []ck.TopicPartition
	for id, next := range due {
		tps = append(tps, ck.TopicPartition{Topic: &k.topic, Partition: id, Offset: ck.Offset(next)})
	}
	if g == nil {
		return nil
	}
	if err := p.BeginTransaction(); err != nil {
		return err
	}
	if err := p.SendOffsetsToTransaction(ctx, tps, g.meta); err != nil {
		return err
	}
	if err := p.CommitTransaction(ctx); err != nil {
		return err
	}
	k.commits.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.Copy(k.have, due)
	return nil
}
