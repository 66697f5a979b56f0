// Package session is the actor that stands for one connected node. It runs on the
// event loop of the node's socket and is entered only from there: by the gate of
// that loop. It has no goroutine, timer, channel or buffer of its own.
//
// core.go is the pure state machine; actor.go is the thin actor around it.
package session

import (
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// Conn is what a session needs of its connection. All methods are called on the
// connection's event loop and never block.
type Conn interface {
	// Append adds a frame to what is sent with one write at the end of the current
	// read or batch. An error means that the message breaks a limit.
	Append(m protocol.Message) error
	// Close sends CLOSE and closes; a second call does nothing. retryAfter of 0 leaves
	// the return to the reason's policy.
	Close(reason protocol.Reason, message string, retryAfter time.Duration)
	// CloseSilently closes without CLOSE, because the node has said it.
	CloseSilently(reason protocol.Reason)
}

// Uplink is what a session needs of its gate: the way to shards. It is called on
// the gate's event loop and keeps nothing of the byte slices given to it.
type Uplink interface {
	Result(s *Session, r *protocol.Result, expected bool)
	Progress(s *Session, p *protocol.Progress)
	Notice(shard uint32, n actors.Notice)
	Reregister(s *Session, a *protocol.Attributes)
	Decoder() *protocol.Decoder
	Scratch() *Scratch
	NowMs() int64
	// Overstayed counts a session that is closed since its node did not leave in time.
	Overstayed()
}

// Scratch is what the sessions of one event loop share, since only one of them runs
// at a time.
type Scratch struct {
	effects Effects
	result  protocol.Result
	job     protocol.Job
	ack     protocol.ResultAck
	ack1    [1]protocol.Ack
	id      []byte
}

// Session is the actor; it is also its own mailbox, which invokes the actor at once
// on the goroutine that posts.
type Session struct {
	core    Core
	conn    Conn
	uplink  Uplink
	invoker actor.MessageInvoker
	pid     *actor.PID
	Profile *actors.Profile // shared; the gate replaces it on ATTRIBUTES
	Home    uint32          // the shard that holds this node in its directory
	leaveBy uint32          // Unix seconds by which the node has to have left; 0: was not told to
	ended   bool
	failed  bool
	stopped bool
}

// New makes a session that is not an actor yet: the gate spawns it.
func New(node string, incarnation uint64, home, credit uint32, profile *actors.Profile, conn Conn, up Uplink) *Session {
	return &Session{
		core: Core{node: node, incarnation: incarnation, credit: max(1, credit)},
		conn: conn, uplink: up, Profile: profile, Home: home,
	}
}

// Node returns the node's id.
func (s *Session) Node() string { return s.core.node }

// Incarnation returns the session's number among those of its node.
func (s *Session) Incarnation() uint64 { return s.core.incarnation }

// PID returns the actor's id, nil before it was spawned.
func (s *Session) PID() *actor.PID { return s.pid }

// Stopped reports whether the actor has stopped or, having failed, is about to be.
func (s *Session) Stopped() bool { return s.stopped || s.failed }

// Conn returns the session's connection.
func (s *Session) Conn() Conn { return s.conn }

// Load returns how many jobs the node has and how many wait for it.
func (s *Session) Load() (inFlight, queued int) { return s.core.InFlight(), s.core.Queued() }

// Tell tells shards that have begun anew what the node has of them, through the uplink; due
// has them by their numbers. It is called on the event loop.
func (s *Session) Tell(due []bool) {
	s.core.Has(due, func(shard uint32, jobID string, attempt uint32) {
		s.uplink.Notice(shard, actors.Notice{Kind: actors.Running, Node: s.core.node, JobID: jobID,
			Attempt: attempt, Incarnation: s.core.incarnation})
	})
}

// The messages that a session takes. The gate reuses one of each.
type (
	// Frame is one frame from the node; Body is valid only during the call.
	Frame struct {
		Type protocol.Type
		Body []byte
		Err  error // set by the session: close the connection for this
	}
	// Deliver is a delivery for the node.
	Deliver struct{ Delivery *actors.Delivery }
	// Withdraw takes a delivery back.
	Withdraw struct{ Withdrawal *actors.Withdrawal }
	// Acked passes on that a result is recorded.
	Acked struct{ Ack *actors.Ack }
	// Resume tells what the node said in HELLO that it runs.
	Resume struct{ Running []protocol.Ref }
	// Closed says that the connection is gone.
	Closed struct{}
)

// Receive implements actor.Actor.
func (s *Session) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *Frame:
		m.Err = s.frame(m.Type, m.Body)
		if s.leaveBy != 0 && m.Err == nil {
			s.overstay()
		}
	case *Deliver:
		eff := s.begin()
		s.core.Deliver(s.uplink.NowMs(), *m.Delivery, eff)
		s.apply(eff)
	case *Acked:
		s.acked(m.Ack)
	case *Withdraw:
		s.withdraw(m.Withdrawal)
	case *Resume:
		for i := range m.Running {
			r := &m.Running[i]
			s.core.Resume(r.JobID, r.Shard, r.Attempt)
		}
	case *Leave:
		s.leave(m)
	case *Closed:
		s.end()
	case *actor.Started:
		s.pid = ctx.Self()
	case *actor.Stopping:
		s.stopping()
	}
}

