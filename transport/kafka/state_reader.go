package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// StateHandler receives what ReadState reads. All calls come from the goroutine that
// called ReadState, one at a time; while one blocks, nothing is read.
type StateHandler interface {
	// Records hands over records of one partition, in the order of offsets. The slice and
	// the records are the callee's. A nil Value deletes the key.
	Records(partition int32, records []Record)
	// Progress tells, once a second and at the end, how many records of all partitions
	// were handed over, of how many at most: compaction leaves fewer than the offsets tell.
	Progress(read, about int64)
	// Blocked tells, about once a second, that the partition waits for the end of an open
	// transaction, when it has waited for longer than Config.BlockedAfter, since that time.
	Blocked(partition int32, since time.Time)
	// Done tells that the partition was read to its end.
	Done(partition int32)
}

const (
	stateTick = time.Second
	statePoll = 50 // ms
	// giveUpAfter is when a partition counts as read though its last offsets were not
	// seen: compaction has removed them, and nothing follows.
	giveUpAfter = 10 * time.Second
)

// ReadState reads partitions of a compacted topic from their beginnings to their ends as
// of the call, with isolation level read_committed. The ends are those of everything that
// was written, so that it waits for the end of transactions which are open: what a
// transaction wrote whose offsets are known to be committed is read, though a reader may
// not see it yet. It joins no group and commits nothing. While the brokers are away it
// waits. It returns nil when all is read, the cause when ctx ends, or an error that trying
// again at once does not mend.
//
// After an error, what was handed over is void, but for the partitions that are done: a
// second reading may lack the deletion of a key that the first one has brought, because the
// topic was compacted in between. So it has to go to a state that is empty again.
//
// Memory is bounded by Config.QueuedMaxKBytes and Config.BatchRecords.
func ReadState(ctx context.Context, cfg Config, topic string, partitions []int32, h StateHandler, log *zap.Logger) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if len(partitions) == 0 {
		return nil
	}
	r, err := newStateReader(cfg, topic, h, log)
	if err != nil {
		return err
	}
	defer r.close()
	return r.read(ctx, partitions)
}

func newStateReader(cfg Config, topic string, h StateHandler, log *zap.Logger) (*stateReader, error) {
	logs := make(chan ck.LogEvent, 64)
	m := cfg.stateMap(logs)
	client, err := ck.NewConsumer(&m)
	if err != nil {
		return nil, configError(err)
	}
	r := &stateReader{
		cfg: cfg, topic: topic, h: h, log: log, client: client,
		parts: map[int32]*statePart{}, runs: map[int32][]Record{}, stopLogs: make(chan struct{}),
	}
	r.logsDone.Go(func() { logPump(log, logs, r.stopLogs) })
	if r.admin, err = ck.NewAdminClientFromConsumer(client); err != nil {
		r.close()
		return nil, configError(err)
	}
	return r, nil
}

// close takes librdkafka about 200 ms.
func (r *stateReader) close() {
	if err := r.client.Close(); err != nil {
		r.log.Warn("kafka state reader", zap.Error(err))
	}
	close(r.stopLogs)
	r.logsDone.Wait()
}

// read may be called once.
func (r *stateReader) read(ctx context.Context, partitions []int32) error {
	if err := r.begin(ctx, partitions); err != nil {
		return err
	}
	return r.run(ctx)
}

// stateMap is for a reader that is no member of the group; librdkafka wants its name.
func (c Config) stateMap(logs chan ck.LogEvent) ck.ConfigMap {
	m := c.consumerMap(logs)
	m["enable.partition.eof"] = true
	m["auto.offset.reset"] = "error" // a log that is cut while it is read has to be read anew
	m["queued.min.messages"] = 100_000
	m["fetch.wait.max.ms"] = 10 // the end is known by a fetch that finds nothing
	return m
}

type statePart struct {
	end    int64 // as of the beginning
	next   int64 // offset to be read
	moved  time.Time
	pushed bool // was sought again since it moved
	done   bool
}

type stateReader struct {
	cfg    Config
	topic  string
	h      StateHandler
	log    *zap.Logger
	client *ck.Consumer
	admin  *ck.AdminClient

	parts map[int32]*statePart
	left  int
	order []int32            // of runs
	runs  map[int32][]Record // of one poll round, by partition
	fatal error

	taken, about int64

	stopLogs chan struct{}
	logsDone sync.WaitGroup
}

