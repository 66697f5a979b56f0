package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// Header is a header of a record: a Key and a Value, which may be nil.
type Header = ck.Header

// PartitionByKey in Message.Partition leaves the choice to murmur2 of the key, as
// Kafka's Java client does.
const PartitionByKey int32 = -1

// Message is one record to produce.
type Message struct {
	Topic     string
	Partition int32 // PartitionByKey, or the partition
	// Key and Value are copied before Produce returns. A nil key with
	// PartitionByKey goes to a random partition.
	Key, Value []byte
	Headers    []Header
	// Opaque comes back in the Delivery.
	Opaque any
}

// Delivery is the fate of one produced record.
type Delivery struct {
	Opaque    any
	Partition int32
	Offset    int64
	// Err is nil when all in-sync replicas have the record. Otherwise
	// Classify tells whether to produce it again, to give it up or to exit.
	Err error
}

// ProducerStats are counters since the start, and the present state.
type ProducerStats struct {
	Produced  uint64 // accepted by Produce
	Delivered uint64 // acknowledged by the broker
	Failed    uint64 // given back with an error
	QueueFull uint64 // refused with ErrQueueFull
	InFlight  int    // accepted and not yet reported
	// Reachable is whether the last sign of the brokers was a good one.
	Reachable bool
	LastError string
}

const deliveryBatch = 1024

// Producer is an idempotent producer (acks=all). A record that Produce took
// stays until the broker has it: absence of the broker never drops one, and
// Close is the only way to give up. Memory is bounded by the queue limits of
// Config. All methods may be called from any goroutine.
type Producer struct {
	client     *ck.Producer
	log        *zap.Logger
	onDelivery func([]Delivery)
	state      *reachability

	mu     sync.RWMutex // guards client against use after Close
	closed bool

	topics   atomic.Pointer[map[string]*string]
	msgs     sync.Pool
	inFlight atomic.Int64
	idle     chan struct{} // a token when inFlight reached 0

	produced, delivered, failed, full atomic.Uint64

	fatal     atomic.Pointer[Error]
	fatalCh   chan struct{}
	fatalOnce sync.Once

	stopLogs chan struct{}
	wg       sync.WaitGroup
}

// NewProducer starts a producer; it connects in the background. onDelivery is
// called in batches from one goroutine of the producer, in the order of
// delivery; the slice is reused after it returns, and a slow onDelivery holds
// back further deliveries.
func NewProducer(cfg Config, log *zap.Logger, onDelivery func([]Delivery)) (*Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if onDelivery == nil {
		return nil, errors.New("kafka: NewProducer needs onDelivery: without it failed records go unnoticed")
	}
	logs := make(chan ck.LogEvent, 64)
	m := cfg.producerMap(logs)
	client, err := ck.NewProducer(&m)
	if err != nil {
		return nil, configError(err)
	}
	p := &Producer{
		client:     client,
		log:        log,
		onDelivery: onDelivery,
		state:      newReachability("producer", log, cfg.OnState),
		idle:       make(chan struct{}, 1),
		fatalCh:    make(chan struct{}),
		stopLogs:   make(chan struct{}),
	}
	p.msgs.New = func() any { return new(ck.Message) }
	p.topics.Store(&map[string]*string{})
	p.wg.Add(2)
	go func() { defer p.wg.Done(); logPump(log, logs, p.stopLogs) }()
	go func() { defer p.wg.Done(); p.serve() }()
	p.state.start(func() error {
		_, err := client.GetMetadata(nil, false, probeTimeoutMs)
		return err
	})
	return p, nil
}

// configError explains a refusal by librdkafka at the making of a client.
func configError(err error) error {
	return &Error{Class: ClassFatal, Op: "configuration", Err: fmt.Errorf("%w (check the properties passed on to librdkafka)", err)}
}

// Produce queues one record and returns at once. A nil error means that
// exactly one Delivery follows. ErrQueueFull means: try again later; other
// errors have the classes of Classify.
func (p *Producer) Produce(m Message) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return ErrClosed
	}
	if f := p.fatal.Load(); f != nil {
		return f
	}
	msg := p.msgs.Get().(*ck.Message)
	msg.TopicPartition = ck.TopicPartition{Topic: p.topic(m.Topic), Partition: m.Partition}
	msg.Key, msg.Value, msg.Headers, msg.Opaque = m.Key, m.Value, m.Headers, m.Opaque
	p.inFlight.Add(1)
	err := p.client.Produce(msg, nil)
	*msg = ck.Message{}
	p.msgs.Put(msg)
	if err == nil {
		p.produced.Add(1)
		return nil
	}
	p.settle(1)
	switch code(err) {
	case ck.ErrQueueFull:
		p.full.Add(1)
		return ErrQueueFull
	case ck.ErrMsgSizeTooLarge:
		err = fmt.Errorf("%w: key and value have %d bytes", err, len(m.Key)+len(m.Value))
	}
	return wrap("produce", err)
}