func (s *Session) frame(t protocol.Type, body []byte) error {
	sc, dec := s.uplink.Scratch(), s.uplink.Decoder()
	switch t {
	case protocol.TypeResult:
		if err := dec.Decode(body, &sc.result); err != nil {
			return err
		}
		eff := s.begin()
		expected := s.core.Answered(s.uplink.NowMs(), sc.result.JobID, eff)
		s.uplink.Result(s, &sc.result, expected)
		s.apply(eff)
	case protocol.TypePing:
		var m protocol.Ping
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		if s.core.Queued() > 0 {
			eff := s.begin()
			s.core.Overdue(s.uplink.NowMs(), eff)
			s.apply(eff)
		}
		return s.conn.Append(&protocol.Pong{Nonce: m.Nonce})
	case protocol.TypePong:
	case protocol.TypeAccepted:
		var m protocol.Accepted
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		s.accepted(&m)
	case protocol.TypeProgress:
		var m protocol.Progress
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		s.uplink.Progress(s, &m)
	default:
		return s.control(t, body, dec)
	}
	return nil
}

// accepted passes on that the node works on a job. One that the session did not have
// is from an earlier session and found no room in HELLO.
func (s *Session) accepted(m *protocol.Accepted) {
	n := actors.Notice{Kind: actors.Accepted, Node: s.core.node, JobID: string(m.JobID),
		Attempt: m.Attempt, Incarnation: s.core.incarnation}
	if s.core.Resume(n.JobID, m.Shard, m.Attempt) {
		n.Kind = actors.Running
	}
	s.uplink.Notice(m.Shard, n)
}

// control handles the frames that change the session itself.
func (s *Session) control(t protocol.Type, body []byte, dec *protocol.Decoder) error {
	switch t {
	case protocol.TypeCredit:
		var m protocol.Credit
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		eff := s.begin()
		s.core.SetCredit(s.uplink.NowMs(), m.Credit, eff)
		s.apply(eff)
	case protocol.TypeAttributes:
		var m protocol.AttributesUpdate
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		s.uplink.Reregister(s, &m.Attributes)
	case protocol.TypeClose:
		var m protocol.Close
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		s.conn.CloseSilently(m.Reason)
	case protocol.TypeHello, protocol.TypeProof, protocol.TypeChallenge, protocol.TypeWelcome, protocol.TypeJob,
		protocol.TypeResultAck, protocol.TypeCancel, protocol.TypeGoAway:
		return protocol.Errorf(protocol.ReasonUnexpected, "%v from a node within a session", t)
	}
	return nil // types of a later version are skipped
}

func (s *Session) acked(a *actors.Ack) {
	sc := s.uplink.Scratch()
	sc.id = append(sc.id[:0], a.JobID...)
	sc.ack1[0] = protocol.Ack{JobID: sc.id, Attempt: a.Attempt}
	sc.ack.Acks = sc.ack1[:]
	s.append(&sc.ack)
}

func (s *Session) withdraw(w *actors.Withdrawal) {
	eff := s.begin()
	if s.core.Withdraw(s.uplink.NowMs(), w.JobID, w.Attempt, eff) {
		s.append(&protocol.Cancel{JobID: []byte(w.JobID), Attempt: w.Attempt, Reason: w.Reason})
	}
	s.apply(eff)
}

func (s *Session) begin() *Effects {
	eff := &s.uplink.Scratch().effects
	eff.Reset()
	return eff
}