// begin learns the beginnings and ends, and assigns what is not empty.
func (r *stateReader) begin(ctx context.Context, partitions []int32) error {
	high, err := r.offsets(ctx, partitions, ck.LatestOffsetSpec, ck.IsolationLevelReadUncommitted)
	if err != nil {
		return err
	}
	low, err := r.offsets(ctx, partitions, ck.EarliestOffsetSpec, ck.IsolationLevelReadUncommitted)
	if err != nil {
		return err
	}
	var assign []ck.TopicPartition
	for _, p := range partitions {
		if low[p] >= high[p] {
			r.h.Done(p)
			continue
		}
		r.parts[p] = &statePart{end: high[p], next: low[p], moved: time.Now()}
		r.about += high[p] - low[p]
		assign = append(assign, ck.TopicPartition{Topic: &r.topic, Partition: p, Offset: ck.Offset(low[p])})
	}
	r.left = len(assign)
	if r.left == 0 {
		return nil
	}
	return wrap("read state", r.client.Assign(assign))
}

// offsets asks until there is an answer, ctx ends, or the brokers refuse.
func (r *stateReader) offsets(ctx context.Context, partitions []int32, spec ck.OffsetSpec, level ck.IsolationLevel) (map[int32]int64, error) {
	for timeout := firstOffsetsTimeout; ; timeout = min(2*timeout, stateOffsetsTimeout) {
		m, err := r.askOffsets(ctx, partitions, spec, level, timeout)
		switch {
		case err == nil:
			return m, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !transient(err):
			return nil, wrap("read state", err)
		}
		r.log.Debug("kafka state reader: offsets", zap.Error(err))
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(offsetsRetry):
		}
	}
}

// These bound one question for the ends of partitions. The first is short: one that librdkafka
// 2.15 was asked just before it gave up the connection to its bootstrap server it may never send.
const (
	firstOffsetsTimeout = 300 * time.Millisecond
	stateOffsetsTimeout = 5 * time.Second
)

func (r *stateReader) askOffsets(ctx context.Context, partitions []int32, spec ck.OffsetSpec, level ck.IsolationLevel,
	timeout time.Duration,
) (map[int32]int64, error) {
	ask := make(map[ck.TopicPartition]ck.OffsetSpec, len(partitions))
	for _, p := range partitions {
		ask[ck.TopicPartition{Topic: &r.topic, Partition: p}] = spec
	}
	res, err := r.admin.ListOffsets(ctx, ask, ck.SetAdminIsolationLevel(level), ck.SetAdminRequestTimeout(timeout))
	if err != nil {
		return nil, err
	}
	m := make(map[int32]int64, len(partitions))
	for tp, info := range res.ResultInfos {
		if info.Error.Code() != ck.ErrNoError {
			return nil, fmt.Errorf("topic %s, partition %d: %w", r.topic, tp.Partition, info.Error)
		}
		if info.Offset < 0 { // librdkafka ran out of time, and does not say so
			return nil, ck.NewError(ck.ErrTimedOut, fmt.Sprintf("topic %s, partition %d: no offset in time", r.topic, tp.Partition), false)
		}
		m[tp.Partition] = int64(info.Offset)
	}
	for _, p := range partitions {
		if _, ok := m[p]; !ok {
			return nil, ck.NewError(ck.ErrBadMsg, fmt.Sprintf("topic %s: no offset of partition %d in the answer", r.topic, p), false)
		}
	}
	return m, nil
}

func (r *stateReader) run(ctx context.Context) error {
	tick := min(stateTick, r.cfg.blockedAfter()/2)
	next := time.Now().Add(tick)
	for r.left > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.poll()
		if r.fatal != nil {
			return r.fatal
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(tick)
			r.h.Progress(r.taken, r.about)
			if err := r.look(ctx, now); err != nil {
				return err
			}
		}
	}
	r.h.Progress(r.taken, r.about)
	return nil
}

// poll hands over what is there, up to BatchRecords records, and waits for the first.
func (r *stateReader) poll() {
	wait := statePoll
	for n := 0; n < r.cfg.BatchRecords; {
		ev := r.client.Poll(wait)
		if ev == nil {
			break
		}
		switch e := ev.(type) {
		case *ck.Message:
			if e.TopicPartition.Error != nil {
				r.clientError(e.TopicPartition.Error)
			} else {
				r.take(e)
				n++
			}
			wait = 0
		case ck.PartitionEOF:
			r.handOver() // what comes before the end
			r.reached(e.Partition, int64(e.Offset))
		case ck.Error:
			r.clientError(e)
		}
		if r.fatal != nil {
			return
		}
	}
	r.handOver()
}

func (r *stateReader) take(m *ck.Message) {
	id, offset := m.TopicPartition.Partition, int64(m.TopicPartition.Offset)
	p := r.parts[id]
	if p == nil || p.done || offset < p.next || offset >= p.end {
		return
	}
	run := r.runs[id]
	if len(run) == 0 {
		r.order = append(r.order, id)
		run = make([]Record, 0, 64)
	}
	r.runs[id] = append(run, newRecord(m))
}

