package kafka

import (
	"errors"
	"fmt"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// Class says what to do about an error.
type Class uint8

const (
	// ClassRetry: the same operation may work later.
	ClassRetry Class = iota
	// ClassReject: the record itself is bad; it will never be accepted.
	ClassReject
	// ClassFatal: the client is of no more use. The process should finish
	// what it can and exit; a fresh client works again.
	ClassFatal
)

// String returns "retry", "reject" or "fatal".
func (c Class) String() string {
	switch c {
	case ClassReject:
		return "reject"
	case ClassFatal:
		return "fatal"
	default:
		return "retry"
	}
}

// Error is an error of Kafka or of its client with its class.
type Error struct {
	Class Class
	// Op is what was tried, for instance "produce".
	Op  string
	Err error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("kafka %s (%s): %v", e.Op, e.Class, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

var (
	// ErrQueueFull is returned by Produce when the local queue is full; try
	// again when deliveries came back. Class retry.
	ErrQueueFull error = &Error{Class: ClassRetry, Op: "produce", Err: errors.New("the local queue is full")}
	// ErrClosed is returned by a client after its Close. Class fatal.
	ErrClosed error = &Error{Class: ClassFatal, Op: "use", Err: errors.New("the client is closed")}
)

// TxOutcome says what became of a transaction that Commit gave back with an error.
type TxOutcome uint8

const (
	// TxAborted: surely nothing of it is visible, or will be. The same transaction may
	// be tried again, changed where Rejected or StaleGroup say so.
	TxAborted TxOutcome = iota
	// TxUnknown: it may or may not have been committed, or another client took over the
	// transactional id. Reset resolves it; then read from the broker what is committed.
	TxUnknown
	// TxFatal: nothing of it is visible, and trying again is of no use before someone
	// changes something (permissions, the broker), or the transactor is closed.
	TxFatal
)

// String returns "aborted", "unknown" or "fatal".
func (o TxOutcome) String() string {
	switch o {
	case TxUnknown:
		return "unknown"
	case TxFatal:
		return "fatal"
	default:
		return "aborted"
	}
}

// RejectedMessage is a message that the client or the broker will never accept.
type RejectedMessage struct {
	Index int // in Transaction.Messages
	Err   error
}

// TxError is the error of [Transactor.Commit].
type TxError struct {
	Outcome TxOutcome
	// Rejected are the messages to change before the transaction is tried again.
	Rejected []RejectedMessage
	// StaleGroup: the group has moved on from Transaction.Group; the partitions may be
	// another member's by now.
	StaleGroup bool
	// Fenced: another client has taken over the transactional id, as far as one can tell:
	// neither was the broker away meanwhile, nor did the transaction take too long.
	Fenced bool
	Err    error
}

// Error implements error.
func (e *TxError) Error() string {
	switch {
	case e.StaleGroup:
		return fmt.Sprintf("kafka transaction %s, the consumer group has moved on: %v", e.Outcome, e.Err)
	case len(e.Rejected) > 0:
		return fmt.Sprintf("kafka transaction %s, %d messages are refused for good, the first is number %d: %v",
			e.Outcome, len(e.Rejected), e.Rejected[0].Index, e.Rejected[0].Err)
	}
	return fmt.Sprintf("kafka transaction %s: %v", e.Outcome, e.Err)
}

// Unwrap returns the cause.
func (e *TxError) Unwrap() error { return e.Err }

// Classify returns the class of any error of this package; an unknown error is
// ClassRetry, for that loses nothing. nil is ClassRetry too.
func Classify(err error) Class {
	var own *Error
	if errors.As(err, &own) {
		return own.Class
	}
	var ke ck.Error
	if !errors.As(err, &ke) {
		return ClassRetry
	}
	if ke.IsFatal() {
		return ClassFatal
	}
	switch ke.Code() {
	case ck.ErrMsgSizeTooLarge, ck.ErrInvalidRecord, ck.ErrInvalidMsgSize, ck.ErrInvalidTimestamp,
		ck.ErrRecordListTooLarge, ck.ErrUnknownPartition, ck.ErrInvalidArg, ck.ErrTopicException:
		return ClassReject
	case ck.ErrFatal, ck.ErrState, ck.ErrDestroy, ck.ErrUnsupportedVersion,
		ck.ErrUnknownTopic, ck.ErrUnknownTopicOrPart, // librdkafka has waited for it; a restart creates the topic
		ck.ErrUnsupportedFeature, ck.ErrProducerFenced, ck.ErrFenced, ck.ErrFencedInstanceID,
		ck.ErrOutOfOrderSequenceNumber, ck.ErrUnknownProducerID, ck.ErrInvalidProducerEpoch:
		return ClassFatal
	}
	return ClassRetry
}

// wrap adds the operation and class; an *Error is passed on unchanged.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	return &Error{Class: Classify(err), Op: op, Err: err}
}

// code returns librdkafka's code in err, or ErrNoError.
func code(err error) ck.ErrorCode {
	var ke ck.Error
	if errors.As(err, &ke) {
		return ke.Code()
	}
	return ck.ErrNoError
}