func (s *Session) apply(eff *Effects) {
	// By index: a send that closes the connection may end the session, which empties
	// the effects under way.
	for i := 0; i < len(eff.Cancels); i++ {
		w := &eff.Cancels[i]
		s.append(&protocol.Cancel{JobID: []byte(w.JobID), Attempt: w.Attempt, Reason: w.Reason})
	}
	for i := 0; i < len(eff.Jobs); i++ {
		s.send(&eff.Jobs[i])
	}
	for i := 0; i < len(eff.Notices); i++ {
		s.uplink.Notice(eff.Notices[i].Shard, eff.Notices[i].Notice)
	}
}

func (s *Session) send(d *actors.Delivery) {
	m := &s.uplink.Scratch().job
	m.JobID = append(m.JobID[:0], d.JobID...)
	m.Kind = append(m.Kind[:0], d.Kind...)
	m.Shard, m.Attempt, m.TimeoutMs, m.Priority, m.Args = d.Shard, d.Attempt, d.TimeoutMs, d.Priority, d.Args
	s.append(m)
	m.Args = nil
}

// append sends a message of our own making, whose limits the shard has checked.
func (s *Session) append(m protocol.Message) {
	if err := s.conn.Append(m); err != nil {
		s.conn.Close(protocol.ReasonInternal, err.Error(), 0)
	}
}

// end tells the shards once what the node's departure means for them.
func (s *Session) end() {
	if s.ended {
		return
	}
	s.ended = true
	eff := s.begin()
	s.core.End(eff)
	s.apply(eff)
}

func (s *Session) stopping() {
	s.stopped = true
	if s.failed {
		s.conn.Close(protocol.ReasonInternal, "the session failed; it is safe to come back", 0)
	} else if !s.ended {
		s.conn.Close(protocol.ReasonShutdown, "the member ends the session; it is safe to come back", 0)
	}
	s.end()
}

// PostUserMessage implements actor.Mailbox: it runs the actor at once, on the
// caller's goroutine, which has to be the event loop's. A panic is given to the
// supervisor instead of the caller.
func (s *Session) PostUserMessage(m any) {
	if s.failed {
		return // the supervisor is about to stop it
	}
	defer s.rescue(m)
	s.invoker.InvokeUserMessage(m)
}

// PostSystemMessage implements actor.Mailbox, as PostUserMessage does. A failed
// session is only ever stopped, so suspension needs no queue.
func (s *Session) PostSystemMessage(m any) {
	switch m.(type) {
	case *actor.SuspendMailbox, *actor.ResumeMailbox:
		return
	}
	defer s.rescue(m)
	s.invoker.InvokeSystemMessage(m)
}

func (s *Session) rescue(m any) {
	if r := recover(); r != nil {
		s.failed = true
		s.invoker.EscalateFailure(r, m)
	}
}

// RegisterHandlers implements actor.Mailbox.
func (s *Session) RegisterHandlers(invoker actor.MessageInvoker, _ actor.Dispatcher) {
	s.invoker = invoker
}

// Start implements actor.Mailbox.
func (s *Session) Start() {}

// UserMessageCount implements actor.Mailbox; nothing ever waits.
func (s *Session) UserMessageCount() int { return 0 }

var _ actor.Mailbox = (*Session)(nil)

// incarnations makes the numbers of sessions.
var incarnations atomic.Uint64

// incarnationShift leaves 22 bits below the milliseconds: 4 million sessions in one.
const incarnationShift = 22

// MaxAheadMs is how far the incarnations of a member may be ahead of its clock, for the
// sake of nodes that come from members whose clocks are ahead of it.
const MaxAheadMs = 5_000

// NextIncarnation returns a number larger than any before it in this process and,
// as far as clocks agree, in the cluster: milliseconds of Unix time, then a counter.
// It is larger than last as well, the number of the node's session before as the node
// says it, unless that is too far ahead of the clock to be true.
func NextIncarnation(nowMs int64, last uint64) uint64 {
	if StartedMs(last) > nowMs+MaxAheadMs {
		last = 0
	}
	for {
		before := incarnations.Load()
		next := max(before+1, last+1, uint64(nowMs)<<incarnationShift)
		if incarnations.CompareAndSwap(before, next) {
			return next
		}
	}
}

// StartedMs returns the Unix time in milliseconds at which a session began.
func StartedMs(incarnation uint64) int64 { return int64(incarnation >> incarnationShift) }