func (r *stateReader) handOver() {
	for _, id := range r.order {
		run := r.runs[id]
		delete(r.runs, id)
		r.taken += int64(len(run))
		last := run[len(run)-1].Offset
		r.h.Records(id, run)
		r.reached(id, last+1)
	}
	r.order = r.order[:0]
}

// reached notes that everything before this offset was read.
func (r *stateReader) reached(id int32, next int64) {
	p := r.parts[id]
	if p == nil || p.done || next < p.next {
		return
	}
	if next > p.next {
		p.next, p.moved, p.pushed = next, time.Now(), false
	}
	if p.next >= p.end {
		r.done(id, p)
	}
}

func (r *stateReader) done(id int32, p *statePart) {
	p.done = true
	r.left--
	if r.left > 0 { // let the others have the fetcher
		if err := r.client.Pause([]ck.TopicPartition{{Topic: &r.topic, Partition: id}}); err != nil {
			r.log.Warn("kafka state reader: pause", zap.Error(err))
		}
	}
	r.h.Done(id)
}

func (r *stateReader) clientError(err error) {
	var e ck.Error
	errors.As(err, &e)
	switch {
	case e.IsFatal():
		r.fatal = &Error{Class: ClassFatal, Op: "read state", Err: err}
	case e.Code() == ck.ErrAutoOffsetReset:
		r.fatal = &Error{Class: ClassRetry, Op: "read state", Err: fmt.Errorf("the topic was cut while it was read: %w", err)}
	case e.Code() == ck.ErrTopicAuthorizationFailed || e.Code() == ck.ErrUnknownTopicOrPart || e.Code() == ck.ErrUnknownPartition:
		r.fatal = wrap("read state", err)
	default: // librdkafka goes on by itself
		r.log.Debug("kafka state reader", zap.Error(err))
	}
}

// look tells of the partitions that do not move what they wait for.
func (r *stateReader) look(ctx context.Context, now time.Time) error {
	var silent []int32
	for id, p := range r.parts {
		if !p.done && now.Sub(p.moved) > r.cfg.blockedAfter() {
			silent = append(silent, id)
		}
	}
	if len(silent) == 0 {
		return nil
	}
	slices.Sort(silent)
	ask, cancel := context.WithTimeout(ctx, stateTick)
	defer cancel()
	stable, err := r.askOffsets(ask, silent, ck.LatestOffsetSpec, ck.IsolationLevelReadCommitted, stateTick)
	if err != nil {
		if transient(err) || ask.Err() != nil {
			return nil // the brokers are away
		}
		return wrap("read state", err)
	}
	for _, id := range silent {
		p := r.parts[id]
		switch {
		case p.done: // by what was done for another one
		case stable[id] < p.end:
			if err := r.cut(ctx, id, p); err != nil {
				return err
			}
			r.h.Blocked(id, p.moved)
		case now.Sub(p.moved) > giveUpAfter:
			r.push(id, p)
		}
	}
	return nil
}

// cut returns an error when the end that a partition is read to is gone.
func (r *stateReader) cut(ctx context.Context, id int32, p *statePart) error {
	ask, cancel := context.WithTimeout(ctx, stateTick)
	defer cancel()
	high, err := r.askOffsets(ask, []int32{id}, ck.LatestOffsetSpec, ck.IsolationLevelReadUncommitted, stateTick)
	if err != nil || high[id] >= p.end {
		return nil //nolint:nilerr // asked again when the partition is still silent
	}
	return &Error{Class: ClassRetry, Op: "read state",
		Err: fmt.Errorf("topic %s, partition %d: it ended at offset %d and ends at %d now: the broker has lost records", r.topic, id, p.end, high[id])}
}

// push has a silent partition fetched anew; when nothing comes then, nothing is there.
func (r *stateReader) push(id int32, p *statePart) {
	if p.pushed {
		r.log.Warn("kafka state reader: nothing comes between these offsets; they were compacted away",
			zap.Int32("partition", id), zap.Int64("next", p.next), zap.Int64("end", p.end))
		r.done(id, p)
		return
	}
	tp := ck.TopicPartition{Topic: &r.topic, Partition: id, Offset: ck.Offset(p.next)}
	if _, err := r.client.SeekPartitions([]ck.TopicPartition{tp}); err != nil {
		r.log.Warn("kafka state reader: seek", zap.Error(err))
		return
	}
	p.moved, p.pushed = time.Now(), true
}
