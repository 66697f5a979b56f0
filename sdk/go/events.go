package roost

import (
	"time"

	"github.com/roost-server/roost/protocol"
)

// Event is one of the types below; they are part of the API. For one job the order
// is JobStarted, JobFinished, ResultAcked; between jobs there is none.
type Event interface{ event() }

// Connected: WELCOME came.
type Connected struct {
	Addr        string // as dialled
	Member      string // the member's name
	Incarnation uint64 // numbers the node's sessions
	Resent      int    // results held, which are sent again now
}

// Disconnected: the connection ended, or could not be opened.
type Disconnected struct {
	Addr    string
	Reason  protocol.Reason // of the member's CLOSE or GOAWAY; 0 when there was none
	Message string          // the member's words
	Err     error           // what ended it otherwise; nil after CLOSE or GOAWAY
	RetryIn time.Duration   // until the next try; negative: there is none
}

// GoingAway: the member asked the node to reconnect; it leaves in LeaveIn.
type GoingAway struct {
	Reason    protocol.Reason
	Message   string
	Addresses []string // the member's advice; tried before Config.Servers
	LeaveIn   time.Duration
}

// JobStarted: a handler begins.
type JobStarted struct {
	JobID   string
	Kind    string
	Attempt uint32
	Waited  time.Duration // in the queue
}

// JobFinished: a job has its result, which is in the outbox and about to be sent.
type JobFinished struct {
	JobID    string
	Kind     string
	Attempt  uint32
	Outcome  protocol.Outcome
	Error    string
	Duration time.Duration
}

// JobRefused: a job was refused without being run: unknown kind, or node full.
type JobRefused struct {
	JobID   string
	Kind    string
	Attempt uint32
	Error   string
}

// JobDuplicate: a job came again and was not run again.
type JobDuplicate struct {
	JobID    string
	Attempt  uint32
	Answered bool // a result was sent again at once
}

// HandlerPanicked: a handler panicked; its job failed and the node goes on.
type HandlerPanicked struct {
	JobID string
	Kind  string
	Value any    // what was given to panic
	Stack []byte // of the handler's goroutine
}

// ResultAcked: a member recorded the result; it left the outbox.
type ResultAcked struct {
	JobID   string
	Attempt uint32
}

// OutboxFailed: the outbox could not store or remove a result. The result is held
// in memory and sent all the same; it would not survive a crash.
type OutboxFailed struct {
	JobID string
	Err   error
}

func (Connected) event()       {}
func (Disconnected) event()    {}
func (GoingAway) event()       {}
func (JobStarted) event()      {}
func (JobFinished) event()     {}
func (JobRefused) event()      {}
func (JobDuplicate) event()    {}
func (ResultAcked) event()     {}
func (HandlerPanicked) event() {}
func (OutboxFailed) event()    {}
