// Package membertest is a small Roost member for the simulator's tests, in the spirit
// of net/http/httptest: a real listener on loopback that speaks the protocol. It opens
// sessions, takes jobs to send and hands out results. It keeps no ledger and makes no
// promise; a goroutine serves each connection.
package membertest

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Member is a running member. The fields up to the blank line are set before Start.
type Member struct {
	HeartbeatMs   uint32
	AcceptAfterMs uint32 // default 1000
	// OnAccept may refuse a connection before HELLO with the CLOSE it returns.
	OnAccept func(n int) *protocol.Close
	// OnHello may refuse a node with the CLOSE it returns; nil from it opens the session.
	OnHello func(h *protocol.Hello) *protocol.Close
	// OnResult sees each RESULT; its byte fields are valid during the call. Without it
	// the member acknowledges. It runs on the goroutine of the connection.
	OnResult func(c *Conn, r *protocol.Result)
	// OnOther sees every other frame, such as PONG; body is valid during the call.
	OnOther func(c *Conn, t protocol.Type, body []byte)
	// Chunk, when not 0, cuts every write into pieces of so many bytes.
	Chunk int

	ln       net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	accepted int
	conns    map[*Conn]struct{}
	byNode   map[string]*Conn
	hellos   []protocol.Hello
	byes     int
	pings    map[string][]time.Time
	errs     []error
}

// Conn is one connection to a member.
type Conn struct {
	m    *Member
	c    net.Conn
	Node string

	mu  sync.Mutex
	enc *protocol.Encoder
	out []byte
	err error // with which reading ended
}

// RemoteAddr is where the node connected from.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.c.RemoteAddr().(*net.TCPAddr).AddrPort() }

// Err is how the connection ended; nil while it lasts, or when the node said CLOSE.
func (c *Conn) Err() error { c.mu.Lock(); defer c.mu.Unlock(); return c.err }

// Start listens on a free port of loopback. The member is closed with the test.
func Start(t testing.TB, m *Member) *Member {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.ln, m.conns, m.byNode, m.pings = ln, map[*Conn]struct{}{}, map[string]*Conn{}, map[string][]time.Time{}
	m.wg.Go(m.accept)
	t.Cleanup(func() {
		m.Close()
		for _, err := range m.errs {
			t.Errorf("member: %v", err)
		}
	})
	return m
}

// Close stops the member and waits for its goroutines.
func (m *Member) Close() {
	_ = m.ln.Close()
	m.mu.Lock()
	for c := range m.conns {
		_ = c.c.Close()
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// Addr is where the member listens.
func (m *Member) Addr() netip.AddrPort { return m.ln.Addr().(*net.TCPAddr).AddrPort() }

// Conn returns the newest session of a node, or nil.
func (m *Member) Conn(node string) *Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byNode[node]
}

// Hellos returns every HELLO so far.
func (m *Member) Hellos() []protocol.Hello {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]protocol.Hello(nil), m.hellos...)
}

// Byes returns how many nodes said CLOSE with reason bye.
func (m *Member) Byes() int { m.mu.Lock(); defer m.mu.Unlock(); return m.byes }

// Pings returns when a node sent PING.
func (m *Member) Pings(node string) []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]time.Time(nil), m.pings[node]...)
}

func (m *Member) accept() {
	for {
		nc, err := m.ln.Accept()
		if err != nil {
			return
		}
		c := &Conn{m: m, c: nc, enc: protocol.NewEncoder()}
		m.mu.Lock()
		m.accepted++
		k := m.accepted
		m.conns[c] = struct{}{}
		m.mu.Unlock()
		m.wg.Go(func() { m.serve(c, k) })
	}
}

func (m *Member) serve(c *Conn, k int) {
	defer func() {
		_ = c.c.Close()
		m.mu.Lock()
		delete(m.conns, c)
		if m.byNode[c.Node] == c {
			delete(m.byNode, c.Node)
		}
		m.mu.Unlock()
	}()
	r := bufio.NewReader(c.c)
	pre := make([]byte, len(protocol.Preface))
	if _, err := io.ReadFull(r, pre); err != nil {
		return // a port check, or a node that gave up
	}
	if string(pre) != protocol.Preface {
		m.fail(errors.New("bad preface"))
		return
	}
	if m.OnAccept != nil {
		if cl := m.OnAccept(k); cl != nil {
			c.Send(cl)
			return
		}
	}
	dec := protocol.NewDecoder()
	for {
		t, body, err := readFrame(r)
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
		if more, err := m.frame(c, dec, t, body); err != nil {
			m.fail(err)
			return
		} else if !more {
			return
		}
	}
}

