// Package session is the actor that stands for one connected node. It runs on the
// event loop of the node's socket and is entered only from there: by the gate of
// that loop. It has no goroutine, timer, channel or buffer of its own.
//
// core.go is the pure state machine; actor.go is the thin actor around it.
package session

import (
	"strconv"
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
	NowMs() int64
	// AcksHeld says that acknowledgements wait, and none did before: Loop.SendAcks has to be
	// called in AckDelayMs.
	AcksHeld()
	// Overstayed counts a session that is closed since its node did not leave in time.
	Overstayed()
}

// Loop is what the sessions of one event loop share, since only one of them runs at a
// time. It belongs to their gate.
type Loop struct {
	up      Uplink
	system  *actor.ActorSystem
	gate    *actor.PID
	named   uint32 // numbers the sessions, for their ids
	effects Effects
	result  protocol.Result
	job     protocol.Job
	ack     protocol.ResultAck
	held    holdings
}

// NewLoop returns what the sessions of a gate share.
func NewLoop(up Uplink, system *actor.ActorSystem, gate *actor.PID) *Loop {
	return &Loop{up: up, system: system, gate: gate}
}

// Session is the actor, reduced to what an idle node needs: it is its own process in protoactor's
// registry, without a context and a mailbox, and runs at once on the goroutine that posts. The
// gate supervises it as a child, by protoactor's messages; it cannot be watched.
//
// There are hundreds of thousands of these: 80 bytes.
type Session struct {
	core    Core
	conn    Conn
	loop    *Loop
	Profile *actors.Profile // shared; the gate replaces it on ATTRIBUTES
	Home    uint32          // the shard that holds this node in its directory
	leaveBy uint32          // Unix seconds by which the node has to have left; 0: was not told to
}

// state is how far a session has come to its end.
type state uint8

const (
	ended   state = 1 << iota // the shards know of it
	failed                    // the supervisor is about to stop it
	stopped                   // it takes no more messages
)

// New makes a session and enters it into the registry of actors.
func New(node string, incarnation uint64, home, credit uint32, profile *actors.Profile, conn Conn, l *Loop) *Session {
	l.named++
	s := &Session{
		core: Core{node: node, incarnation: incarnation, credit: uint16(min(max(1, credit), protocol.MaxCredit)), number: l.named},
		conn: conn, loop: l, Profile: profile, Home: home,
	}
	l.system.ProcessRegistry.Add(s, s.id())
	return s
}

// Node returns the node's id.
func (s *Session) Node() string { return s.core.node }

// Incarnation returns the session's number among those of its node.
func (s *Session) Incarnation() uint64 { return s.core.incarnation }

// id is below that of the gate, as protoactor names children.
func (s *Session) id() string {
	return s.loop.gate.Id + "/$" + strconv.FormatUint(uint64(s.core.number), 36)
}

// PID returns a new copy of the actor's id: there is none at rest.
func (s *Session) PID() *actor.PID { return actor.NewPID(s.loop.gate.Address, s.id()) }

// Stopped reports whether the actor has stopped or, having failed, is about to be.
func (s *Session) Stopped() bool { return s.core.state&(stopped|failed) != 0 }

// Close closes the session's connection, after what waits for the node.
func (s *Session) Close(reason protocol.Reason, message string, retryAfter time.Duration) {
	s.sendAcks()
	s.conn.Close(reason, message, retryAfter)
}

// Load returns how many jobs the node has and how many wait for it.
func (s *Session) Load() (inFlight, queued int) { return s.core.InFlight(), s.core.Queued() }

