package kafka

import "go.uber.org/zap"

// seekTimeoutMs bounds one seek, which asks no broker.
const seekTimeoutMs = 1000

// Rewind has a partition delivered again from the newest offset handed to Commit, or
// from the first record delivered when there was none. It returns the number that
// [Consumer.Epoch] gives for the records which come after. It may be called from any
// goroutine, does not block, and takes effect at the next poll round. For a
// partition that is not ours, or of which nothing was delivered, it does nothing.
func (c *Consumer) Rewind(partition int32) (epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parts[partition]
	if p == nil {
		return 0
	}
	if p.first < 0 {
		return p.isEpoch
	}
	p.wantEpoch++
	c.rewindDirty.Store(true)
	return p.wantEpoch
}

// Epoch counts the rewinds of a partition since it was assigned. It may be called
// from within Handler.Records, and tells the epoch of these records.
func (c *Consumer) Epoch(partition int32) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[partition]; p != nil {
		return p.isEpoch
	}
	return 0
}

// applyRewinds runs on the poll goroutine, between two rounds. What fails is tried
// again in the next.
func (c *Consumer) applyRewinds() {
	if !c.rewindDirty.Swap(false) {
		return
	}
	seeks := map[int32]int64{}
	epochs := map[int32]uint64{}
	c.mu.Lock()
	for id, p := range c.parts {
		if p.wantEpoch != p.isEpoch {
			seeks[id], epochs[id] = max(p.want, p.first), p.wantEpoch
		}
	}
	c.mu.Unlock()
	for id, offset := range seeks {
		c.log.Info("kafka partition rewound", zap.Int32("partition", id), zap.Int64("offset", offset))
		if err := c.client.Seek(c.topicPartition(id, offset), seekTimeoutMs); err != nil {
			c.warnIf("kafka rewind", err)
			c.rewindDirty.Store(true)
			continue
		}
		c.mu.Lock()
		if p := c.parts[id]; p != nil {
			p.isEpoch, p.next = epochs[id], offset
		}
		c.mu.Unlock()
	}
}
