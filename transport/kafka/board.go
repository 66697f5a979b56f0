package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

const (
	// boardStaleAfter is when an entry that was not written again is ignored. Members write
	// every 30 s.
	boardStaleAfter = 2 * time.Minute
	// boardTick is how often entries are looked at for their age.
	boardTick = 10 * time.Second
	// boardTimeout bounds one writing: what is older is written anew anyway.
	boardTimeout = 15 * time.Second

	maxBoardName  = 256  // bytes
	maxBoardValue = 4096 // bytes
)

// boardEntry is the value of a record of the members topic: a contract, see docs/RECORDS.md.
type boardEntry struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	TimeMs  int64  `json:"time_ms"`
}

// Board keeps the addresses of members in a compacted topic with one partition, keyed by
// the members' names. Its methods may be called from any goroutine.
type Board struct {
	cfg      Config
	topic    string
	log      *zap.Logger
	producer *ck.Producer

	mu     sync.RWMutex // guards the producer against use after Close
	closed bool

	stop chan struct{}
	wg   sync.WaitGroup

	stale, tick time.Duration // constants, but for tests
}

// NewBoard makes the board of a topic that EnsureTopics has made. It connects when it is
// used.
func NewBoard(cfg Config, topic string, log *zap.Logger) (*Board, error) {
	if err := errors.Join(cfg.Validate(), checkTopicName(topic)); err != nil {
		return nil, err
	}
	logs := make(chan ck.LogEvent, 64)
	m := cfg.boardProducerMap(logs)
	p, err := ck.NewProducer(&m)
	if err != nil {
		return nil, configError(err)
	}
	b := &Board{cfg: cfg, topic: topic, log: log, producer: p, stop: make(chan struct{}), stale: boardStaleAfter, tick: boardTick}
	b.wg.Go(func() { logPump(log, logs, b.stop) })
	b.wg.Go(func() {
		for ev := range p.Events() { // ends with the producer
			if e, ok := ev.(ck.Error); ok {
				log.Debug("kafka board", zap.Error(e))
			}
		}
	})
	return b, nil
}

// boardProducerMap is for a record now and then, of which only the newest is of interest.
func (c Config) boardProducerMap(logs chan ck.LogEvent) ck.ConfigMap {
	m := c.common()
	m["acks"] = "all"
	m["partitioner"] = "murmur2_random"
	m["message.timeout.ms"] = int(boardTimeout.Milliseconds())
	m["max.in.flight"] = 1 // a removal must not be overtaken by the entry
	m["linger.ms"] = 0
	m["queue.buffering.max.messages"] = 1000
	m["queue.buffering.max.kbytes"] = 1 << 10
	if c.MaxMessageBytes > 1<<20 {
		m["message.max.bytes"] = 1 << 20
	}
	m["go.events.channel.size"] = 64
	m["go.produce.channel.size"] = 0
	m["go.logs.channel"] = logs
	return m
}

// boardReaderMap is for a reader that is no member of the group; librdkafka wants its name.
func (c Config) boardReaderMap(logs chan ck.LogEvent) ck.ConfigMap {
	m := c.consumerMap(logs)
	m["isolation.level"] = "read_uncommitted" // nothing here is written in transactions
	m["enable.partition.eof"] = true
	m["fetch.wait.max.ms"] = 500                             // little comes; a fetch that waits costs less than many that do not
	setDefault(m, "topic.metadata.propagation.max.ms", 3000) // a missing topic is not made any more
	m["queued.min.messages"] = 1000
	m["queued.max.messages.kbytes"] = min(c.QueuedMaxKBytes, 1<<10)
	return m
}

// Publish writes the address of a member; nil when Kafka has it. When ctx ends first it may
// still arrive, within 15 s.
func (b *Board) Publish(ctx context.Context, name, address string) error {
	if name == "" || len(name) > maxBoardName {
		return fmt.Errorf("kafka board: the name %.40q has %d bytes: want 1 to %d", name, len(name), maxBoardName)
	}
	if err := checkHostPort(address); err != nil {
		return fmt.Errorf("kafka board: address %q: %w", address, err)
	}
	value, err := json.Marshal(boardEntry{Name: name, Address: address, TimeMs: time.Now().UnixMilli()})
	if err != nil {
		return fmt.Errorf("kafka board: %w", err)
	}
	return b.write(ctx, name, value, []Header{{Key: "content-type", Value: []byte("application/json")}})
}

// Withdraw removes the entry of a member.
func (b *Board) Withdraw(ctx context.Context, name string) error {
	return b.write(ctx, name, nil, nil)
}

func (b *Board) write(ctx context.Context, name string, value []byte, headers []Header) error {
	report := make(chan ck.Event, 1)
	b.mu.RLock()
	if b.closed {
		b.mu.RUnlock()
		return ErrClosed
	}
	err := b.producer.Produce(&ck.Message{
		TopicPartition: ck.TopicPartition{Topic: &b.topic, Partition: 0},
		Key:            []byte(name), Value: value, Headers: headers,
	}, report)
	b.mu.RUnlock()
	if err != nil {
		return wrap("write to "+b.topic, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("kafka write to %s: not acknowledged in time: %w", b.topic, context.Cause(ctx))
	case ev := <-report:
		if m, ok := ev.(*ck.Message); ok && m.TopicPartition.Error != nil {
			return wrap("write to "+b.topic, m.TopicPartition.Error)
		}
		return nil
	}
}

// Close frees what Publish and Withdraw use, and gives up what is under way. Each Watch
// ends with its own context.
func (b *Board) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.closed = true
	err := b.producer.Purge(ck.PurgeQueue | ck.PurgeInFlight | ck.PurgeNonBlocking)
	b.producer.Close()
	close(b.stop)
	b.wg.Wait()
	return wrap("close", err)
}