// topic returns a lasting pointer to the name, which librdkafka's binding
// wants with each record.
func (p *Producer) topic(name string) *string {
	for {
		known := p.topics.Load()
		if s, ok := (*known)[name]; ok {
			return s
		}
		next := make(map[string]*string, len(*known)+1)
		for k, v := range *known {
			next[k] = v
		}
		next[name] = &name
		p.topics.CompareAndSwap(known, &next)
	}
}

// settle takes n records out of the count of those in flight.
func (p *Producer) settle(n int) {
	if p.inFlight.Add(int64(-n)) == 0 {
		select {
		case p.idle <- struct{}{}:
		default:
		}
	}
}

// serve turns events into batches of deliveries until the client is closed.
func (p *Producer) serve() {
	events := p.client.Events()
	batch := make([]Delivery, 0, deliveryBatch)
	for ev := range events {
		batch = p.handle(ev, batch[:0])
	drain:
		for len(batch) < deliveryBatch {
			select {
			case ev, ok := <-events:
				if !ok {
					break drain
				}
				batch = p.handle(ev, batch)
			default:
				break drain
			}
		}
		if len(batch) > 0 {
			p.onDelivery(batch)
			p.settle(len(batch))
			clear(batch)
		}
	}
}

func (p *Producer) handle(ev ck.Event, batch []Delivery) []Delivery {
	switch e := ev.(type) {
	case *ck.Message:
		d := Delivery{Opaque: e.Opaque, Partition: e.TopicPartition.Partition, Offset: int64(e.TopicPartition.Offset)}
		if err := e.TopicPartition.Error; err != nil {
			d.Err = p.deliveryError(err)
			p.failed.Add(1)
		} else {
			p.delivered.Add(1)
			p.state.good()
		}
		return append(batch, d)
	case ck.Error:
		p.clientError(e)
	}
	return batch
}

// deliveryError classifies a failed delivery: after a fatal error of the
// client everything queued comes back, and producing it again needs a fresh
// client.
func (p *Producer) deliveryError(err error) error {
	if f := p.fatal.Load(); f != nil {
		return &Error{Class: ClassFatal, Op: "produce", Err: fmt.Errorf("%w, after: %w", err, f.Err)}
	}
	err = wrap("produce", err)
	if Classify(err) == ClassFatal {
		p.fail(err)
	}
	return err
}

func (p *Producer) clientError(e ck.Error) {
	switch {
	case e.IsFatal():
		p.fail(&Error{Class: ClassFatal, Op: "produce", Err: e})
	case e.Code() == ck.ErrAllBrokersDown:
		p.state.suspect(e)
	default:
		p.state.note(e)
		p.log.Debug("kafka producer", zap.Error(e))
	}
}

func (p *Producer) fail(err error) {
	var own *Error
	errors.As(err, &own)
	p.fatalOnce.Do(func() {
		p.fatal.Store(own)
		p.log.Error("kafka producer failed for good; this process has to be restarted", zap.Error(err))
		close(p.fatalCh)
	})
}

// Failed is closed when the producer met a fatal error; then Err tells which.
func (p *Producer) Failed() <-chan struct{} { return p.fatalCh }

// Err returns the fatal error, or nil.
func (p *Producer) Err() error {
	if f := p.fatal.Load(); f != nil {
		return f
	}
	return nil
}

// Len returns how many records were accepted whose delivery was not yet
// reported.
func (p *Producer) Len() int { return int(p.inFlight.Load()) }

// Reachable tells whether the brokers answer.
func (p *Producer) Reachable() bool { return p.state.reachable() }

// Stats returns the counters.
func (p *Producer) Stats() ProducerStats {
	return ProducerStats{
		Produced:  p.produced.Load(),
		Delivered: p.delivered.Load(),
		Failed:    p.failed.Load(),
		QueueFull: p.full.Load(),
		InFlight:  p.Len(),
		Reachable: p.Reachable(),
		LastError: p.state.lastError(),
	}
}

// Flush waits until every record accepted so far was reported to onDelivery
// and onDelivery returned. It must not be called from onDelivery.
func (p *Producer) Flush(ctx context.Context) error {
	for p.inFlight.Load() > 0 {
		select {
		case <-ctx.Done():
			return &Error{Class: ClassRetry, Op: "flush", Err: fmt.Errorf("%d records are not delivered: %w", p.Len(), ctx.Err())}
		case <-p.idle:
		case <-time.After(20 * time.Millisecond): // a token may have gone to another Flush
		}
	}
	return nil
}

// Close flushes until ctx ends, gives the records that are left back to
// onDelivery with an error, and frees the client. Further calls return
// ErrClosed. It must not be called from onDelivery.
func (p *Producer) Close(ctx context.Context) error {
	err := p.Flush(ctx)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	p.closed = true
	p.mu.Unlock()
	p.state.stop()
	if p.Len() > 0 {
		err = errors.Join(err, wrap("close", p.client.Purge(ck.PurgeQueue|ck.PurgeInFlight)))
		purge, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, p.Flush(purge))
	}
	p.client.Close()
	close(p.stopLogs)
	p.wg.Wait()
	return err
}
