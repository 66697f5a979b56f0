package roost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/roost-server/roost/protocol"
)

const (
	// A member's heartbeat is kept within these, whatever it says.
	minHeartbeat = 10 * time.Millisecond
	maxHeartbeat = 5 * time.Minute

	// lingerTimeout is how long a node that leaves waits for the member to close,
	// so that its CLOSE is not lost to a reset.
	lingerTimeout = time.Second
)

// session is one connection.
type session struct {
	client  *Client
	conn    net.Conn
	addr    string
	out     *outbound
	welcome protocol.Welcome // set by the handshake
	beat    time.Duration    // of it; 0: none

	lastHeard atomic.Int64 // ns since began
	began     time.Time

	goaway    chan leave    // of capacity 1: the first GOAWAY
	readDone  chan struct{} // closed when the reader ended, after readErr is set
	readErr   error
	writeDone chan struct{} // closed when the writer ended, after writeErr is set
	writeErr  error

	// Written under Client.mu: HELLO as sent, until the writer has queued everything
	// that follows from it.
	hello *protocol.Hello

	// Owned by the handshake, then by the reader.
	in       *frameReader
	dec      *protocol.Decoder
	leaving  bool // a GOAWAY came
	job      protocol.Job
	ack      protocol.ResultAck
	cancel   protocol.Cancel
	pingPong protocol.Ping

	// Owned by the handshake, then by the writer.
	before uint64   // the last arrival before the session
	resend []string // job ids of results to send again
}

// leave is a GOAWAY and when to obey it.
type leave struct {
	frame protocol.GoAway
	in    time.Duration
}

func newSession(c *Client, conn net.Conn, addr string) *session {
	return &session{
		client: c, conn: conn, addr: addr, out: newOutbound(), began: time.Now(),
		goaway: make(chan leave, 1), readDone: make(chan struct{}), writeDone: make(chan struct{}),
		in: newFrameReader(conn), dec: protocol.NewDecoder(),
	}
}

// setLimits takes over what WELCOME says.
func (s *session) setLimits() {
	if ms := s.welcome.HeartbeatMs; ms > 0 {
		s.beat = min(max(time.Duration(ms)*time.Millisecond, minHeartbeat), maxHeartbeat)
	}
	if n := int(s.welcome.MaxBodyBytes); n > 0 {
		s.out.limit = min(n, protocol.MaxBodyBytes)
	}
	s.heard()
}

func (s *session) acceptAfter() time.Duration {
	return time.Duration(s.welcome.AcceptAfterMs) * time.Millisecond
}

func (s *session) heard() { s.lastHeard.Store(int64(time.Since(s.began))) }

// writeNow writes during the handshake, whose deadline stands on the connection.
func (s *session) writeNow(b []byte) error {
	_, err := s.conn.Write(b)
	return err
}

// breach tells the member, during the handshake, what it did wrong.
func (s *session) breach(err error) error {
	var pe *protocol.Error
	if errors.As(err, &pe) {
		if frame, encErr := protocol.NewEncoder().Append(nil, &protocol.Close{Reason: pe.Reason, Message: pe.Message}); encErr == nil {
			_ = s.writeNow(frame)
		}
	}
	return err
}

// closedBy makes the error of a CLOSE.
func (s *session) closedBy(body []byte) error {
	e := &closedError{}
	if err := s.dec.Decode(body, &e.frame); err != nil {
		return err
	}
	e.frame.Message = strings.ToValidUTF8(e.frame.Message, "\uFFFD")
	return e
}

// sendResult queues a RESULT; one that this member cannot take becomes a failed one
// that says so.
func (s *session) sendResult(e *Entry) {
	m := e.frame()
	err := s.out.send(&m)
	if err == nil || errors.Is(err, ErrNotConnected) {
		return
	}
	m.Outcome, m.Output = protocol.OutcomeFailed, nil
	m.Error = []byte(clipText("the result cannot be sent: "+err.Error(), protocol.MaxTextBytes))
	_ = s.out.send(&m) // a member that cannot take this one either gets none
}

