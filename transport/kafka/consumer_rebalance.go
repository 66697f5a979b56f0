package kafka

import (
	"maps"
	"slices"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// rebalance is called by librdkafka's binding from within Poll or Close. It
// does the (un)assignment itself, because the binding blocks for ever when its
// own attempt fails.
//
// librdkafka calls back once for each generation of the group, also when this
// member's share stays the same, and joins no further generation before the
// call returned.
func (c *Consumer) rebalance(client *ck.Consumer, ev ck.Event) error {
	c.n.rebalances.Add(1)
	c.awake()
	var err error
	switch e := ev.(type) {
	case ck.AssignedPartitions:
		err = c.take(client, e.Partitions)
	case ck.RevokedPartitions:
		ids := partitionIDs(e.Partitions)
		c.forgetBatch(ids)
		c.giveUp(client, ids)
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

// take assigns partitions, held back until Start. The group metadata is read
// first: after the assignment librdkafka may join the next generation at any
// time. The partitions are paused before they are assigned, and assigned at an
// offset of no meaning, so that nothing is asked for: neither records, nor the
// committed offset (for which librdkafka waits while a transaction is open),
// nor the beginning: an answer to that which comes late has librdkafka go
// there in spite of a seek meanwhile.
func (c *Consumer) take(client *ck.Consumer, tps []ck.TopicPartition) error {
	if c.closing {
		return client.IncrementalAssign(tps)
	}
	if !c.rejoined() {
		c.lose() // what it has; and what it gets now will be lost soon
	}
	ids := partitionIDs(tps)
	c.add(ids)
	if len(ids) > 0 {
		c.log.Info("kafka partitions assigned", zap.Int32s("partitions", ids))
		c.h.Assigned(ids)
		_, err := client.Position(tps) // librdkafka can pause only partitions that it has heard of
		c.warnIf("kafka position", err)
		c.warnIf("kafka pause", client.Pause(tps))
		if err := c.inbox.forward(ids); err != nil {
			c.fatal = &Error{Class: ClassFatal, Op: "rebalance", Err: err}
		}
	}
	for i := range tps {
		tps[i].Offset = 0
	}
	return client.IncrementalAssign(tps)
}

// giveUp has the handler drop partitions.
func (c *Consumer) giveUp(client *ck.Consumer, ids []int32) {
	if ids = c.ours(ids); len(ids) == 0 {
		return // lost already, or given back
	}
	if client.AssignmentLost() || !c.rejoined() {
		c.lose()
		return
	}
	c.log.Info("kafka partitions revoked", zap.Int32s("partitions", ids))
	c.h.Revoked(ids)
	c.drop(ids)
}

// maxLastEvents bounds what is served before the client is closed.
const maxLastEvents = 1000

// handBack revokes everything before the client is closed. When a rebalance is on its way
// then, librdkafka leaves the group first and calls back afterwards, which is too late for
// a last transaction.
func (c *Consumer) handBack() {
	defer func() { c.closing = true }()
	clear(c.batch)
	c.batch = c.batch[:0]
	var all []ck.TopicPartition
	for _, id := range c.ours(nil) {
		all = append(all, c.topicPartition(id, 0))
	}
	if len(all) == 0 {
		return
	}
	c.warnIf("kafka pause", c.client.Pause(all)) // no more records, so that the rest is soon served
	for range maxLastEvents {
		if c.client.Poll(0) == nil {
			break
		}
	}
	c.awake()
	ids := c.ours(nil)
	switch {
	case len(ids) == 0:
	case c.group.Load() == nil || c.gone():
		c.lose()
	default:
		c.log.Info("kafka partitions given back", zap.Int32s("partitions", ids))
		c.h.Revoked(ids)
		c.drop(ids)
	}
	c.left()
}

// lose tells that all partitions may be another member's by now, for this consumer is no
// member of the group any more.
func (c *Consumer) lose() {
	c.left()
	ids := c.drop(nil)
	if len(ids) == 0 {
		return
	}
	c.log.Warn("kafka partitions lost to other members", zap.Int32s("partitions", ids))
	c.n.lost.Add(uint64(len(ids)))
	c.h.Lost(ids)
}

// forgetBatch removes records of revoked partitions that were polled in this
// round and not yet delivered.
func (c *Consumer) forgetBatch(ids []int32) {
	kept := c.batch[:0]
	for _, m := range c.batch {
		if !slices.Contains(ids, m.Partition) {
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
		c.parts[id] = &part{id: id, next: -1, high: -1, isPause: true}
	}
	c.held.Add(int32(len(ids)))
}

// ours returns those of the partitions that are assigned, all of them for nil.
func (c *Consumer) ours(ids []int32) []int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ids == nil {
		return slices.Sorted(maps.Keys(c.parts))
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return c.parts[id] == nil })
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
				c.held.Add(-1)
			}
			had = append(had, id)
			delete(c.parts, id)
		}
	}
	slices.Sort(had)
	return had
}

func partitionIDs(tps []ck.TopicPartition) []int32 {
	ids := make([]int32, len(tps))
	for i, tp := range tps {
		ids[i] = tp.Partition
	}
	return ids
}
