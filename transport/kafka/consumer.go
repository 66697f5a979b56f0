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
	// Assigned gives partitions to this member. Nothing of them is delivered
	// before Consumer.Start. It must not wait for a stable offset. A
	// partition may be one that the topic did not have at the start of the
	// member: the topic has grown.
	Assigned(partitions []int32)
	// Revoked takes partitions away in good order: another member gets them
	// after it returns. The last transaction with their offsets is to be
	// committed, with Consumer.Group, or given up, before that.
	Revoked(partitions []int32)
	// Lost tells that the partitions may already belong to another member:
	// drop their work. A commit with the group metadata of before is refused.
	Lost(partitions []int32)
	// Records hands over the records of one partition of one poll round, in
	// the order of offsets. The slice and the records are the callee's.
	Records(partition int32, records []Record)
}

const (
	pollIdle = 100 // ms
	pollHeld = 10  // ms: so that Start and Resume take effect soon
	lagEvery = time.Second
)

// part is the state of one assigned partition; guarded by Consumer.mu.
type part struct {
	id   int32
	next int64 // offset after the last delivered record, -1: none yet
	high int64 // end of the partition as of the last fetch, -1: not known

	// What is asked for. wantEpoch is 0 until the first Start.
	wantEpoch uint64
	startAt   int64
	strays    int // times that records from before startAt came
	held      bool
	wantPause bool
	// What is so in librdkafka.
	isEpoch uint64
	isPause bool
}

// flows tells whether records of the partition may be delivered.
func (p *part) flows() bool { return p.wantEpoch != 0 && !p.held && p.isEpoch == p.wantEpoch }

// Consumer is one member of the consumer group, of one topic. It reads with
// isolation level read_committed, and commits nothing: offsets go into the
// transactions of a [Transactor].
type Consumer struct {
	cfg    Config
	topic  string
	h      Handler
	log    *zap.Logger
	client *ck.Consumer
	state  *reachability

	mu     sync.Mutex
	parts  map[int32]*part
	epochs uint64 // given out by Start

	dirty   atomic.Bool // a part's wishes changed
	held    atomic.Int32
	running atomic.Bool
	leave   atomic.Bool // what Leave and Join ask for
	group   atomic.Pointer[GroupMetadata]
	beat    atomic.Pointer[instant] // of pulse
	froze   atomic.Pointer[instant] // end of the last time that the process stood still

	// Of the poll goroutine alone.
	inbox    *inbox
	batch    []Record
	groups   []group // of batch
	fatal    error
	nextLag  time.Time
	awakeAt  *instant
	closing  bool
	away     bool   // as Leave asked
	memberID string // in the group, "" when not

	n counters

	use      sync.RWMutex // held by other goroutines while they use the client
	closed   bool         // guarded by use
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
	in, err := newInbox(client, topic, cfg.BatchRecords)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	c := &Consumer{
		cfg: cfg, topic: topic, h: h, log: log, client: client, inbox: in,
		state:    newReachability("consumer", log, cfg.OnState),
		parts:    make(map[int32]*part),
		batch:    make([]Record, 0, cfg.BatchRecords),
		stopLogs: make(chan struct{}),
	}
	c.logsDone.Add(1)
	go func() { defer c.logsDone.Done(); logPump(log, logs, c.stopLogs) }()
	return c, nil
}

// Run joins the group and polls until ctx ends, then revokes what is assigned
// and leaves the group. It returns nil on the end of ctx, or a fatal error. It
// may be called once.
func (c *Consumer) Run(ctx context.Context) error {
	if c.running.Swap(true) {
		return &Error{Class: ClassFatal, Op: "consume", Err: errors.New("Run was called twice")}
	}
	c.state.start(func() error {
		_, err := c.client.GetMetadata(nil, false, probeTimeoutMs)
		return err
	})
	var pulse sync.WaitGroup
	beating, stop := context.WithCancel(context.Background())
	pulse.Go(func() { c.pulse(beating) })
	defer func() { stop(); pulse.Wait() }()
	c.awakeAt = now()
	err := wrap("subscribe", c.client.Subscribe(c.topic, c.rebalance))
	for err == nil && ctx.Err() == nil {
		if err = c.membership(); err != nil {
			break
		}
		c.apply()
		c.poll()
		c.deliver()
		c.tick(time.Now())
		err = c.fatal
	}
	return errors.Join(err, c.shutdown())
}

