package session

import (
	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// A RESULT_ACK of its own costs a write, which is as much as all else that a job costs
// its session; and nothing waits for it: it frees a place in the node's outbox. So
// acknowledgements ride with the next frame for their node, and go alone only when there
// was none for AckDelayMs, when they are many, or when the node is about to leave. Should they be lost with the connection, the node sends the results
// again and is answered again.

// AckDelayMs is how long an acknowledgement waits for another frame to ride with. It is the
// shorter part of how long results wait to be recorded and nodes to be heard of.
const AckDelayMs = 1000

// ackSlackMs is how much earlier than due acknowledgements leave with others that are due, so
// that an event loop is woken for them a few times a second.
const ackSlackMs = 100

const (
	// maxHeldAckBytes is how much may wait for a node.
	maxHeldAckBytes = 1024
	// ackBytes is about one acknowledgement, of a job whose id is a UUID.
	ackBytes = 2 + 36
)

// heldAcks are a session's acknowledgements that wait, and its place among the sessions
// of the event loop that have some, which are in the order in which these are due.
type heldAcks struct {
	list       []byte // of each the length of the job's id, the id, and the attempt
	count      uint16
	dueMs      int64
	prev, next *Session
}

// holdings are the sessions of an event loop that hold acknowledgements.
type holdings struct{ first, last *Session }

// Acked is the message that a result is recorded.
type Acked struct{ Ack *actors.Ack }

// flushAcks is the message that acknowledgements are due.
type flushAcks struct{}

func (s *Session) acked(a *actors.Ack) {
	if s.core.state&ended != 0 {
		return // its node will ask again
	}
	if len(a.JobID) > protocol.MaxJobIDBytes || a.Attempt > protocol.MaxAttempts {
		return // there is no such job
	}
	l := s.loop
	s.core.open(&l.effects)
	h := &s.core.desk.acks
	if h.count == 0 {
		h.dueMs = l.up.NowMs() + AckDelayMs
		l.held.add(s)
		if l.held.first == s {
			l.up.AcksHeld()
		}
	}
	if h.list == nil {
		h.list = make([]byte, 0, ackBytes)
	}
	h.list = append(h.list, byte(len(a.JobID)))
	h.list = append(append(h.list, a.JobID...), byte(a.Attempt))
	h.count++
	if len(h.list) >= maxHeldAckBytes || s.core.credit == 0 || s.leaveBy != 0 {
		s.sendAcks() // who takes no jobs, or is to leave, may wait for these before it does
	}
}

// sendAcks sends the acknowledgements that wait, if there are any. It is called before
// anything else that the session sends.
func (s *Session) sendAcks() {
	if s.core.desk == nil || s.core.acks.count == 0 {
		return
	}
	h, sc := &s.core.acks, s.loop
	sc.ack.Acks = sc.ack.Acks[:0]
	for b := h.list; len(b) > 0; {
		n := 1 + int(b[0])
		sc.ack.Acks = append(sc.ack.Acks, protocol.Ack{JobID: b[1:n], Attempt: uint32(b[n])})
		b = b[n+1:]
	}
	err := s.conn.Append(&sc.ack)
	clear(sc.ack.Acks)
	s.dropAcks()
	s.check(err)
}

// dropAcks forgets the acknowledgements that wait.
func (s *Session) dropAcks() {
	if s.core.desk == nil || s.core.acks.count == 0 {
		return
	}
	s.loop.held.remove(s)
	h := &s.core.acks
	h.list, h.count = h.list[:0], 0
	s.core.close(&s.loop.effects)
}

// SendAcks sends what acknowledgements are due, and returns when the next ones are, 0 for
// none. It is called on the event loop.
func (l *Loop) SendAcks(nowMs int64) (nextMs int64) {
	for s := l.held.first; s != nil; s = l.held.first {
		if due := s.core.acks.dueMs; due > nowMs+ackSlackMs {
			return due
		}
		s.Post(flushAcks{})
		if l.held.first == s { // it has failed, and is about to be stopped
			l.held.remove(s)
		}
	}
	l.effects.desks = nil // the nodes have been idle
	return 0
}

func (h *holdings) add(s *Session) {
	s.core.acks.prev, s.core.acks.next = h.last, nil
	if h.last == nil {
		h.first = s
	} else {
		h.last.core.acks.next = s
	}
	h.last = s
}

// remove takes a session out; nothing happens when it is not in.
func (h *holdings) remove(s *Session) {
	a := &s.core.acks
	if a.prev == nil && h.first != s {
		return
	}
	if a.prev == nil {
		h.first = a.next
	} else {
		a.prev.core.acks.next = a.next
	}
	if a.next == nil {
		h.last = a.prev
	} else {
		a.next.core.acks.prev = a.prev
	}
	a.prev, a.next = nil, nil
}