// readLoop is the reader.
func (s *session) readLoop() (err error) {
	silence := s.beat * 5 / 2
	for {
		for {
			t, body, size, err := s.in.buffered(protocol.MaxBodyBytes)
			if err != nil {
				return err
			}
			if size == 0 {
				break
			}
			if err := s.onFrame(t, body); err != nil {
				return err
			}
			if err := s.out.waitRoom(context.Background()); err != nil {
				return err
			}
		}
		if silence > 0 {
			if err := s.conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
				return err
			}
		}
		if err := s.in.fill(); err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				return fmt.Errorf("nothing heard for %v (2.5 heartbeats): %w", silence, err)
			}
			return err
		}
		s.heard()
	}
}

// onFrame acts on one frame; types that it does not know are skipped.
func (s *session) onFrame(t protocol.Type, body []byte) error {
	c := s.client
	switch t {
	case protocol.TypeJob:
		if err := s.dec.Decode(body, &s.job); err != nil {
			return err
		}
		c.onJob(&s.job)
	case protocol.TypeResultAck:
		if err := s.dec.Decode(body, &s.ack); err != nil {
			return err
		}
		c.onAck(&s.ack)
	case protocol.TypeCancel:
		if err := s.dec.Decode(body, &s.cancel); err != nil {
			return err
		}
		c.onCancel(&s.cancel)
	case protocol.TypePing:
		if err := s.dec.Decode(body, &s.pingPong); err != nil {
			return err
		}
		s.out.send(&protocol.Pong{Nonce: s.pingPong.Nonce})
	case protocol.TypeGoAway:
		return s.onGoAway(body)
	case protocol.TypeClose:
		return s.closedBy(body)
	case protocol.TypePong: // heard, which is all that matters
	default:
		if known(t) {
			return protocol.Errorf(protocol.ReasonUnexpected, "%v from a member in a session", t)
		}
	}
	return nil
}

// known says whether version 1 has the type; others are skipped.
func known(t protocol.Type) bool {
	switch t {
	case protocol.TypeHello, protocol.TypeChallenge, protocol.TypeProof, protocol.TypeWelcome,
		protocol.TypeJob, protocol.TypeAccepted, protocol.TypeProgress, protocol.TypeResult,
		protocol.TypeResultAck, protocol.TypeCancel, protocol.TypeCredit, protocol.TypeAttributes,
		protocol.TypePing, protocol.TypePong, protocol.TypeGoAway, protocol.TypeClose:
		return true
	}
	return false
}

func (s *session) onGoAway(body []byte) error {
	var m protocol.GoAway
	if err := s.dec.Decode(body, &m); err != nil {
		return err
	}
	if s.leaving {
		return nil
	}
	s.leaving = true
	m.Message = strings.ToValidUTF8(m.Message, "\uFFFD")
	wait := time.Duration(s.client.rand() * float64(m.JitterMs) * float64(time.Millisecond))
	s.client.emit(GoingAway{Reason: m.Reason, Message: m.Message, Addresses: m.Addresses, LeaveIn: wait})
	s.goaway <- leave{m, wait}
	return nil
}

// writeLoop is the writer: everything queued in one write, and a PING when nothing
// was sent, or nothing heard, for a heartbeat. The latter finds a dead connection
// even while the node itself sends.
func (s *session) writeLoop() error {
	var spare []byte
	// The first PING comes after a random part of a heartbeat: nodes that connected
	// together do not ping together.
	first := time.Duration(s.client.rand() * float64(s.beat))
	lastSent := time.Now().Add(first - s.beat)
	lastPing := lastSent
	timer := time.NewTimer(first)
	defer timer.Stop()
	if s.beat == 0 {
		timer.Stop()
	}
	s.out.signal() // for what is to be sent again
	for nonce := uint64(1); ; {
		select {
		case <-s.out.gone:
			return nil
		case <-timer.C:
			heard := s.began.Add(time.Duration(s.lastHeard.Load()))
			if heard.Before(lastPing) {
				heard = lastPing
			}
			due := lastSent
			if heard.Before(due) {
				due = heard
			}
			wait := time.Until(due.Add(s.beat))
			if wait <= 0 {
				s.out.send(&protocol.Ping{Nonce: nonce})
				nonce++
				lastPing, wait = time.Now(), s.beat
			}
			s.client.remind(s)
			timer.Reset(wait)
		case <-s.out.wake:
			buf, closing := s.out.take(spare)
			if err := writeAll(s.conn, buf, s.client.cfg.WriteTimeout); err != nil {
				return err
			}
			if len(buf) > 0 {
				lastSent = time.Now()
			}
			spare = buf
			if closing {
				return nil
			}
			s.client.resume(s)
		}
	}
}
