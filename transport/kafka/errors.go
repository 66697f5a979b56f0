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
