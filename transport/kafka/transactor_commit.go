package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// Commit commits tx: nil means that readers see all of it. Otherwise the error is a
// *TxError, whose Outcome says what became of it. When ctx ends before the broker was told
// to commit, the transaction is aborted; after that Commit waits up to a second more for
// the answer, and then gives TxUnknown.
func (t *Transactor) Commit(ctx context.Context, tx *Transaction) error {
	t.busy.Lock()
	defer t.busy.Unlock()
	if t.closed {
		return &TxError{Outcome: TxFatal, Err: ErrClosed}
	}
	if err := tx.check(); err != nil {
		return &TxError{Outcome: TxFatal, Err: err}
	}
	if t.unknown != nil {
		return &TxError{Outcome: TxUnknown, Err: t.needsReset()}
	}
	failed := t.attempt(ctx, tx)
	if failed == nil {
		t.committed.Add(1)
		t.messages.Add(uint64(len(tx.Messages)))
		for i := range tx.Messages {
			t.bytes.Add(uint64(len(tx.Messages[i].Key) + len(tx.Messages[i].Value)))
		}
		t.state.good()
		return nil
	}
	if failed.Fenced {
		t.fenced.Add(1)
	}
	t.state.note(failed)
	if failed.Outcome == TxUnknown {
		t.unknown = failed.Err
		t.unknowns.Add(1)
		t.discard()
		t.log.Warn("kafka transaction: not known whether it was committed", zap.Error(failed))
	} else {
		t.aborted.Add(1)
	}
	return failed
}

// attempt is one life of one transaction.
func (t *Transactor) attempt(ctx context.Context, tx *Transaction) *TxError {
	if err := t.ensure(ctx); err != nil {
		if Classify(err) == ClassFatal {
			return &TxError{Outcome: TxFatal, Err: err}
		}
		return &TxError{Outcome: TxAborted, Err: err}
	}
	c := t.client.Load()
	life := &txLife{c: c, tx: tx, started: time.Now(), cuts: c.cuts.Load()}
	rejected, err := t.fill(ctx, c, tx)
	if err != nil || len(rejected) > 0 {
		return t.undo(ctx, life, rejected, err)
	}
	return t.finish(ctx, life)
}

// txLife is a transaction under way.
type txLife struct {
	c       *txClient
	tx      *Transaction
	started time.Time
	cuts    uint64
}

// takenOver tells whether an error means that another client took over the id. A broker
// answers the same to a client whose transaction it aborted because it took too long, or, as
// the embedded one, because it was restarted meanwhile.
func (l *txLife) takenOver(err error, timeout time.Duration) bool {
	return isFenced(err) && l.c.cuts.Load() == l.cuts && time.Since(l.started) < timeout*3/4
}

// fill begins the transaction and brings all of it to the broker, short of the commit. The
// offsets come last: a broker that lost the transaction in the meantime then refuses them.
func (t *Transactor) fill(ctx context.Context, c *txClient, tx *Transaction) ([]RejectedMessage, error) {
	if err := c.p.BeginTransaction(); err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	t.open = true
	rejected, err := c.produceAll(ctx, tx.Messages)
	if err != nil || len(rejected) > 0 {
		return rejected, err
	}
	if err := c.drain(ctx); err != nil {
		return nil, err
	}
	if len(tx.Offsets) == 0 {
		return nil, c.health()
	}
	return nil, c.sendOffsets(ctx, tx, t.cfg.TransactionTimeout/2)
}

// health returns the error that the open transaction is failing with. Begin does nothing
// else within a transaction.
func (c *txClient) health() error {
	var ke ck.Error
	if err := c.p.BeginTransaction(); errors.As(err, &ke) && (ke.IsFatal() || ke.TxnRequiresAbort()) {
		return err
	}
	return nil
}

// txFailed is why a transaction failed before all of it was queued: a message of before,
// not the one that is refused for it.
type txFailed struct{ error }

func (f *txFailed) Unwrap() error { return f.error }

