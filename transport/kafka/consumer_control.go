package kafka

import (
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

type counters struct {
	records, polls, pauses, resumes, rebalances, lost atomic.Uint64
	commits, commitErrors, commitsIgnored, errors     atomic.Uint64
}

// ConsumerStats are counters since the start, and the present state.
type ConsumerStats struct {
	Records        uint64 // delivered
	Polls          uint64 // poll rounds
	Pauses         uint64 // partitions paused
	Resumes        uint64 // partitions resumed
	Rebalances     uint64 // rebalance callbacks, empty ones included
	PartitionsLost uint64 // lost without a revoke in good order
	Commits        uint64 // commit requests that succeeded
	CommitErrors   uint64 // commit requests that failed; they are repeated
	CommitsIgnored uint64 // calls of Commit for partitions or offsets not ours
	Errors         uint64 // other errors reported by the client
	// Reachable is whether the last sign of the brokers was a good one.
	Reachable bool
	LastError string
	// Assigned has the partitions owned now, Paused how many are paused.
	Assigned []int32
	Paused   int
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
		Commits: c.n.commits.Load(), CommitErrors: c.n.commitErrors.Load(),
		CommitsIgnored: c.n.commitsIgnored.Load(), Errors: c.n.errors.Load(),
		Reachable: c.state.reachable(), LastError: c.state.lastError(),
		Paused: int(c.paused.Load()),
		Lag:    make(map[int32]int64),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.parts {
		s.Assigned = append(s.Assigned, id)
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
// or a partition that is not ours, does nothing.
func (c *Consumer) Pause(partition int32) { c.setPause(partition, true) }

// Resume undoes Pause; it takes effect within about 10 ms.
func (c *Consumer) Resume(partition int32) { c.setPause(partition, false) }

func (c *Consumer) setPause(id int32, pause bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[id]; p != nil && p.wantPause != pause {
		p.wantPause = pause
		c.pauseDirty.Store(true)
	}
}

// applyPauses runs on the poll goroutine, where no rebalance can interfere.
func (c *Consumer) applyPauses() {
	if !c.pauseDirty.Swap(false) {
		return
	}
	var pause, resume []ck.TopicPartition
	c.mu.Lock()
	for id, p := range c.parts {
		switch {
		case p.wantPause && !p.isPause:
			pause = append(pause, c.topicPartition(id, 0))
			c.paused.Add(1)
		case !p.wantPause && p.isPause:
			resume = append(resume, c.topicPartition(id, 0))
			c.paused.Add(-1)
		}
		p.isPause = p.wantPause
	}
	c.mu.Unlock()
	if len(pause) > 0 {
		c.n.pauses.Add(uint64(len(pause)))
		c.warnIf("kafka pause", c.client.Pause(pause))
	}
	if len(resume) > 0 {
		c.n.resumes.Add(uint64(len(resume)))
		c.warnIf("kafka resume", c.client.Resume(resume))
	}
}

func (c *Consumer) warnIf(what string, err error) {
	if err != nil {
		c.n.errors.Add(1)
		c.log.Warn(what, zap.Error(err))
	}
}

// Commit notes that every record below nextOffset is done. It may be called
// from any goroutine and never blocks: the newest offset of each partition is
// committed every CommitInterval, when partitions are revoked and at the end
// of Run. Failed commits are repeated. An offset never moves backwards; offsets
// beyond what was delivered and partitions that are not ours are ignored.
func (c *Consumer) Commit(partition int32, nextOffset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parts[partition]
	if p == nil || nextOffset > p.next || nextOffset <= p.first {
		c.n.commitsIgnored.Add(1)
		return
	}
	if nextOffset > p.want {
		p.want = nextOffset
	}
}

// tick does what is due: commits, and a look at the lag.
func (c *Consumer) tick(now time.Time) {
	c.commits.tick(now)
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