// shutdown gives back what is assigned and leaves the group.
func (c *Consumer) shutdown() error {
	c.handBack()
	c.state.stop()
	c.use.Lock()
	c.closed = true
	c.use.Unlock()
	c.inbox.close()
	err := c.client.Close()
	close(c.stopLogs)
	c.logsDone.Wait()
	c.lose() // what was not given back
	if err != nil {
		return &Error{Class: ClassFatal, Op: "close", Err: err}
	}
	return nil
}

// poll serves the client, and collects up to BatchRecords records; it waits only for the
// first, and no longer than until the client has something else.
func (c *Consumer) poll() {
	wait := pollIdle
	if c.held.Load() > 0 {
		wait = pollHeld
	}
	c.n.polls.Add(1)
	for len(c.batch) < cap(c.batch) {
		switch e := c.client.Poll(0).(type) {
		case *ck.Message: // an error; records go to the inbox
			if e.TopicPartition.Error != nil {
				c.clientError(e.TopicPartition.Error)
				continue
			}
			c.n.singly.Add(1)
			c.batch = append(c.batch, newRecord(e))
			wait = 0
		case ck.Error:
			c.clientError(e)
			if c.fatal != nil {
				return
			}
		case nil:
			c.batch = c.inbox.fill(c.batch, wait, c.clientError)
			return
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

// group is the records of one partition in a batch.
type group struct {
	partition   int32
	count, next int
}

// deliver groups the batch by partition and hands it over.
func (c *Consumer) deliver() {
	c.awake()
	if len(c.batch) == 0 {
		return
	}
	c.state.good()
	c.groups = c.groups[:0]
	for i := range c.batch {
		c.groupOf(c.batch[i].Partition).count++
	}
	records, end := make([]Record, len(c.batch)), 0
	for i := range c.groups {
		c.groups[i].next = end
		end += c.groups[i].count
	}
	for i := range c.batch {
		g := c.groupOf(c.batch[i].Partition)
		records[g.next] = c.batch[i]
		g.next++
	}
	clear(c.batch)
	c.batch = c.batch[:0]
	for i := range c.groups {
		g := &c.groups[i]
		c.handOver(g.partition, records[g.next-g.count:g.next:g.next])
	}
}

// groupOf returns the group of a partition. A batch is made of runs of one partition, and
// has few partitions.
func (c *Consumer) groupOf(partition int32) *group {
	for i := len(c.groups) - 1; i >= 0; i-- {
		if c.groups[i].partition == partition {
			return &c.groups[i]
		}
	}
	c.groups = append(c.groups, group{partition: partition})
	return &c.groups[len(c.groups)-1]
}

func (c *Consumer) handOver(p int32, records []Record) {
	c.awake()
	c.mu.Lock()
	pt := c.parts[p]
	if pt == nil || !pt.flows() {
		// Taken away meanwhile: the next owner reads them. Or void: they are
		// read again from where Start says.
		c.mu.Unlock()
		return
	}
	if pt.next < 0 && records[0].Offset < pt.startAt && c.again(pt, records[0].Offset) {
		c.mu.Unlock()
		return
	}
	pt.next = records[len(records)-1].Offset + 1
	c.mu.Unlock()
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

func (c *Consumer) topicPartition(id int32, offset int64) ck.TopicPartition {
	return ck.TopicPartition{Topic: &c.topic, Partition: id, Offset: ck.Offset(offset)}
}