// Tell tells shards that have begun anew what the node has of them, through the uplink; due
// has them by their numbers. It is called on the event loop.
func (s *Session) Tell(due []bool) {
	s.core.Has(due, func(shard uint32, jobID string, attempt uint32) {
		s.loop.up.Notice(shard, actors.Notice{Kind: actors.Running, Node: s.core.node, JobID: jobID,
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
	// Resume tells what the node said in HELLO that it runs.
	Resume struct{ Running []protocol.Ref }
	// Closed says that the connection is gone.
	Closed struct{}
)

func (s *Session) receive(m any) {
	switch m := m.(type) {
	case *Frame:
		m.Err = s.frame(m.Type, m.Body)
		if s.leaveBy != 0 && m.Err == nil {
			s.overstay()
		}
	case *Deliver:
		eff := s.begin()
		s.core.Deliver(s.loop.up.NowMs(), m.Delivery, eff)
		s.apply(eff)
	case *Acked:
		s.acked(m.Ack)
	case flushAcks:
		s.sendAcks()
	case *Withdraw:
		s.withdraw(m.Withdrawal)
	case *Resume:
		for i := range m.Running {
			r := &m.Running[i]
			s.core.Resume(r.JobID, r.Shard, r.Attempt, &s.loop.effects)
		}
	case *Leave:
		s.leave(m)
	case *Closed:
		s.end()
	}
}

func (s *Session) frame(t protocol.Type, body []byte) error {
	sc, dec := s.loop, s.loop.up.Decoder()
	switch t {
	case protocol.TypeResult:
		if err := dec.Decode(body, &sc.result); err != nil {
			return err
		}
		eff := s.begin()
		nowMs := int64(0) // matters only to those that wait
		if s.core.Queued() > 0 {
			nowMs = s.loop.up.NowMs()
		}
		expected := s.core.Answered(nowMs, sc.result.JobID, eff)
		s.loop.up.Result(s, &sc.result, expected)
		s.apply(eff)
	case protocol.TypePing:
		var m protocol.Ping
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		if s.core.Queued() > 0 {
			eff := s.begin()
			s.core.Overdue(s.loop.up.NowMs(), eff)
			s.apply(eff)
		}
		s.sendAcks()
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
		s.loop.up.Progress(s, &m)
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
	if s.core.Resume(n.JobID, m.Shard, m.Attempt, &s.loop.effects) {
		n.Kind = actors.Running
	}
	s.loop.up.Notice(m.Shard, n)
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
		s.core.SetCredit(s.loop.up.NowMs(), m.Credit, eff)
		s.apply(eff)
		if m.Credit == 0 {
			s.sendAcks()
		}
	case protocol.TypeAttributes:
		var m protocol.AttributesUpdate
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		s.loop.up.Reregister(s, &m.Attributes)
	case protocol.TypeClose:
		var m protocol.Close
		if err := dec.Decode(body, &m); err != nil {
			return err
		}
		s.sendAcks()
		s.conn.CloseSilently(m.Reason)
	case protocol.TypeHello, protocol.TypeProof, protocol.TypeChallenge, protocol.TypeWelcome, protocol.TypeJob,
		protocol.TypeResultAck, protocol.TypeCancel, protocol.TypeGoAway:
		return protocol.Errorf(protocol.ReasonUnexpected, "%v from a node within a session", t)
	}
	return nil // types of a later version are skipped
}

func (s *Session) withdraw(w *actors.Withdrawal) {
	eff := s.begin()
	if s.core.Withdraw(s.loop.up.NowMs(), w.JobID, w.Attempt, eff) {
		s.append(&protocol.Cancel{JobID: []byte(w.JobID), Attempt: w.Attempt, Reason: w.Reason})
	}
	s.apply(eff)
}

func (s *Session) begin() *Effects {
	eff := &s.loop.effects
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
		s.loop.up.Notice(eff.Notices[i].Shard, eff.Notices[i].Notice)
	}
}

func (s *Session) send(d *actors.Delivery) {
	m := &s.loop.job
	m.JobID = append(m.JobID[:0], d.JobID...)
	m.Kind = append(m.Kind[:0], d.Kind...)
	m.Shard, m.Attempt, m.TimeoutMs, m.Priority, m.Args = d.Shard, d.Attempt, d.TimeoutMs, d.Priority, d.Args
	s.append(m)
	m.Args = nil
}

// append sends a message of our own making, whose limits the shard has checked.
func (s *Session) append(m protocol.Message) {
	s.sendAcks()
	s.check(s.conn.Append(m))
}

func (s *Session) check(err error) {
	if err != nil {
		s.conn.Close(protocol.ReasonInternal, err.Error(), 0)
	}
}

// end tells the shards once what the node's departure means for them.
func (s *Session) end() {
	if s.core.state&ended != 0 {
		return
	}
	s.core.state |= ended
	s.dropAcks()
	eff := s.begin()
	s.core.End(eff)
	s.apply(eff)
}

// Post has the session take a message, at once, on the caller's goroutine, which has to be
// the event loop's. A panic is given to the supervisor instead of the caller.
func (s *Session) Post(m any) {
	if s.core.state&(failed|stopped) != 0 {
		return // the supervisor is about to stop it
	}
	defer s.rescue(m)
	s.receive(m)
}

// End stops the session, as its supervisor does; a second call does nothing.
func (s *Session) End() {
	if s.core.state&stopped != 0 {
		return
	}
	s.core.state |= stopped
	s.loop.system.ProcessRegistry.Remove(s.PID())
	defer s.rescue(nil)
	if s.core.state&failed != 0 {
		s.conn.Close(protocol.ReasonInternal, "the session failed; it is safe to come back", 0)
	} else if s.core.state&ended == 0 {
		s.Close(protocol.ReasonShutdown, "the member ends the session; it is safe to come back", 0)
	}
	s.end()
}

// rescue gives a panic to the gate's supervision. It is deferred.
func (s *Session) rescue(m any) {
	r := recover()
	if r == nil {
		return
	}
	s.core.state |= failed
	if p, ok := s.loop.system.ProcessRegistry.Get(s.loop.gate); ok {
		p.SendSystemMessage(s.loop.gate, &actor.Failure{Who: s.PID(), Reason: r, Message: m,
			RestartStats: actor.NewRestartStatistics()})
	}
}

// SendUserMessage implements actor.Process, for the event loop alone.
func (s *Session) SendUserMessage(_ *actor.PID, m any) { s.Post(m) }

// SendSystemMessage implements actor.Process. A failed session is only ever stopped, so
// suspension needs no queue.
func (s *Session) SendSystemMessage(_ *actor.PID, m any) {
	if _, ok := m.(*actor.Stop); ok {
		s.End()
	}
}

// Stop implements actor.Process, for the event loop alone.
func (s *Session) Stop(*actor.PID) { s.End() }

var _ actor.Process = (*Session)(nil)

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
