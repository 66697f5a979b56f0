package kafka

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// Record is one consumed record. Its byte slices are owned by the receiver.
type Record struct {
	Partition   int32
	LeaderEpoch int32 // -1 when the broker did not say
	Offset      int64
	TimestampMs int64 // Unix milliseconds; -1 when there is none
	Key, Value  []byte
	Headers     []Header
}

// Handler receives what the consumer has. All calls come from the goroutine
// that runs Consumer.Run, one at a time; while one blocks nothing is polled
// (see Config.MaxPollInterval).
type Handler interface {
	// Assigned is called before any record of these partitions.
	Assigned(partitions []int32)
	// Revoked takes partitions away in good order. It should finish its work
	// and may call Consumer.Commit; these commits are flushed after it
	// returns, and before another member gets the partitions. Later commits
	// for them are ignored.
	Revoked(partitions []int32)
	// Lost tells that the partitions may already belong to another member:
	// drop their work. Commits for them are ignored.
	Lost(partitions []int32)
	// Records hands over the records of one partition of one poll round, in
	// the order of offsets. The slice and the records are the callee's.
	Records(partition int32, records []Record)
}

const (
	pollIdle   = 100 // ms
	pollPaused = 10  // ms: so that Resume takes effect soon
	lagEvery   = time.Second
)

// part is the state of one assigned partition; guarded by Consumer.mu.
type part struct {
	id                 int32
	next               int64 // offset after the last delivered record, -1: none yet
	first              int64 // offset of the first delivered record, -1: none yet
	want               int64 // newest offset handed to Commit, -1: none
	sent               int64 // newest offset given to the broker, -1: none
	wantPause, isPause bool
	high               int64 // end of the partition as of the last fetch, -1: not known
	wantEpoch, isEpoch uint64
}

// Consumer is one member of the consumer group, of one topic.
type Consumer struct {
	cfg    Config
	topic  string
	h      Handler
	log    *zap.Logger
	client *ck.Consumer
	state  *reachability

	mu    sync.Mutex
	parts map[int32]*part

	pauseDirty  atomic.Bool
	rewindDirty atomic.Bool
	paused      atomic.Int32
	running     atomic.Bool

	commits *committer
	batch   []*ck.Message // poll goroutine only
	fatal   error         // poll goroutine only
	nextLag time.Time

	n counters

	stopLogs chan struct{}
	logsDone sync.WaitGroup
}

// NewConsumer makes a consumer of the topic; h is called once Run runs.
// A consumer that is not run must be freed with Run on an ended context.
func NewConsumer(cfg Config, topic string, h Handler, log *zap.Logger) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if topic == "" {
		return nil, errors.New("kafka: the consumer needs a topic")
	}
	logs := make(chan ck.LogEvent, 64)
	m := cfg.consumerMap(logs)
	client, err := ck.NewConsumer(&m)
	if err != nil {
		return nil, configError(err)
	}
	c := &Consumer{
		cfg: cfg, topic: topic, h: h, log: log, client: client,
		state:    newReachability("consumer", log, cfg.OnState),
		parts:    make(map[int32]*part),
		batch:    make([]*ck.Message, 0, cfg.BatchRecords),
		stopLogs: make(chan struct{}),
	}
	c.commits = newCommitter(c)
	c.logsDone.Add(1)
	go func() { defer c.logsDone.Done(); logPump(log, logs, c.stopLogs) }()
	return c, nil
}

// Run joins the group and polls until ctx ends, then revokes what is assigned,
// flushes the commits and leaves the group. It returns nil on the end of ctx,
// or a fatal error. It may be called once.
func (c *Consumer) Run(ctx context.Context) error {
	if c.running.Swap(true) {
		return &Error{Class: ClassFatal, Op: "consume", Err: errors.New("Run was called twice")}
	}
	c.commits.start()
	c.state.start(func() error {
		_, err := c.client.GetMetadata(nil, false, probeTimeoutMs)
		return err
	})
	err := wrap("subscribe", c.client.Subscribe(c.topic, c.rebalance))
	for err == nil && ctx.Err() == nil {
		c.applyPauses()
		c.applyRewinds()
		c.poll()
		c.deliver()
		c.tick(time.Now())
		err = c.fatal
	}
	return errors.Join(err, c.shutdown())
}

// shutdown closes the client; its last rebalance callback flushes the commits.
func (c *Consumer) shutdown() error {
	c.state.stop()
	c.commits.stop()
	err := c.client.Close()
	close(c.stopLogs)
	c.logsDone.Wait()
	if left := c.drop(nil); len(left) > 0 {
		c.h.Lost(left) // the client could not revoke in good order
	}
	if err != nil {
		return &Error{Class: ClassFatal, Op: "close", Err: err}
	}
	return nil
}

// poll collects up to BatchRecords messages; it waits only for the first.
func (c *Consumer) poll() {
	wait := pollIdle
	if c.paused.Load() > 0 {
		wait = pollPaused
	}
	c.n.polls.Add(1)
	for len(c.batch) < cap(c.batch) {
		ev := c.client.Poll(wait)
		if ev == nil {
			return
		}
		switch e := ev.(type) {
		case *ck.Message:
			if e.TopicPartition.Error != nil {
				c.clientError(e.TopicPartition.Error)
				continue
			}
			c.batch = append(c.batch, e)
			wait = 0
		case ck.Error:
			c.clientError(e)
			if c.fatal != nil {
				return
			}
		}
	}
}

