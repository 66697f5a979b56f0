package protocol

import (
	"errors"
	"fmt"
)

// Reason is the number in CLOSE and GOAWAY. Its range alone tells a node whether
// and how fast to come back, so that old nodes act rightly on new reasons:
//
//	1000–1999  come back at once, after a random part of a second
//	2000–2999  come back after backoff (or retry_after_ms, when CLOSE gives one)
//	3000–3999  do not come back: the same bytes would be refused again
type Reason uint16

// The reasons of version 1.
const (
	ReasonShutdown Reason = 1000 // the member stops or restarts
	ReasonDrain    Reason = 1001 // the member sends its nodes elsewhere
	ReasonInternal Reason = 1002 // a fault of the member's; this session only
	ReasonBye      Reason = 1003 // the node leaves of its own accord

	ReasonHelloTimeout     Reason = 2000 // no complete HELLO (or PROOF) in time
	ReasonHeartbeatTimeout Reason = 2001 // nothing heard for too long
	ReasonSlowReader       Reason = 2002 // the node does not read what it is sent
	ReasonOverloaded       Reason = 2003 // too many connections, or arriving too fast
	ReasonNotReady         Reason = 2004 // the member cannot serve sessions yet
	ReasonContested        Reason = 2005 // two sessions of the node id, and no telling which is newer

	ReasonBadPreface         Reason = 3000 // the first bytes are not Roost's
	ReasonFrameTooLarge      Reason = 3001 // a frame over the limit
	ReasonMalformed          Reason = 3002 // a body that is not what its type says
	ReasonUnexpected         Reason = 3003 // a message that may not be sent now
	ReasonUnsupportedVersion Reason = 3004 // no common protocol version
	ReasonUnauthenticated    Reason = 3005 // credential missing or refused
	ReasonReplaced           Reason = 3006 // a newer session of the same node id
)

// Policy is what a node does after its connection ended with a reason.
type Policy uint8

// The policies, by range of the reason's number.
const (
	ReconnectNow     Policy = iota // after a jitter below one second
	ReconnectBackoff               // after jittered exponential backoff
	ReconnectNever                 // report the reason and stop
)

// Policy returns what a node does after r. Numbers outside all ranges mean backoff.
func (r Reason) Policy() Policy {
	switch {
	case r >= 1000 && r < 2000:
		return ReconnectNow
	case r >= 3000 && r < 4000:
		return ReconnectNever
	default:
		return ReconnectBackoff
	}
}

var reasonNames = map[Reason]string{
	ReasonShutdown: "shutdown", ReasonDrain: "drain", ReasonInternal: "internal error", ReasonBye: "bye",
	ReasonHelloTimeout: "hello timeout", ReasonHeartbeatTimeout: "heartbeat timeout", ReasonSlowReader: "slow reader",
	ReasonOverloaded: "overloaded", ReasonNotReady: "not ready", ReasonContested: "contested",
	ReasonBadPreface: "bad preface", ReasonFrameTooLarge: "frame too large", ReasonMalformed: "malformed",
	ReasonUnexpected: "unexpected message", ReasonUnsupportedVersion: "unsupported version",
	ReasonUnauthenticated: "unauthenticated", ReasonReplaced: "replaced",
}

// Reasons returns every reason of this version, for documents and metrics.
func Reasons() map[Reason]string {
	out := make(map[Reason]string, len(reasonNames))
	for r, s := range reasonNames {
		out[r] = s
	}
	return out
}

// String returns the reason's name, as used in logs and metric labels.
func (r Reason) String() string {
	if s, ok := reasonNames[r]; ok {
		return s
	}
	return fmt.Sprintf("reason %d", uint16(r))
}

// Error is a breach of the protocol: the reason to close with, and what was wrong.
type Error struct {
	Reason  Reason
	Message string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%s (%d): %s", e.Reason, uint16(e.Reason), e.Message)
}

// Errorf makes an *[Error].
func Errorf(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}

// messageOf returns the words of err without the reason in front.
func messageOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

// ReasonOf returns the reason that err carries, or [ReasonInternal] when it carries none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ReasonInternal
}
