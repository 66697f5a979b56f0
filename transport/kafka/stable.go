package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// NoOffset says that the group never committed an offset of a partition.
const NoOffset int64 = -1

// ErrUnstable is what an [UnstableError] unwraps to.
var ErrUnstable = errors.New("an open transaction has offsets pending")

// UnstableError tells that the time was up while offsets were, as it seems, pending in a
// transaction that is neither committed nor aborted. If its owner is dead, [Fence]
// ends it.
type UnstableError struct {
	Partitions []int32 // of which offsets are pending
	Err        error   // of the context
}

// Error implements error.
func (e *UnstableError) Error() string {
	return fmt.Sprintf("kafka committed offsets of partitions %v: %v: %v", e.Partitions, ErrUnstable, e.Err)
}

// Unwrap returns ErrUnstable and the error of the context.
func (e *UnstableError) Unwrap() []error { return []error{ErrUnstable, e.Err} }

const (
	offsetsTimeout = 500 * time.Millisecond // of one request
	offsetsRetry   = 50 * time.Millisecond  // between two requests
)

// StableOffset is StableOffsets for one partition.
func (c *Consumer) StableOffset(ctx context.Context, partition int32) (int64, error) {
	m, err := c.StableOffsets(ctx, []int32{partition})
	if err != nil {
		return NoOffset, err
	}
	return m[partition], nil
}

// StableOffsets returns the committed offset of each partition, NoOffset (-1) when
// there is none. It waits while a transaction has offsets of one of them pending, and
// while the brokers are away. When ctx ends it returns the offsets that it has, and an
// error: an *UnstableError when a transaction was what it waited for. It may be called
// from any goroutine but the one that polls, before and while Run runs.
func (c *Consumer) StableOffsets(ctx context.Context, partitions []int32) (map[int32]int64, error) {
	offsets := make(map[int32]int64, len(partitions))
	var pending []int32
	ask := [][]int32{partitions}
	for {
		pending = pending[:0]
		var err error
		for _, a := range c.fetchAll(ask) {
			if a.err != nil {
				pending, err = append(pending, a.partitions...), a.err
				continue
			}
			for _, tp := range a.got {
				offsets[tp.Partition] = max(int64(tp.Offset), NoOffset)
			}
		}
		switch {
		case len(pending) == 0:
			return offsets, nil
		case ctx.Err() != nil && code(err) == ck.ErrTimedOut && c.state.reachable():
			return offsets, &UnstableError{Partitions: slices.Clone(pending), Err: context.Cause(ctx)}
		case ctx.Err() != nil:
			return offsets, wrap("committed offsets", errors.Join(context.Cause(ctx), err))
		case !transient(err):
			return offsets, wrap("committed offsets", err)
		}
		ask = ask[:0] // one that is pending must not hide the others
		for _, p := range pending {
			ask = append(ask, []int32{p})
		}
		select {
		case <-ctx.Done():
		// Not in step with the transactions of other members.
		case <-time.After(offsetsRetry/2 + rand.N(offsetsRetry)):
		}
	}
}

type fetchedOffsets struct {
	partitions []int32
	got        []ck.TopicPartition
	err        error
}

// fetchAll sends the requests at once, and waits for all answers.
func (c *Consumer) fetchAll(ask [][]int32) []fetchedOffsets {
	all := make([]fetchedOffsets, len(ask))
	var wg sync.WaitGroup
	for i, ps := range ask {
		wg.Go(func() {
			got, err := c.fetchOffsets(ps)
			all[i] = fetchedOffsets{partitions: ps, got: got, err: err}
		})
	}
	wg.Wait()
	return all
}

// fetchOffsets is one request. The admin request for offsets is not used, though it tells
// pending offsets from absent brokers: librdkafka aborts the process when a connection
// breaks at the wrong moment of a request to a coordinator (its issue 4605). So what does
// not answer in time while the brokers do is taken for pending, one by one.
func (c *Consumer) fetchOffsets(partitions []int32) ([]ck.TopicPartition, error) {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.closed {
		return nil, ErrClosed
	}
	tps := make([]ck.TopicPartition, len(partitions))
	for i, p := range partitions {
		tps[i] = c.topicPartition(p, int64(ck.OffsetInvalid))
	}
	return c.client.Committed(tps, int(offsetsTimeout.Milliseconds()))
}
