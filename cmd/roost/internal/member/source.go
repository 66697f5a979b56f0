package member

import (
	"context"
	"fmt"
	"sync"

	"github.com/asynkron/protoactor-go/actor"
	"go.uber.org/zap"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/protocol/record"
	"github.com/roost-server/roost/transport/kafka"
)

// source feeds the shards from the consumer, and holds a partition back while its
// shard has enough or rebuilds itself. It is the consumer's handler and the shards'
// feed.
type source struct {
	consumer *kafka.Consumer
	tree     *supervisor.Tree
	make     func(partition uint32) actor.Actor
	finish   func(partitions []int32) // commits what their shards have
	restore  func(partition int32, epoch uint64)
	giveUp   func(error)
	parking  *parking               // of what gates have for shards that are not here yet
	over     func(partition uint32) // told to other members: a life of a shard is over
	trace    *tracer
	log      *zap.Logger

	mu    sync.Mutex
	flows map[int32]*flow // by assigned partition
	epoch uint64          // of the newest life of any shard
	held  bool            // the member stops: nothing more is read
}

// flow is what holds for an assigned partition: the life of its shard, and why it is
// paused: because its shard asked, or because too many records wait in the shard's
// mailbox.
type flow struct {
	epoch   uint64 // of the shard's life
	feed    uint64 // the consumer's number for the records that are meant for this life
	live    bool   // the shard is rebuilt, and fed
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
		if !s.known(p) {
			continue
		}
		s.mu.Lock()
		s.flows[p] = &flow{}
		s.mu.Unlock()
		if err := s.tree.AddShard(uint32(p), func(bool) actor.Actor { return s.make(uint32(p)) }); err != nil {
			s.giveUp(fmt.Errorf("start the shard of partition %d: %w", p, err))
		}
	}
}

// known refuses a partition that was added after this member started: nodes and jobs
// are spread by the number of partitions as it was then.
func (s *source) known(p int32) bool {
	if int(p) < s.parking.partitions() {
		return true
	}
	s.log.Error("a partition was added to the jobs topic under the running cluster: it is not read until the members are restarted",
		zap.Int32("partition", p), zap.Int("known_partitions", s.parking.partitions()))
	return false
}

// Revoked implements kafka.Handler. It returns when what the shards had is committed.
func (s *source) Revoked(partitions []int32) {
	s.finish(partitions)
	s.Lost(partitions)
}

// Lost implements kafka.Handler.
func (s *source) Lost(partitions []int32) {
	s.mu.Lock()
	for _, p := range partitions {
		delete(s.flows, p) // no batch of theirs is committed from here on
	}
	s.mu.Unlock()
	for _, p := range partitions {
		s.parking.Close(uint32(p))
		s.over(uint32(p))
		if err := s.tree.RemoveShard(uint32(p)); err != nil {
			s.giveUp(fmt.Errorf("stop the shard of partition %d: %w", p, err))
		}
	}
}

// Epoch implements ownership.
func (s *source) Epoch(partition uint32) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flows[int32(partition)]; f != nil {
		return f.epoch
	}
	return 0
}

// Rebuild implements shard.Feed: a shard's new life begins.
func (s *source) Rebuild(partition int32) uint64 {
	s.parking.Close(uint32(partition))
	s.over(uint32(partition))
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[partition]
	if f == nil {
		return 0 // lost meanwhile; the shard will be stopped
	}
	s.consumer.Hold(partition)
	s.epoch++
	*f = flow{epoch: s.epoch, asked: s.held}
	s.restore(partition, f.epoch)
	return f.epoch
}

// RebuildAll implements ownership.
func (s *source) RebuildAll() {
	s.mu.Lock()
	var partitions []uint32
	for p, f := range s.flows {
		s.epoch++
		f.epoch = s.epoch // what the shard has in its present life is void
		partitions = append(partitions, uint32(p))
	}
	s.mu.Unlock()
	for _, p := range partitions {
		s.tree.Router().ToShard(p, &shard.Again{})
	}
}

// start feeds a shard that was sent all of its state; false when that life of it is
// over.
func (s *source) start(partition int32, epoch uint64, next int64) bool {
	return s.parking.Open(uint32(partition), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		f := s.flows[partition]
		if f == nil || f.epoch != epoch ||
			!s.tree.Router().ToShard(uint32(partition), &shard.Restored{Epoch: epoch, Next: next}) {
			return false
		}
		f.live = true
		f.feed = s.consumer.Start(partition, next)
		if s.held {
			s.consumer.Pause(partition)
		}
		return true
	})
}

// Records implements kafka.Handler.
func (s *source) Records(partition int32, records []kafka.Record) {
	m := &actors.Records{Records: make([]actors.Record, len(records))}
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
	feed := s.consumer.Epoch(partition)
	meant := false
	s.change(partition, func(f *flow) {
		if meant = f.live && f.feed == feed; meant {
			m.Epoch = f.epoch
			f.inbox += len(records)
			f.crowded = f.crowded || f.inbox > inboxHigh
		}
	})
	if meant {
		s.trace.read(partition, m)
		s.tree.Router().ToShard(uint32(partition), m)
	}
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

// watchPartitions says so when the number of partitions changes.
func (m *Member) watchPartitions(ctx context.Context) error {
	m.source.consumer.WatchPartitions(ctx, partitionsEvery, func(n int) {
		m.partitions.Store(int64(n))
		if n != m.info.Partitions {
			m.log.Error("the number of partitions of the jobs topic changed under the running cluster; see docs/GUARANTEES.md",
				zap.Int("was", m.info.Partitions), zap.Int("is", n))
		}
	})
	return nil
}