func (c *Consumer) clientError(err error) {
	var e ck.Error
	errors.As(err, &e)
	switch {
	case e.IsFatal():
		c.fatal = &Error{Class: ClassFatal, Op: "consume", Err: err}
	case e.Code() == ck.ErrAllBrokersDown:
		c.state.suspect(err)
	case e.Code() == ck.ErrTransport || e.Code() == ck.ErrResolve:
		c.state.note(err)
		c.log.Debug("kafka consumer", zap.Error(err))
	default:
		c.n.errors.Add(1)
		c.state.note(err)
		c.log.Warn("kafka consumer", zap.String("topic", c.topic), zap.Error(err))
	}
}

// deliver groups the batch by partition and hands it over.
func (c *Consumer) deliver() {
	if len(c.batch) == 0 {
		return
	}
	c.state.good()
	batch := c.batch
	// Batches come in runs of one partition: find the end of each run, and
	// merge a partition's later runs into its first.
	for len(batch) > 0 {
		p := batch[0].TopicPartition.Partition
		count := 0
		for _, m := range batch {
			if m.TopicPartition.Partition == p {
				count++
			}
		}
		records := make([]Record, 0, count)
		rest := batch[:0]
		for _, m := range batch {
			if m.TopicPartition.Partition == p {
				records = append(records, newRecord(m))
			} else {
				rest = append(rest, m)
			}
		}
		batch = rest
		c.handOver(p, records)
	}
	clear(c.batch)
	c.batch = c.batch[:0]
}

func (c *Consumer) handOver(p int32, records []Record) {
	c.mu.Lock()
	pt := c.parts[p]
	if pt != nil {
		if pt.first < 0 {
			pt.first = records[0].Offset
		}
		pt.next = records[len(records)-1].Offset + 1
	}
	c.mu.Unlock()
	if pt == nil {
		return // revoked meanwhile: the next owner reads them again
	}
	c.n.records.Add(uint64(len(records)))
	c.h.Records(p, records)
}

func newRecord(m *ck.Message) Record {
	r := Record{
		Partition:   m.TopicPartition.Partition,
		LeaderEpoch: -1,
		Offset:      int64(m.TopicPartition.Offset),
		TimestampMs: -1,
		Key:         m.Key,
		Value:       m.Value,
		Headers:     m.Headers,
	}
	if m.TimestampType != ck.TimestampNotAvailable {
		r.TimestampMs = m.Timestamp.UnixMilli()
	}
	if e := m.TopicPartition.LeaderEpoch; e != nil {
		r.LeaderEpoch = *e
	}
	return r
}

// rebalance is called by librdkafka's binding from within Poll or Close. It
// does the (un)assignment itself, because the binding blocks for ever when its
// own attempt fails.
func (c *Consumer) rebalance(client *ck.Consumer, ev ck.Event) error {
	c.n.rebalances.Add(1)
	var err error
	switch e := ev.(type) {
	case ck.AssignedPartitions:
		ids := partitionIDs(e.Partitions)
		c.add(ids)
		if len(ids) > 0 {
			c.log.Info("kafka partitions assigned", zap.Int32s("partitions", ids))
			c.h.Assigned(ids)
		}
		err = client.IncrementalAssign(e.Partitions)
	case ck.RevokedPartitions:
		ids := partitionIDs(e.Partitions)
		c.forgetBatch(ids)
		if len(ids) > 0 {
			c.giveUp(client, ids)
		}
		err = client.IncrementalUnassign(e.Partitions)
	}
	if err != nil {
		c.n.errors.Add(1)
		c.log.Warn("kafka rebalance", zap.Error(err))
		if Classify(err) == ClassFatal {
			c.fatal = wrap("rebalance", err)
		}
	}
	return err
}

func (c *Consumer) giveUp(client *ck.Consumer, ids []int32) {
	defer c.unpause(ids)
	if client.AssignmentLost() {
		c.log.Warn("kafka partitions lost to other members", zap.Int32s("partitions", ids))
		c.n.lost.Add(uint64(len(ids)))
		c.drop(ids)
		c.h.Lost(ids)
		return
	}
	c.log.Info("kafka partitions revoked", zap.Int32s("partitions", ids))
	c.h.Revoked(ids)
	c.commits.flush(ids)
	c.drop(ids)
}

// unpause ends what was paused: librdkafka would keep a partition paused over
// its next assignment.
func (c *Consumer) unpause(ids []int32) {
	tps := make([]ck.TopicPartition, len(ids))
	for i, id := range ids {
		tps[i] = c.topicPartition(id, 0)
	}
	c.warnIf("kafka resume", c.client.Resume(tps))
}

// forgetBatch removes records of revoked partitions that were polled in this
// round and not yet delivered.
func (c *Consumer) forgetBatch(ids []int32) {
	kept := c.batch[:0]
	for _, m := range c.batch {
		gone := false
		for _, id := range ids {
			gone = gone || m.TopicPartition.Partition == id
		}
		if !gone {
			kept = append(kept, m)
		}
	}
	clear(c.batch[len(kept):])
	c.batch = kept
}

func (c *Consumer) add(ids []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.parts[id] = &part{id: id, next: -1, first: -1, want: -1, sent: -1, high: -1}
	}
}

// drop forgets the partitions (all of them for nil) and returns which it had.
func (c *Consumer) drop(ids []int32) []int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ids == nil {
		for id := range c.parts {
			ids = append(ids, id)
		}
	}
	var had []int32
	for _, id := range ids {
		if p, ok := c.parts[id]; ok {
			if p.isPause {
				c.paused.Add(-1)
			}
			had = append(had, id)
			delete(c.parts, id)
		}
	}
	return had
}

func partitionIDs(tps []ck.TopicPartition) []int32 {
	ids := make([]int32, len(tps))
	for i, tp := range tps {
		ids[i] = tp.Partition
	}
	return ids
}

func (c *Consumer) topicPartition(id int32, offset int64) ck.TopicPartition {
	return ck.TopicPartition{Topic: &c.topic, Partition: id, Offset: ck.Offset(offset)}
}
