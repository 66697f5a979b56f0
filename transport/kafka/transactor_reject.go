package kafka

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// findRejected finds which messages of an aborted transaction the broker refuses. It refuses
// whole requests, without saying which message is the cause; so the transaction is tried
// again with one message in each request, and never committed. When all of them pass that
// way, it was the size of the requests: they are made smaller from now on.
func (t *Transactor) findRejected(ctx context.Context, tx *Transaction, failed *TxError) {
	defer t.discard()
	// From small to large: the first one that is too large for its topic is the smallest.
	order := make([]int, len(tx.Messages))
	for i := range order {
		order[i] = i
	}
	size := func(i int) int { return len(tx.Messages[i].Key) + len(tx.Messages[i].Value) }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(size(a), size(b)) })
	for len(order) > 0 {
		refused, ok := t.trySingly(ctx, tx, order)
		if !ok {
			return // found out the next time
		}
		if len(refused) == 0 {
			break
		}
		order = slices.DeleteFunc(order, func(i int) bool {
			for _, r := range refused {
				if i == r.Index || code(r.Err) == ck.ErrMsgSizeTooLarge &&
					tx.Messages[i].Topic == tx.Messages[r.Index].Topic && size(i) >= size(r.Index) {
					failed.Rejected = append(failed.Rejected, RejectedMessage{Index: i, Err: r.Err})
					return true
				}
			}
			return false
		})
	}
	slices.SortFunc(failed.Rejected, func(a, b RejectedMessage) int { return cmp.Compare(a.Index, b.Index) })
	if len(failed.Rejected) == 0 && t.batchBytes > minBatchBytes {
		t.batchBytes = max(minBatchBytes, t.batchBytes/4)
		t.log.Warn("kafka transaction: a topic takes smaller requests than usual (max.message.bytes); they are made smaller",
			zap.Int("bytes", t.batchBytes), zap.Error(failed.Err))
	}
}

// trySingly produces the messages of order in a transaction that it aborts, and returns
// those refused. ok is false when it could not find out. It takes a fresh client: one that had
// a message refused stumbles over the gap in its sequence numbers in the next transaction.
func (t *Transactor) trySingly(ctx context.Context, tx *Transaction, order []int) (refused []RejectedMessage, ok bool) {
	t.discard()
	c, err := t.newClient(1)
	if err != nil {
		return nil, false
	}
	t.client.Store(c)
	if t.ensure(ctx) != nil || t.client.Load() != c || c.p.BeginTransaction() != nil {
		return nil, false
	}
	t.open = true
	reports := make(chan ck.Event, len(order))
	sent := 0
	for _, i := range order {
		m := &tx.Messages[i]
		msg := ck.Message{TopicPartition: ck.TopicPartition{Topic: &m.Topic, Partition: m.Partition},
			Key: m.Key, Value: m.Value, Headers: m.Headers, Opaque: i}
		if err = c.produce(ctx, &msg, reports); err != nil {
			break // the transaction failed already, or is out of time
		}
		sent++
	}
	for range sent {
		select {
		case ev := <-reports:
			m, is := ev.(*ck.Message)
			if is && isRejection(m.TopicPartition.Error) {
				i := m.Opaque.(int)
				refused = append(refused, RejectedMessage{Index: i,
					Err: fmt.Errorf("%w: key and value have %d bytes", m.TopicPartition.Error, len(tx.Messages[i].Key)+len(tx.Messages[i].Value))})
			}
		case <-ctx.Done():
			t.discard()
			return nil, false
		}
	}
	if t.abort(err) != nil || t.client.Load() != c {
		return refused, false
	}
	return refused, err == nil || len(refused) > 0
}