// produceAll queues the messages and lists those that the client refuses for good.
func (c *txClient) produceAll(ctx context.Context, messages []Message) ([]RejectedMessage, error) {
	var rejected []RejectedMessage
	for at := 0; at < len(messages); {
		n := 0
		err := c.patiently(ctx, func() (string, error) {
			more, err := c.out.produce(messages[at+n:])
			n += more
			if err != nil {
				return messages[at+n].Topic, err
			}
			return "", nil
		})
		at += n
		if err == nil {
			break
		}
		m := &messages[at]
		if failed := (*txFailed)(nil); errors.As(err, &failed) || !isRejection(err) && !oneOf(err, ck.ErrInvalidArg) {
			return rejected, fmt.Errorf("produce to %s: %w", m.Topic, err)
		}
		if code(err) == ck.ErrMsgSizeTooLarge {
			err = fmt.Errorf("%w: key and value have %d bytes", err, len(m.Key)+len(m.Value))
		}
		rejected = append(rejected, RejectedMessage{Index: at, Err: err})
		at++
	}
	return rejected, nil
}

// produce queues one message, of which it is reported what became of it.
func (c *txClient) produce(ctx context.Context, msg *ck.Message, reports chan ck.Event) error {
	return c.patiently(ctx, func() (string, error) { return *msg.TopicPartition.Topic, c.p.Produce(msg, reports) })
}

// patiently calls what produces until it has done so; it waits while the queue is full.
// produce returns the topic of the message that its error is of.
func (c *txClient) patiently(ctx context.Context, produce func() (topic string, err error)) error {
	refreshed := ""
	for {
		topic, err := produce()
		if err == nil {
			return nil
		}
		switch code(err) {
		case ck.ErrQueueFull:
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("waiting for room in the queue: %w", err)
			}
			time.Sleep(fullWait)
		case ck.ErrState, ck.ErrFatal:
			if why := c.health(); why != nil {
				return &txFailed{why}
			}
			return err
		case ck.ErrUnknownPartition: // it may have been added since the client last looked
			if refreshed == topic {
				return err
			}
			refreshed = topic
			if _, err := c.p.GetMetadata(&topic, false, int(metadataWait.Milliseconds())); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// drain waits until the broker has answered for every message. Those that cannot be
// delivered leave the queue too, after Config.TransactionTimeout at the latest.
func (c *txClient) drain(ctx context.Context) error {
	for started := time.Now(); c.p.Len() > 0; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d messages are not delivered: %w", c.p.Len(), err)
		}
		time.Sleep(min(max(drainPoll, time.Since(started)/8), drainMost))
	}
	return nil
}

