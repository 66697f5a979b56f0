package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/asynkron/protoactor-go/actor"
	"go.uber.org/zap"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
	"github.com/roost-server/roost/transport/kafka"
	"github.com/roost-server/roost/transport/tcp"
)

// sockets gives each event loop a gate.
type sockets struct {
	cfg  *gate.Config
	tree *supervisor.Tree
	log  *zap.Logger

	mu    sync.Mutex
	loops []*tcp.Loop
}

// caughtUp waits until every event loop has done what it was given before.
func (s *sockets) caughtUp(ctx context.Context) error {
	s.mu.Lock()
	loops := slices.Clone(s.loops)
	s.mu.Unlock()
	for _, l := range loops {
		done := make(chan struct{})
		if l.Execute(func() { close(done) }) != nil {
			continue // it has ended
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// LoopStarted implements tcp.Handler.
func (s *sockets) LoopStarted(l *tcp.Loop) tcp.LoopHandler {
	door := gate.NewDoor(s.cfg, uint32(l.Index()), l)
	if err := s.tree.AddGate(uint32(l.Index()), door); err != nil {
		panic(fmt.Errorf("add the gate of event loop %d: %w", l.Index(), err)) // the connection is refused
	}
	s.mu.Lock()
	s.loops = append(s.loops, l)
	s.mu.Unlock()
	return &loopDoor{door: door, log: s.log}
}

// loopDoor is a gate's door as the transport sees it.
type loopDoor struct {
	door *gate.Door
	log  *zap.Logger
}

// Frame implements tcp.LoopHandler.
func (d *loopDoor) Frame(c *tcp.Conn, t protocol.Type, body []byte) error {
	return d.door.Frame(c, t, body)
}

// Closed implements tcp.LoopHandler.
func (d *loopDoor) Closed(c *tcp.Conn, reason protocol.Reason, err error) {
	if ce := d.log.Check(zap.DebugLevel, "session closed"); ce != nil {
		ce.Write(zap.Stringer("reason", reason), zap.Error(err))
	}
	d.door.Closed(c)
}

var (
	_ gate.Conn = (*tcp.Conn)(nil)
	_ gate.Loop = (*tcp.Loop)(nil)
)

// source feeds the shards from the consumer, and holds the partition back while its
// shard has enough. It is the consumer's handler and the shards' feed.
type source struct {
	consumer *kafka.Consumer
	tree     *supervisor.Tree
	make     func(partition uint32, restarted bool) actor.Actor
	giveUp   func(error)
	parking  *parking // of what gates have for shards that are not here yet

	mu    sync.Mutex
	flows map[int32]*flow // by assigned partition
	held  bool            // the member stops: nothing more is read
}

// flow says why a partition is paused: because its shard asked, or because too many
// records wait in the shard's mailbox.
type flow struct {
	asked   bool
	inbox   int
	crowded bool
}

// The records that may wait in a shard's mailbox before its partition is paused, and
// how few there have to be until it goes on.
const (
	inboxHigh = 8192
	inboxLow  = 2048
)

// Assigned implements kafka.Handler.
func (s *source) Assigned(partitions []int32) {
	for _, p := range partitions {
		s.mu.Lock()
		s.flows[p] = &flow{asked: s.held}
		if s.held {
			s.consumer.Pause(p)
		}
		s.mu.Unlock()
		if err := s.tree.AddShard(uint32(p), func(restarted bool) actor.Actor { return s.make(uint32(p), restarted) }); err != nil {
			s.giveUp(fmt.Errorf("start the shard of partition %d: %w", p, err))
			continue
		}
		s.parking.Arrived(uint32(p))
	}
}

// Revoked implements kafka.Handler. What the shard had recorded so far was handed to
// Commit already; the rest is read again by the next owner.
func (s *source) Revoked(partitions []int32) {
	for _, p := range partitions {
		if err := s.tree.RemoveShard(uint32(p)); err != nil {
			s.giveUp(fmt.Errorf("stop the shard of partition %d: %w", p, err))
		}
		s.mu.Lock()
		delete(s.flows, p)
		s.mu.Unlock()
	}
}

// Lost implements kafka.Handler.
func (s *source) Lost(partitions []int32) { s.Revoked(partitions) }

// Records implements kafka.Handler.
func (s *source) Records(partition int32, records []kafka.Record) {
	m := &actors.Records{Epoch: s.consumer.Epoch(partition), Records: make([]actors.Record, len(records))}
	for i := range records {
		r := &records[i]
		m.Records[i] = actors.Record{Offset: r.Offset, TimestampMs: r.TimestampMs, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			switch {
			case h.Key == record.HeaderContentType:
				m.Records[i].ContentType = string(h.Value)
			case !ours(h.Key):
				m.Records[i].Headers = append(m.Records[i].Headers, actors.Header(h))
			}
		}
	}
	s.change(partition, func(f *flow) {
		f.inbox += len(records)
		f.crowded = f.crowded || f.inbox > inboxHigh
	})
	s.tree.Router().ToShard(uint32(partition), m)
}

// ours reports whether a header is of those that a dead record gets. A job record that
// was a dead one before, and is still wrong, gets new ones.
func ours(key string) bool {
	switch key {
	case record.HeaderReason, record.HeaderTopic, record.HeaderPartition, record.HeaderOffset:
		return true
	}
	return false
}

// change applies a change to a partition's flow and pauses or resumes accordingly.
func (s *source) change(partition int32, fn func(*flow)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[partition]
	if f == nil {
		return
	}
	before := f.asked || f.crowded
	fn(f)
	switch after := f.asked || f.crowded; {
	case after && !before:
		s.consumer.Pause(partition)
	case before && !after:
		s.consumer.Resume(partition)
	}
}

// Taken implements shard.Feed.
func (s *source) Taken(partition int32, records int) {
	s.change(partition, func(f *flow) {
		f.inbox = max(0, f.inbox-records)
		f.crowded = f.crowded && f.inbox > inboxLow
	})
}

// Pause implements shard.Feed.
func (s *source) Pause(partition int32) { s.change(partition, func(f *flow) { f.asked = true }) }

// Resume implements shard.Feed.
func (s *source) Resume(partition int32) {
	s.change(partition, func(f *flow) { f.asked = s.held })
}

// hold stops reading for good.
func (s *source) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
	for p, f := range s.flows {
		f.asked = true
		s.consumer.Pause(p)
	}
}

// Commit implements shard.Feed.
func (s *source) Commit(partition int32, next int64) { s.consumer.Commit(partition, next) }

// Rewind implements shard.Feed. The shard that asks is new: it has asked for nothing.
func (s *source) Rewind(partition int32) uint64 {
	s.change(partition, func(f *flow) { f.asked = s.held })
	return s.consumer.Rewind(partition)
}

// committer writes outcomes, dead records and submitted jobs.
type committer struct {
	producer *kafka.Producer
	topics   kafka.TopicPlan
	tree     *supervisor.Tree
	headers  [2][]kafka.Header // by encoding
	batches  map[uint32]*shard.Recorded
}

func newCommitter(topics kafka.TopicPlan, tree *supervisor.Tree) *committer {
	c := &committer{topics: topics, tree: tree, batches: map[uint32]*shard.Recorded{}}
	for _, enc := range []record.Encoding{record.Msgpack, record.JSON} {
		c.headers[enc] = []kafka.Header{{Key: record.HeaderContentType, Value: []byte(enc.ContentType())}}
	}
	return c
}

// Outcome implements shard.Recorder.
func (c *committer) Outcome(jobID string, value []byte, enc record.Encoding, t *shard.Token) error {
	return c.produce(kafka.Message{Topic: c.topics.Results, Partition: kafka.PartitionByKey,
		Key: []byte(jobID), Value: value, Headers: c.headers[enc], Opaque: t}, t)
}

// Dead implements shard.Recorder.
func (c *committer) Dead(r *actors.Record, reason string, t *shard.Token) error {
	headers := []kafka.Header{
		{Key: record.HeaderReason, Value: []byte(reason)},
		{Key: record.HeaderTopic, Value: []byte(c.topics.Jobs)},
		{Key: record.HeaderPartition, Value: fmt.Appendf(nil, "%d", t.Shard)},
		{Key: record.HeaderOffset, Value: fmt.Appendf(nil, "%d", r.Offset)},
	}
	if r.ContentType != "" {
		headers = append(headers, kafka.Header{Key: record.HeaderContentType, Value: []byte(r.ContentType)})
	}
	for _, h := range r.Headers {
		headers = append(headers, kafka.Header(h))
	}
	return c.produce(kafka.Message{Topic: c.topics.Dead, Partition: kafka.PartitionByKey,
		Key: r.Key, Value: r.Value, Headers: headers, Opaque: t}, t)
}

func (c *committer) produce(m kafka.Message, t *shard.Token) error {
	err := c.producer.Produce(m)
	switch {
	case err == nil:
	case errors.Is(err, kafka.ErrQueueFull):
		return shard.ErrFull
	case kafka.Classify(err) == kafka.ClassReject: // known at once, told as if Kafka had
		c.tree.Router().ToShard(t.Shard, &shard.Recorded{Items: []shard.RecordedItem{{Token: t, Err: err}}})
		return nil
	}
	return err
}

// submitted is what a submission waits on.
type submitted struct{ done chan error }

// Submit writes a job record and waits until Kafka has it.
func (c *committer) Submit(ctx context.Context, j *record.Job) error {
	value, err := record.AppendJob(nil, j)
	if err != nil {
		return err
	}
	w := &submitted{done: make(chan error, 1)}
	if err := c.producer.Produce(kafka.Message{Topic: c.topics.Jobs, Partition: kafka.PartitionByKey,
		Key: []byte(j.Key()), Value: value, Headers: c.headers[j.Encoding], Opaque: w}); err != nil {
		return err
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// delivered is called by the producer's goroutine with what Kafka said.
func (c *committer) delivered(ds []kafka.Delivery) {
	for i := range ds {
		d := &ds[i]
		switch t := d.Opaque.(type) {
		case *shard.Token:
			b := c.batches[t.Shard]
			if b == nil {
				b = &shard.Recorded{}
				c.batches[t.Shard] = b
			}
			// A retriable error comes only when the producer gives up for good.
			fatal := d.Err != nil && kafka.Classify(d.Err) != kafka.ClassReject
			b.Items = append(b.Items, shard.RecordedItem{Token: t, Err: d.Err, Fatal: fatal})
		case *submitted:
			t.done <- d.Err
		}
	}
	for p, b := range c.batches {
		delete(c.batches, p)
		c.tree.Router().ToShard(p, b)
	}
}