func (m *Member) fail(err error) { m.mu.Lock(); m.errs = append(m.errs, err); m.mu.Unlock() }

func readFrame(r *bufio.Reader) (protocol.Type, []byte, error) {
	h, err := r.Peek(protocol.HeaderBytes)
	if err != nil {
		return 0, nil, err
	}
	b := make([]byte, protocol.HeaderBytes+int(h[0])<<16+int(h[1])<<8+int(h[2]))
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, err
	}
	t, body, _, err := protocol.NextFrame(b, protocol.MaxBodyBytes)
	return t, body, err
}

func (m *Member) frame(c *Conn, dec *protocol.Decoder, t protocol.Type, body []byte) (more bool, err error) {
	switch t {
	case protocol.TypeHello:
		var h protocol.Hello
		if err := dec.Decode(body, &h); err != nil {
			return false, err
		}
		return m.hello(c, &h), nil
	case protocol.TypeResult:
		var r protocol.Result
		if err := dec.Decode(body, &r); err != nil {
			return false, err
		}
		if m.OnResult != nil {
			m.OnResult(c, &r)
		} else {
			c.Ack(&r)
		}
	case protocol.TypePing:
		var p protocol.Ping
		if err := dec.Decode(body, &p); err != nil {
			return false, err
		}
		m.mu.Lock()
		m.pings[c.Node] = append(m.pings[c.Node], time.Now())
		m.mu.Unlock()
		c.Send(&protocol.Pong{Nonce: p.Nonce})
	case protocol.TypeClose:
		var cl protocol.Close
		if err := dec.Decode(body, &cl); err != nil {
			return false, err
		}
		if cl.Reason == protocol.ReasonBye {
			m.mu.Lock()
			m.byes++
			m.mu.Unlock()
		}
		if m.OnOther != nil {
			m.OnOther(c, t, body)
		}
		return false, nil
	default:
		if m.OnOther != nil {
			m.OnOther(c, t, body)
		}
	}
	return true, nil
}

func (m *Member) hello(c *Conn, h *protocol.Hello) bool {
	h.Credential = append([]byte(nil), h.Credential...)
	m.mu.Lock()
	m.hellos = append(m.hellos, *h)
	k := uint64(len(m.hellos))
	m.mu.Unlock()
	if m.OnHello != nil {
		if cl := m.OnHello(h); cl != nil {
			c.Send(cl)
			return false
		}
	}
	c.Node = h.NodeID
	c.Send(&protocol.Welcome{
		Version: 1, Incarnation: k, Member: "membertest", HeartbeatMs: m.HeartbeatMs,
		AcceptAfterMs: cmp.Or(m.AcceptAfterMs, 1000), MaxBodyBytes: protocol.MaxBodyBytes, ServerTimeMs: uint64(time.Now().UnixMilli()),
	})
	m.mu.Lock()
	m.byNode[h.NodeID] = c
	m.mu.Unlock()
	return true
}

// Ack acknowledges a result.
func (c *Conn) Ack(r *protocol.Result) {
	c.Send(&protocol.ResultAck{Acks: []protocol.Ack{{JobID: r.JobID, Attempt: r.Attempt}}})
}

// Send writes messages with one write. Any goroutine may call it; a connection that is
// gone is not an error.
func (c *Conn) Send(ms ...protocol.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = c.out[:0]
	var err error
	for _, m := range ms {
		if c.out, err = c.enc.Append(c.out, m); err != nil {
			c.m.fail(err)
			return
		}
	}
	c.raw(c.out)
}

// SendRaw writes bytes as they are.
func (c *Conn) SendRaw(b []byte) { c.mu.Lock(); defer c.mu.Unlock(); c.raw(b) }

func (c *Conn) raw(b []byte) {
	step := len(b)
	if c.m.Chunk > 0 {
		step = c.m.Chunk
	}
	for len(b) > 0 {
		k := min(step, len(b))
		if _, err := c.c.Write(b[:k]); err != nil {
			return
		}
		b = b[k:]
	}
}

// Drop closes the connection without CLOSE.
func (c *Conn) Drop() { _ = c.c.Close() }