// sendOffsets has the group's coordinator check the generation and note the offsets.
func (c *txClient) sendOffsets(ctx context.Context, tx *Transaction, limit time.Duration) error {
	offsets := make([]ck.TopicPartition, 0, len(tx.Offsets))
	for p, o := range tx.Offsets {
		offsets = append(offsets, ck.TopicPartition{Topic: &tx.Topic, Partition: p, Offset: ck.Offset(o)})
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := c.call(ctx, limit, func(ctx context.Context) error {
			return c.p.SendOffsetsToTransaction(ctx, offsets, tx.Group.meta)
		})
		var ke ck.Error
		if err == nil || !errors.As(err, &ke) || !ke.IsRetriable() || ke.TxnRequiresAbort() || ke.IsFatal() {
			return annotate("offsets", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("offsets: %w: %w", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

func annotate(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// finish tells the broker to commit. From its first call on an error no longer says that
// nothing was committed, but for the one that librdkafka gives before it asks the broker.
func (t *Transactor) finish(ctx context.Context, l *txLife) *TxError {
	var graceEnd time.Time
	// librdkafka may wait for an answer to a request that it has not sent again.
	giveUp := time.Now().Add(2 * t.cfg.TransactionTimeout)
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := l.c.call(context.WithoutCancel(ctx), commitSlice, l.c.p.CommitTransaction)
		var ke ck.Error
		switch {
		case err == nil:
			t.open = false
			return nil
		case !errors.As(err, &ke) || ke.IsFatal():
			return &TxError{Outcome: TxUnknown, Fenced: l.takenOver(err, t.cfg.TransactionTimeout), Err: annotate("commit", err)}
		case ke.TxnRequiresAbort() && ke.Code() == ck.ErrInconsistent: // messages failed
			return t.undo(ctx, l, nil, annotate("commit", err))
		case !ke.IsRetriable() || ke.TxnRequiresAbort():
			return &TxError{Outcome: TxUnknown, Err: annotate("commit", err)}
		}
		if time.Now().After(giveUp) {
			return &TxError{Outcome: TxUnknown, Err: annotate("commit", err)}
		}
		if ctx.Err() != nil {
			if graceEnd.IsZero() {
				graceEnd = time.Now().Add(commitGrace)
			} else if time.Now().After(graceEnd) {
				return &TxError{Outcome: TxUnknown, Err: fmt.Errorf("commit: %w: %w", ctx.Err(), err)}
			}
		}
		if ke.Code() != ck.ErrTimedOut { // which has waited already
			time.Sleep(wait)
		}
	}
}

// undo aborts a transaction that failed with cause before the broker was told to commit it,
// so that nothing of it ever becomes visible. An abort that cannot be done now is done by
// the next client's Init.
func (t *Transactor) undo(ctx context.Context, l *txLife, rejected []RejectedMessage, cause error) *TxError {
	failed := &TxError{Outcome: TxAborted, Rejected: rejected, Err: cause}
	if len(rejected) > 0 && cause == nil {
		failed.Err = rejected[0].Err
	}
	failed.StaleGroup = isStaleGroup(cause)
	abortErr := t.abort(cause)
	switch {
	case isHopeless(cause) || isHopeless(abortErr):
		failed.Outcome = TxFatal
	case isFenced(cause) || isFenced(abortErr):
		t.discard()
		failed.Fenced = l.takenOver(cause, t.cfg.TransactionTimeout) || l.takenOver(abortErr, t.cfg.TransactionTimeout)
		if failed.Fenced || l.tx.Group == nil { // the group would tell whether we may write at all
			failed.Outcome = TxUnknown
		}
	case len(rejected) == 0 && isRejection(cause):
		t.findRejected(ctx, l.tx, failed)
	}
	return failed
}

// abort ends the open transaction; a client that cannot do so soon is given up.
func (t *Transactor) abort(cause error) error {
	c := t.client.Load()
	var ke ck.Error
	if errors.Is(cause, errHung) || errors.As(cause, &ke) && ke.IsFatal() {
		t.discard()
		return nil
	}
	deadline := time.Now().Add(abortWait)
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := c.call(context.Background(), max(time.Until(deadline), retryFirst), c.p.AbortTransaction)
		if err == nil {
			t.open = false
			return nil
		}
		if !errors.As(err, &ke) || !ke.IsRetriable() || time.Now().Add(wait).After(deadline) {
			t.log.Debug("kafka transaction: cannot be aborted now, the next client will", zap.Error(err))
			t.discard()
			return err
		}
		time.Sleep(wait)
	}
}

// isFenced: another client took over the transactional id, or the broker gave up waiting
// for us.
func isFenced(err error) bool {
	return oneOf(err, ck.ErrFenced, ck.ErrProducerFenced, ck.ErrInvalidProducerEpoch)
}

// isStaleGroup: the group does not know us as the member that we say we are.
func isStaleGroup(err error) bool {
	return oneOf(err, ck.ErrIllegalGeneration, ck.ErrUnknownMemberID, ck.ErrRebalanceInProgress,
		ck.ErrFencedInstanceID, ck.ErrGroupIDNotFound, ck.ErrStaleMemberEpoch, ck.ErrFencedMemberEpoch)
}

// isRejection: a message, or the batch it is in, will never be accepted.
func isRejection(err error) bool {
	return oneOf(err, ck.ErrMsgSizeTooLarge, ck.ErrInvalidMsgSize, ck.ErrRecordListTooLarge,
		ck.ErrInvalidRecord, ck.ErrInvalidMsg, ck.ErrInvalidTimestamp)
}

// isHopeless: no client with these settings can work.
func isHopeless(err error) bool {
	var own *Error
	if errors.As(err, &own) && own.Op == "configuration" {
		return true
	}
	return oneOf(err, ck.ErrTransactionalIDAuthorizationFailed, ck.ErrClusterAuthorizationFailed,
		ck.ErrInvalidTransactionTimeout, ck.ErrUnsupportedVersion, ck.ErrUnsupportedForMessageFormat)
}

func oneOf(err error, codes ...ck.ErrorCode) bool {
	return err != nil && slices.Contains(codes, code(err))
}