// Watch calls changed with the address of each member whose entry is fresh, by name, once
// the topic was read and then whenever that changes; the map is the callee's. While the
// brokers are away entries do not age. It joins no group and commits nothing. It blocks
// until ctx ends, and returns the cause, or until the topic cannot be read any more.
func (b *Board) Watch(ctx context.Context, changed func(entries map[string]string)) error {
	logs := make(chan ck.LogEvent, 64)
	m := b.cfg.boardReaderMap(logs)
	client, err := ck.NewConsumer(&m)
	if err != nil {
		return configError(err)
	}
	stop := make(chan struct{})
	var pump sync.WaitGroup
	pump.Go(func() { logPump(b.log, logs, stop) })
	defer func() {
		if err := client.Close(); err != nil {
			b.log.Warn("kafka board", zap.Error(err))
		}
		close(stop)
		pump.Wait()
	}()
	if err := client.Assign([]ck.TopicPartition{{Topic: &b.topic, Partition: 0, Offset: ck.OffsetBeginning}}); err != nil {
		return wrap("read "+b.topic, err)
	}
	w := &boardWatch{Board: b, client: client, changed: changed, seen: map[string]*boardSeen{}}
	return w.run(ctx)
}

type boardSeen struct {
	address string
	age     time.Duration // while the brokers were there
}

type boardWatch struct {
	*Board
	client  *ck.Consumer
	changed func(map[string]string)
	seen    map[string]*boardSeen
	told    map[string]string
	ready   bool // read to the end once
	dirty   bool
}

func (w *boardWatch) run(ctx context.Context) error {
	const poll = 100 // ms
	last := time.Now()
	for ctx.Err() == nil {
		if err := w.handle(w.client.Poll(poll)); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(last) >= w.tick {
			w.grow(min(now.Sub(last), 2*w.tick))
			last = now
		}
		w.tell()
	}
	return context.Cause(ctx)
}

func (w *boardWatch) handle(ev ck.Event) error {
	switch e := ev.(type) {
	case *ck.Message:
		if e.TopicPartition.Error != nil {
			return w.failed(e.TopicPartition.Error)
		}
		w.take(string(e.Key), e.Value)
	case ck.PartitionEOF:
		if !w.ready {
			w.ready, w.dirty = true, true
		}
	case ck.Error:
		return w.failed(e)
	}
	return nil
}

// failed returns the errors that do not go by themselves.
func (w *boardWatch) failed(err error) error {
	var e ck.Error
	errors.As(err, &e)
	switch e.Code() {
	case ck.ErrTopicAuthorizationFailed, ck.ErrUnknownTopicOrPart, ck.ErrUnknownTopic, ck.ErrUnknownPartition, ck.ErrAuthentication:
		return wrap("read "+w.topic, err)
	}
	if e.IsFatal() {
		return wrap("read "+w.topic, err)
	}
	w.log.Debug("kafka board", zap.Error(err))
	return nil
}

func (w *boardWatch) take(name string, value []byte) {
	if value == nil {
		if _, ok := w.seen[name]; ok {
			delete(w.seen, name)
			w.dirty = true
		}
		return
	}
	var e boardEntry
	if len(value) > maxBoardValue || name == "" || len(name) > maxBoardName ||
		json.Unmarshal(value, &e) != nil || e.Name != name || checkHostPort(e.Address) != nil {
		w.log.Warn("kafka board: a record that is not a member's entry is ignored",
			zap.String("topic", w.topic), zap.String("key", name[:min(len(name), 40)]), zap.Int("bytes", len(value)))
		return
	}
	s := &boardSeen{address: e.Address}
	if !w.ready {
		// What is read from the past is as old as it says; what comes now is new, whatever
		// the clock of its writer says.
		s.age = max(0, time.Since(time.UnixMilli(e.TimeMs)))
	}
	w.seen[name], w.dirty = s, true
}

// grow ages the entries, if the brokers are there: no entry can be written again while
// they are away.
func (w *boardWatch) grow(by time.Duration) {
	if len(w.seen) == 0 || !w.ready {
		return
	}
	if _, _, err := w.client.QueryWatermarkOffsets(w.topic, 0, probeTimeoutMs); err != nil {
		return
	}
	for _, s := range w.seen {
		s.age += by
	}
	w.dirty = true
}

// tell calls changed if there is something new.
func (w *boardWatch) tell() {
	if !w.ready || !w.dirty {
		return
	}
	w.dirty = false
	fresh := make(map[string]string, len(w.seen))
	for name, s := range w.seen {
		if s.age > w.stale {
			delete(w.seen, name)
			continue
		}
		fresh[name] = s.address
	}
	if w.told != nil && maps.Equal(fresh, w.told) {
		return
	}
	w.told = fresh
	w.changed(maps.Clone(fresh))
}
