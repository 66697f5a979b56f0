package kafka

import (
	"context"
	"errors"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// Partitions returns how many partitions the topic has now. While the brokers are away
// it waits until ctx ends. It may be called from any goroutine.
func (c *Consumer) Partitions(ctx context.Context) (int, error) {
	for {
		n, err := c.askPartitions()
		if err == nil || !transient(err) {
			return n, wrap("partitions", err)
		}
		select {
		case <-ctx.Done():
			return 0, wrap("partitions", errors.Join(context.Cause(ctx), err))
		case <-time.After(offsetsRetry):
		}
	}
}

func (c *Consumer) askPartitions() (int, error) {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.closed {
		return 0, ErrClosed
	}
	md, err := c.client.GetMetadata(&c.topic, false, probeTimeoutMs)
	if err != nil {
		return 0, err
	}
	t := md.Topics[c.topic]
	if t.Error.Code() != ck.ErrNoError {
		return 0, t.Error
	}
	return len(t.Partitions), nil
}

// WatchPartitions calls changed with the number of partitions that the topic has, and
// again each time that it changes, until ctx ends. It asks at this interval; failures
// are passed over. It may be called from any goroutine, and calls changed from it.
func (c *Consumer) WatchPartitions(ctx context.Context, every time.Duration, changed func(n int)) {
	known := 0
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if n, err := c.Partitions(ctx); err == nil && n != known {
			known = n
			changed(n)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
