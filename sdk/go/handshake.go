package roost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"time"

	"github.com/roost-server/roost/protocol"
)

// closedError carries a member's CLOSE through the call stack.
type closedError struct{ frame protocol.Close }

func (e *closedError) Error() string {
	return fmt.Sprintf("closed with %s (%d): %s", e.frame.Reason, uint16(e.frame.Reason), e.frame.Message)
}

// handshake takes a fresh connection to WELCOME, and returns the HELLO that it sent.
// ctx bounds it.
func (c *Client) handshake(ctx context.Context, conn net.Conn, addr string) (*session, *protocol.Hello, error) {
	interrupt := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	s, hello, err := c.greet(ctx, conn, addr)
	if !interrupt() && err == nil {
		err = ctx.Err() // WELCOME and the end met: the connection's deadline has passed
	}
	var closed *closedError
	if err != nil && ctx.Err() != nil && !errors.As(err, &closed) {
		err = fmt.Errorf("no WELCOME within %v: %w", c.cfg.HandshakeTimeout, err)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	return s, hello, err
}

func (c *Client) greet(ctx context.Context, conn net.Conn, addr string) (*session, *protocol.Hello, error) {
	var credential []byte
	if c.cfg.Credential != nil {
		var err error
		if credential, err = c.cfg.Credential(ctx); err != nil {
			return nil, nil, fmt.Errorf("get the credential: %w", err)
		}
	}
	hello := c.hello(credential)
	first, err := encodeHello(hello)
	if err != nil {
		return nil, nil, err
	}
	s := newSession(c, conn, addr)
	if err := s.writeNow(first); err != nil {
		return nil, nil, err
	}
	challenged := false
	for {
		t, body, err := s.firstFrame()
		if err != nil {
			return nil, nil, err
		}
		switch t {
		case protocol.TypeWelcome:
			if err := s.dec.Decode(body, &s.welcome); err != nil {
				return nil, nil, s.breach(err)
			}
			if v := s.welcome.Version; v < 1 || v > protocol.Version {
				return nil, nil, s.breach(protocol.Errorf(protocol.ReasonUnsupportedVersion, "WELCOME with version %d; this node speaks 1 to %d", v, protocol.Version))
			}
			return s, hello, nil
		case protocol.TypeChallenge:
			if challenged {
				return nil, nil, s.breach(protocol.Errorf(protocol.ReasonUnexpected, "a second CHALLENGE"))
			}
			challenged = true
			if err := s.prove(ctx, body); err != nil {
				return nil, nil, err
			}
		case protocol.TypeClose:
			return nil, nil, s.closedBy(body)
		default:
			if known(t) {
				return nil, nil, s.breach(protocol.Errorf(protocol.ReasonUnexpected, "%v before WELCOME", t))
			}
		}
	}
}

// firstFrame reads a frame before WELCOME.
func (s *session) firstFrame() (protocol.Type, []byte, error) {
	for {
		t, body, size, err := s.in.buffered(protocol.MaxHelloBodyBytes)
		if err != nil {
			return 0, nil, s.breach(err)
		}
		if size > 0 {
			return t, body, nil
		}
		if err := s.in.fill(); err != nil {
			return 0, nil, err
		}
	}
}

func (s *session) prove(ctx context.Context, body []byte) error {
	var ch protocol.Challenge
	if err := s.dec.Decode(body, &ch); err != nil {
		return s.breach(err)
	}
	prove := s.client.cfg.Prove
	if prove == nil {
		prove = func(context.Context, string, []byte) ([]byte, error) { return nil, ErrUnknownMethod }
	}
	proof, err := prove(ctx, ch.Method, bytes.Clone(ch.Nonce))
	if errors.Is(err, ErrUnknownMethod) {
		pe := protocol.Errorf(protocol.ReasonUnauthenticated, "challenged with method %q, which Config.Prove does not answer", ch.Method)
		_ = s.breach(pe)
		return &CloseError{Reason: pe.Reason, Message: pe.Message, Addr: s.addr}
	}
	if err != nil {
		return fmt.Errorf("prove by method %q: %w", ch.Method, err)
	}
	frame, err := protocol.NewEncoder().Append(nil, &protocol.Proof{Method: ch.Method, Proof: proof})
	if err != nil {
		return err
	}
	return s.writeNow(frame)
}

// hello says who the node is and what it has.
func (c *Client) hello(credential []byte) *protocol.Hello {
	c.mu.Lock()
	defer c.mu.Unlock()
	hello := &protocol.Hello{
		Version: protocol.Version, NodeID: c.cfg.NodeID, Credential: credential,
		Credit: uint32(max(1, c.limit)), Agent: c.cfg.Agent, Attributes: c.attributes(),
		LastIncarnation: c.last,
	}
	for _, t := range c.liveTasks() {
		if len(hello.Running) == protocol.MaxResume {
			break
		}
		n := t.newest()
		hello.Running = append(hello.Running, protocol.Ref{JobID: n.id, Shard: n.shard, Attempt: n.attempt})
	}
	for _, h := range c.heldInOrder() {
		if len(hello.Held) == protocol.MaxResume {
			break
		}
		hello.Held = append(hello.Held, protocol.Ref{JobID: h.JobID, Shard: h.Shard, Attempt: h.Attempt})
	}
	return hello
}

func encodeHello(h *protocol.Hello) ([]byte, error) {
	frame, err := protocol.NewEncoder().Append([]byte(protocol.Preface), h)
	if err != nil {
		return nil, fmt.Errorf("make HELLO: %w", err)
	}
	return frame, nil
}

// liveTasks returns the tasks that members may wait for, in order of arrival, each
// the one that stands in the table; under mu.
func (c *Client) liveTasks() []*task {
	live := make([]*task, 0, len(c.tasks))
	for _, t := range c.tasks {
		if t.newest().state != taskEnded {
			live = append(live, t)
		}
	}
	slices.SortFunc(live, func(a, b *task) int { return int(int64(a.seq) - int64(b.seq)) })
	return live
}

func (c *Client) heldInOrder() []*heldResult {
	list := make([]*heldResult, 0, len(c.held))
	for _, h := range c.held {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b *heldResult) int { return int(int64(a.seq) - int64(b.seq)) })
	return list
}

