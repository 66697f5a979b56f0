package kafka

import (
	"slices"
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

type counters struct {
	records, polls, starts, pauses, resumes, rebalances, lost, errors atomic.Uint64

	singly atomic.Uint64 // records that came by the binding's queue
}

// ConsumerStats are counters since the start, and the present state.
type ConsumerStats struct {
	Records        uint64 // delivered
	Polls          uint64 // poll rounds
	Starts         uint64 // partitions started, or started again
	Pauses         uint64 // partitions paused, by Pause or Hold
	Resumes        uint64 // partitions resumed, by Resume or Start
	Rebalances     uint64 // rebalance callbacks, empty ones included
	PartitionsLost uint64 // lost without a revoke in good order
	Errors         uint64 // other errors reported by the client
	// Reachable is whether the last sign of the brokers was a good one.
	Reachable bool
	LastError string
	// Assigned has the partitions owned now; Paused is how many of them are
	// paused, and Held how many wait for Start.
	Assigned []int32
	Paused   int
	Held     int
	// Lag has, for each owned partition of which it is known, how many
	// offsets lie between the last delivered record and the end as of the
	// last fetch. It is renewed once a second.
	Lag map[int32]int64
}

// Stats may be called from any goroutine, also after Run returned.
func (c *Consumer) Stats() ConsumerStats {
	s := ConsumerStats{
		Records: c.n.records.Load(), Polls: c.n.polls.Load(),
		Pauses: c.n.pauses.Load(), Resumes: c.n.resumes.Load(),
		Rebalances: c.n.rebalances.Load(), PartitionsLost: c.n.lost.Load(),
		Starts: c.n.starts.Load(), Errors: c.n.errors.Load(),
		Reachable: c.state.reachable(), LastError: c.state.lastError(),
		Lag: make(map[int32]int64),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.parts {
		s.Assigned = append(s.Assigned, id)
		if p.wantPause {
			s.Paused++
		}
		if p.wantEpoch == 0 || p.held {
			s.Held++
		}
		switch {
		case p.high < 0:
		case p.next >= 0:
			s.Lag[id] = max(0, p.high-p.next)
		case !p.isPause:
			s.Lag[id] = 0 // fetched, and nothing came: at the end
		}
	}
	return s
}

// Reachable tells whether the brokers answer.
func (c *Consumer) Reachable() bool { return c.state.reachable() }

// Pause stops the delivery of a partition until Resume, or until it is
// assigned anew. It may be called from any goroutine and takes effect at the
// next poll round: up to BatchRecords records may still come. Pausing twice,
// or a partition that is not ours, does nothing. It is apart from Hold: a
// partition flows when it is started, and neither held nor paused.
func (c *Consumer) Pause(partition int32) { c.setPause(partition, true) }

// Resume undoes Pause; it takes effect within about 10 ms.
func (c *Consumer) Resume(partition int32) { c.setPause(partition, false) }

func (c *Consumer) setPause(id int32, pause bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[id]; p != nil && p.wantPause != pause {
		p.wantPause = pause
		c.dirty.Store(true)
	}
}

// Start has a partition delivered from this offset on; -1 is its beginning. It
// returns the number that [Consumer.Epoch] gives for these records, which no
// other Start of this consumer returns, or 0 when the partition is not ours.
// Records of before are not delivered any more, but the ones that the handler
// was just given. It may be called from any goroutine, does not block, and
// takes effect within about 10 ms.
func (c *Consumer) Start(partition int32, offset int64) (epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parts[partition]
	if p == nil {
		return 0
	}
	c.epochs++
	p.wantEpoch, p.startAt, p.strays, p.held = c.epochs, offset, 0, false
	c.dirty.Store(true)
	return p.wantEpoch
}

// Hold stops the delivery of a partition until it is started again. It may be
// called from any goroutine and does not block; a call of Handler.Records that
// is under way goes on.
func (c *Consumer) Hold(partition int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[partition]; p != nil && !p.held {
		p.held = true
		c.dirty.Store(true)
	}
}

// Epoch returns the number that Start returned for the records of a partition
// which are delivered now, or 0. It may be called from within Handler.Records,
// and tells the epoch of these records.
func (c *Consumer) Epoch(partition int32) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[partition]; p != nil {
		return p.isEpoch
	}
	return 0
}

// apply brings about what was asked for. It runs on the poll goroutine, between
// two rounds, where no rebalance can interfere. What fails is tried again in
// the next round; what is asked for meanwhile too.
func (c *Consumer) apply() {
	if !c.dirty.Swap(false) {
		return
	}
	var pause, seek, resume []ck.TopicPartition
	epochs := map[int32]uint64{}
	c.mu.Lock()
	for id, p := range c.parts {
		stop := p.wantEpoch == 0 || p.held || p.wantPause
		switch {
		case stop && !p.isPause:
			pause = append(pause, c.topicPartition(id, 0))
		case !stop && p.isPause:
			resume = append(resume, c.topicPartition(id, 0))
		}
		if p.wantEpoch != p.isEpoch {
			seek = append(seek, c.topicPartition(id, p.startAt))
			epochs[id] = p.wantEpoch
		}
	}
	c.mu.Unlock()
	if len(pause) > 0 {
		c.n.pauses.Add(uint64(len(pause)))
		c.warnIf("kafka pause", c.client.Pause(pause))
		c.nowPaused(pause, true)
	}
	for _, tp := range seek {
		if !c.seek(tp, epochs[tp.Partition]) {
			c.dirty.Store(true)
			resume = slices.DeleteFunc(resume, func(r ck.TopicPartition) bool { return r.Partition == tp.Partition })
		}
	}
	if len(resume) > 0 {
		c.n.resumes.Add(uint64(len(resume)))
		c.warnIf("kafka resume", c.client.Resume(resume))
		c.nowPaused(resume, false)
	}
}

// seek begins an epoch of a partition. librdkafka drops what it has fetched.
func (c *Consumer) seek(tp ck.TopicPartition, epoch uint64) bool {
	tp.Offset = max(0, tp.Offset) // librdkafka goes to the beginning from there; see take
	got, err := c.client.SeekPartitions([]ck.TopicPartition{tp})
	if err == nil && len(got) == 1 {
		err = got[0].Error
	}
	if err != nil {
		c.warnIf("kafka start", err)
		return false
	}
	c.n.starts.Add(1)
	c.log.Info("kafka partition started", zap.Int32("partition", tp.Partition), zap.Int64("offset", int64(tp.Offset)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[tp.Partition]; p != nil {
		p.isEpoch, p.next = epoch, -1
	}
	return true
}

// maxStrays is how many times an epoch is begun again before records from below its start
// are taken for real.
const maxStrays = 3

// again has a partition sought once more, of which an epoch begins with a record from
// before its start: librdkafka went to the beginning. When it does so every time, the
// offset is beyond the end of the topic. The caller holds mu.
func (c *Consumer) again(p *part, offset int64) bool {
	if p.strays++; p.strays > maxStrays {
		c.log.Error("kafka: the topic ends before the committed offset; it is read from its beginning. Was it deleted and made anew, or has the broker lost records?",
			zap.Int32("partition", p.id), zap.Int64("committed", p.startAt), zap.Int64("first", offset))
		return false
	}
	p.isEpoch = 0
	c.dirty.Store(true)
	return true
}

func (c *Consumer) nowPaused(tps []ck.TopicPartition, paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tp := range tps {
		if p := c.parts[tp.Partition]; p != nil && p.isPause != paused {
			p.isPause = paused
			if paused {
				c.held.Add(1)
			} else {
				c.held.Add(-1)
			}
		}
	}
}

func (c *Consumer) warnIf(what string, err error) {
	if err != nil {
		c.n.errors.Add(1)
		c.log.Warn(what, zap.Error(err))
	}
}

// tick looks at the lag.
func (c *Consumer) tick(now time.Time) {
	if now.Before(c.nextLag) {
		return
	}
	c.nextLag = now.Add(lagEvery)
	c.mu.Lock()
	ids := make([]int32, 0, len(c.parts))
	for id := range c.parts {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	for _, id := range ids {
		_, high, err := c.client.GetWatermarkOffsets(c.topic, id)
		if err != nil {
			continue // nothing fetched yet
		}
		c.mu.Lock()
		if p := c.parts[id]; p != nil {
			p.high = high
		}
		c.mu.Unlock()
	}
}
