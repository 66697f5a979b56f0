package nodes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/roost-server/roost/protocol"
)

const (
	openTimeout  = 5 * time.Second
	writeTimeout = 5 * time.Second
	outgoing     = 1024 // messages that wait for a socket
	backoffMin   = 100 * time.Millisecond
	backoffMax   = 2 * time.Second
)

// link is a node's way to one member: a connection after the other.
type link struct {
	node          *node
	addr          string
	acceptAfterMs uint32 // of the newest WELCOME; under the node's mu
	way           *way   // of a node with one session; else nil. Of the reader alone
	member        string // the name in the newest WELCOME; of the reader alone

	mu   sync.Mutex
	conn net.Conn
	out  chan []byte // nil while there is no session
}

// send hands frames to the session, if there is one: a result waits in the outbox.
func (l *link) send(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil || len(b) == 0 {
		return
	}
	select {
	case l.out <- b:
	default:
		l.conn.Close() // it does not read
	}
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.Close()
	}
}

// run opens one session after the other until ctx ends.
func (l *link) run(ctx context.Context) {
	failed := 0
	for ctx.Err() == nil {
		policy, held := l.session(ctx)
		if held {
			failed = 0
		}
		wait := min(backoffMax, backoffMin<<min(failed, 8))
		if policy == protocol.ReconnectNow {
			wait = 300 * time.Millisecond
		}
		failed++
		l.node.mu.Lock()
		wait = time.Duration(l.node.rng.Int64N(int64(wait)))
		l.node.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// session is one connection. It tells how fast to come back, and whether it was opened.
func (l *link) session(ctx context.Context) (policy protocol.Policy, held bool) {
	policy = protocol.ReconnectBackoff
	dialer := net.Dialer{Timeout: openTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return policy, false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	_ = conn.SetDeadline(time.Now().Add(openTimeout))
	if _, err := conn.Write(l.node.hello()); err != nil {
		return policy, false
	}
	s := &session{link: l, conn: conn, dec: protocol.NewDecoder(), silence: openTimeout}
	err = s.read()
	s.close()
	if s.open {
		l.node.fleet.sessions.note(false, l.node.id, l.member, err.Error())
	}
	var closed *closedError
	if errors.As(err, &closed) {
		policy = closed.reason.Policy()
		if policy == protocol.ReconnectNever && closed.reason != protocol.ReasonReplaced {
			l.node.fleet.blame(fmt.Sprintf("node %s was told never to come back: %v %s", l.node.id, closed.reason, closed.message))
		}
	} else if bad := new(protocol.Error); errors.As(err, &bad) {
		l.node.fleet.blame(fmt.Sprintf("node %s was sent what cannot be understood: %v", l.node.id, err))
	}
	return policy, s.open
}

// session is an open or opening connection, of its reader.
type session struct {
	link    *link
	conn    net.Conn
	dec     *protocol.Decoder
	open    bool
	silence time.Duration
	out     chan []byte
	written chan struct{}
	goodbye *time.Timer // after GOAWAY; else nil
}

type closedError struct {
	reason  protocol.Reason
	message string
}

func (e *closedError) Error() string { return fmt.Sprintf("CLOSE %v: %s", e.reason, e.message) }

func (s *session) read() error {
	buf, have := make([]byte, 4<<10), 0
	for {
		_ = s.conn.SetReadDeadline(time.Now().Add(s.silence))
		n, err := s.conn.Read(buf[have:])
		have += n
		used := 0
		for {
			t, body, size, err := protocol.NextFrame(buf[used:have], protocol.MaxBodyBytes)
			if err != nil {
				return err
			}
			if size == 0 {
				break
			}
			if err := s.frame(t, body); err != nil {
				return err
			}
			used += size
		}
		have = copy(buf, buf[used:have])
		if have == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrNoProgress
		}
	}
}

func (s *session) frame(t protocol.Type, body []byte) error {
	n := s.link.node
	switch t {
	case protocol.TypeWelcome:
		return s.welcome(body)
	case protocol.TypeJob:
		var m protocol.Job
		if err := s.dec.Decode(body, &m); err != nil {
			return err
		}
		n.job(s.link, &m)
	case protocol.TypeResultAck:
		var m protocol.ResultAck
		if err := s.dec.Decode(body, &m); err != nil {
			return err
		}
		n.acks(&m)
	case protocol.TypeCancel:
		var m protocol.Cancel
		if err := s.dec.Decode(body, &m); err != nil {
			return err
		}
		n.cancel(s.link, &m)
	case protocol.TypePing:
		var m protocol.Ping
		if err := s.dec.Decode(body, &m); err != nil {
			return err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		s.link.send(n.frame(&protocol.Pong{Nonce: m.Nonce}))
	case protocol.TypeGoAway:
		if s.link.way != nil {
			return s.goAway(body)
		}
		return &closedError{protocol.ReasonDrain, "GOAWAY"}
	case protocol.TypeClose:
		var m protocol.Close
		if err := s.dec.Decode(body, &m); err != nil {
			return err
		}
		if s.link.way != nil {
			s.link.way.closed(&m)
		}
		return &closedError{m.Reason, m.Message}
	}
	return nil
}

// welcome opens the session: first of all goes out what the node holds.
func (s *session) welcome(body []byte) error {
	var m protocol.Welcome
	if err := s.dec.Decode(body, &m); err != nil {
		return err
	}
	if s.open {
		return protocol.Errorf(protocol.ReasonUnexpected, "WELCOME in an open session")
	}
	s.open = true
	s.silence = time.Duration(m.HeartbeatMs) * time.Millisecond * 5 / 2
	s.out, s.written = make(chan []byte, outgoing), make(chan struct{})
	n, l := s.link.node, s.link
	n.mu.Lock()
	first := n.welcomed()
	l.acceptAfterMs = m.AcceptAfterMs
	l.mu.Lock()
	l.out = s.out
	l.mu.Unlock()
	n.mu.Unlock()
	n.fleet.stats.sessions.Add(1)
	l.member = m.Member
	n.fleet.sessions.note(true, n.id, m.Member, "")
	go s.write(first, time.Duration(m.HeartbeatMs)*time.Millisecond/2)
	return nil
}

// write is the goroutine that writes, and keeps the session alive.
func (s *session) write(first []byte, every time.Duration) {
	defer close(s.written)
	defer s.conn.Close()
	ping, err := protocol.NewEncoder().Append(nil, &protocol.Ping{Nonce: 1})
	if err != nil {
		return
	}
	idle := time.NewTimer(every)
	defer idle.Stop()
	b := first
	for {
		if len(b) > 0 {
			_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := s.conn.Write(b); err != nil {
				return
			}
		}
		idle.Reset(every)
		var more bool
		select {
		case b, more = <-s.out:
			if !more {
				return
			}
		case <-idle.C:
			b = ping
		}
	}
}

// close ends the writer.
func (s *session) close() {
	l := s.link
	if s.goodbye != nil {
		s.goodbye.Stop()
	}
	l.mu.Lock()
	l.out, l.conn = nil, nil
	l.mu.Unlock()
	s.conn.Close()
	if s.out != nil {
		close(s.out)
		<-s.written
		l.node.fleet.stats.sessions.Add(-1)
	}
}
