package roost

import (
	"errors"
	"fmt"

	"github.com/roost-server/roost/protocol"
)

// CloseError is why [Client.Run] stopped for good: a member closed with a reason
// whose policy is protocol.ReconnectNever, or challenged the client in a way that
// [Config].Prove does not answer.
type CloseError struct {
	Reason  protocol.Reason
	Message string // the member's words
	Addr    string // the member's address
}

// Error implements error.
func (e *CloseError) Error() string {
	return fmt.Sprintf("roost: %s closed with %s (%d): %s", e.Addr, e.Reason, uint16(e.Reason), e.Message)
}

// RefusedError, returned by a [Handler], makes the outcome refused: the node cannot
// or may not run this job. Make it with [Refused].
type RefusedError struct{ Message string }

// Error implements error.
func (e *RefusedError) Error() string { return e.Message }

// Refused makes a [*RefusedError].
func Refused(format string, args ...any) error {
	return &RefusedError{Message: fmt.Sprintf(format, args...)}
}

// Errors that callers may compare with errors.Is.
var (
	// ErrNotConnected is returned by [Job.Progress] while there is no connection.
	ErrNotConnected = errors.New("roost: not connected")

	// ErrHandlersRunning is returned by [Client.Run] when handlers still ran after
	// [Config].DrainTimeout and ignored the end of their context.
	ErrHandlersRunning = errors.New("roost: handlers still run after the drain timeout")

	// ErrUnknownMethod is returned by [Config].Prove for a challenge that it cannot
	// answer. It ends Run.
	ErrUnknownMethod = errors.New("roost: unknown challenge method")

	// ErrJobEnded is returned by [Job.Progress] once the job has its result.
	ErrJobEnded = errors.New("roost: the job has ended")
)

// Causes of a job context's end; see context.Cause. The context's Err is
// context.DeadlineExceeded for the first and context.Canceled for the others.
var (
	// ErrTimeout means that the attempt's timeout passed.
	ErrTimeout = errors.New("the attempt's timeout passed")

	// ErrCancelled means that the member sent CANCEL; the cause wraps it with the
	// member's reason.
	ErrCancelled = errors.New("cancelled")

	// ErrShutdown means that the client stops.
	ErrShutdown = errors.New("the node shuts down")
)
