package kafka

import (
	"slices"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// committer sends commits from a goroutine of its own, one request at a time:
// the binding only has a blocking commit, and the poll loop must not wait for
// the coordinator.
type committer struct {
	c    *Consumer
	work chan []ck.TopicPartition
	done sync.WaitGroup

	busy    sync.Mutex // held while a request is under way
	next    time.Time  // poll goroutine only
	failing bool       // under busy; so that a lasting failure is logged once
}

func newCommitter(c *Consumer) *committer {
	return &committer{c: c, work: make(chan []ck.TopicPartition)}
}

func (k *committer) start() {
	k.done.Add(1)
	go func() {
		defer k.done.Done()
		for offsets := range k.work {
			k.busy.Lock()
			k.send(offsets)
			k.busy.Unlock()
		}
	}()
}

// stop waits for the request under way; flush works on.
func (k *committer) stop() {
	close(k.work)
	k.done.Wait()
}

// tick hands over what is new, unless the last request is still under way.
func (k *committer) tick(now time.Time) {
	if now.Before(k.next) {
		return
	}
	k.next = now.Add(k.c.cfg.CommitInterval)
	if !k.busy.TryLock() {
		return
	}
	offsets := k.due(nil)
	k.busy.Unlock()
	if len(offsets) == 0 {
		return
	}
	select {
	case k.work <- offsets:
	default: // the goroutine is just on its way back to the channel
		k.next = now
	}
}

// flush commits the partitions now; it is called from the poll goroutine. While
// the coordinator is away it gives up after about the session timeout.
func (k *committer) flush(ids []int32) {
	k.busy.Lock()
	defer k.busy.Unlock()
	for range 2 {
		offsets := k.due(ids)
		if len(offsets) == 0 || k.send(offsets) || !k.c.state.reachable() {
			return
		}
	}
}

// due lists the offsets that the broker does not have, of the partitions (of
// all for nil).
func (k *committer) due(ids []int32) []ck.TopicPartition {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	var offsets []ck.TopicPartition
	for id, p := range k.c.parts {
		if p.want > p.sent && (ids == nil || slices.Contains(ids, id)) {
			offsets = append(offsets, k.c.topicPartition(id, p.want))
		}
	}
	return offsets
}

// send blocks until the coordinator answered; it reports whether all of it was
// committed. The caller holds busy.
func (k *committer) send(offsets []ck.TopicPartition) bool {
	done, err := k.c.client.CommitOffsets(offsets)
	k.c.mu.Lock()
	for _, tp := range done {
		if err == nil && tp.Error != nil {
			err = tp.Error
		}
		p := k.c.parts[tp.Partition]
		if p != nil && tp.Error == nil && int64(tp.Offset) > p.sent {
			p.sent = int64(tp.Offset)
		}
	}
	k.c.mu.Unlock()
	if err == nil {
		k.c.n.commits.Add(1)
		k.c.state.good()
		k.failing = false
		return true
	}
	k.c.n.commitErrors.Add(1)
	k.c.state.note(err)
	if !k.failing {
		k.c.log.Warn("kafka commit failed; it is repeated", zap.Error(err))
	}
	k.failing = true
	return false
}