// opened makes s the client's connection. The writer then sends, before anything of
// its own, what HELLO could not carry.
func (c *Client) opened(s *session, hello *protocol.Hello) {
	s.setLimits()
	c.mu.Lock()
	c.session = s
	c.last = s.welcome.Incarnation
	c.stats.Sessions++
	for _, h := range c.heldInOrder() {
		s.resend = append(s.resend, h.JobID)
	}
	s.hello, s.before = hello, c.seq
	resent := len(s.resend)
	c.mu.Unlock()
	c.emit(Connected{Addr: s.addr, Member: s.welcome.Member, Incarnation: s.welcome.Incarnation, Resent: resent})
}

// resume queues results that were held when the session opened, until a write's worth
// is queued; so a large outbox is not encoded at once. After the last of them come
// the jobs over the limit of HELLO, and what changed since. Called by the writer.
func (c *Client) resume(s *session) {
	if s.hello == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for bytes := 0; len(s.resend) > 0; s.resend = s.resend[1:] {
		if bytes >= writeChunk {
			return
		}
		if h := c.held[s.resend[0]]; h != nil {
			bytes += h.size()
			h.sent = time.Now()
			s.sendResult(&h.Entry)
		}
	}
	said := make(map[string]bool, len(s.hello.Running))
	for _, ref := range s.hello.Running {
		said[ref.JobID] = true
	}
	for _, t := range c.liveTasks() {
		if !said[t.id] && t.seq <= s.before {
			c.sendAccepted(t)
		}
	}
	if uint32(c.limit) != s.hello.Credit && !c.draining {
		s.out.send(&protocol.Credit{Credit: uint32(c.limit)})
	}
	if a := c.attributes(); !reflect.DeepEqual(a, s.hello.Attributes) {
		s.out.send(&protocol.AttributesUpdate{Attributes: a})
	}
	s.hello = nil
}
