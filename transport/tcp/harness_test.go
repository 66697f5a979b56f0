package tcp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/roost-server/roost/protocol"
)

// patience bounds every wait of the tests; nothing measures with it.
const patience = 20 * time.Second

// testConfig has short times and few connections.
func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	cfg.Loops = 2
	cfg.Tick = 10 * time.Millisecond
	cfg.MaxConns = 1000
	cfg.CloseLinger = time.Second
	return cfg
}

// ended is one call of Closed.
type ended struct {
	c      *Conn
	reason protocol.Reason
	err    error
	addr   string
}

// node is the handler of the tests: it welcomes every HELLO and answers pings.
type node struct {
	idle    time.Duration
	onFrame func(c *Conn, t protocol.Type, body []byte) (handled bool, err error)

	mu    sync.Mutex
	loops []*Loop
	conns []*Conn // in the order of their HELLO
	ends  []ended
}

func (n *node) LoopStarted(l *Loop) LoopHandler {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loops = append(n.loops, l)
	return &nodeLoop{node: n}
}

func (n *node) closed() []ended {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]ended(nil), n.ends...)
}

func (n *node) conn(i int) *Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conns[i]
}

type nodeLoop struct {
	node  *node
	hello protocol.Hello
	ping  protocol.Ping
	pong  protocol.Pong
	close protocol.Close
}

func (h *nodeLoop) Frame(c *Conn, t protocol.Type, body []byte) error {
	if h.node.onFrame != nil {
		if handled, err := h.node.onFrame(c, t, body); handled || err != nil {
			return err
		}
	}
	d := c.Loop().Decoder()
	switch t {
	case protocol.TypeHello:
		if err := d.Decode(body, &h.hello); err != nil {
			return err
		}
		idle := h.node.idle
		if idle == 0 {
			idle = time.Minute
		}
		if !c.Establish(idle) {
			return errors.New("not established")
		}
		h.node.mu.Lock()
		h.node.conns = append(h.node.conns, c)
		h.node.mu.Unlock()
		return c.Append(&protocol.Welcome{Version: 1, Member: "test", HeartbeatMs: 1000})
	case protocol.TypePing:
		if err := d.Decode(body, &h.ping); err != nil {
			return err
		}
		h.pong.Nonce = h.ping.Nonce
		return c.Append(&h.pong)
	case protocol.TypeClose:
		if err := d.Decode(body, &h.close); err != nil {
			return err
		}
		c.CloseSilently(h.close.Reason)
		return nil
	case protocol.TypeResult: // taken, not answered
		return nil
	}
	return protocol.Errorf(protocol.ReasonUnexpected, "%v", t)
}

func (h *nodeLoop) Closed(c *Conn, reason protocol.Reason, err error) {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	h.node.ends = append(h.node.ends, ended{c, reason, err, c.RemoteAddr()})
}

func start(t testing.TB, cfg Config, h Handler) *Server {
	t.Helper()
	s, err := Start(context.Background(), cfg, h, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, s.Stop(ctx, protocol.ReasonShutdown, "the test is over"))
	st := s.Stats()
	require.Zero(t, st.Open)
	require.Zero(t, st.Handshaking)
	require.Zero(t, st.Established)
	require.Zero(t, st.Lingering)
}

// client is the other end: a real socket.
type client struct {
	t   testing.TB
	c   *net.TCPConn
	r   *bufio.Reader
	enc *protocol.Encoder
	dec *protocol.Decoder
}

func dial(t testing.TB, s *Server) *client {
	t.Helper()
	return dialAddr(t, s.Addr().String())
}

func dialAddr(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return &client{t: t, c: c.(*net.TCPConn), r: bufio.NewReader(c), enc: protocol.NewEncoder(), dec: protocol.NewDecoder()}
}

// join dials and does the handshake.
func join(t testing.TB, s *Server) *client {
	t.Helper()
	c := dial(t, s)
	c.write(c.frames([]byte(protocol.Preface), hello()))
	c.want(&protocol.Welcome{})
	return c
}

func hello() *protocol.Hello {
	return &protocol.Hello{Version: 1, NodeID: "node-1", Credit: 4, Agent: "test/1"}
}

func (c *client) frames(dst []byte, ms ...protocol.Message) []byte {
	for _, m := range ms {
		var err error
		dst, err = c.enc.Append(dst, m)
		require.NoError(c.t, err)
	}
	return dst
}

func (c *client) write(b []byte) {
	c.t.Helper()
	_, err := c.c.Write(b)
	require.NoError(c.t, err)
}

func (c *client) send(ms ...protocol.Message) {
	c.t.Helper()
	c.write(c.frames(nil, ms...))
}

// read returns the next frame's type and body.
func (c *client) read() (protocol.Type, []byte, error) {
	head := make([]byte, protocol.HeaderBytes)
	if _, err := io.ReadFull(c.r, head); err != nil {
		return 0, nil, err
	}
	body := make([]byte, frameSize(head)-protocol.HeaderBytes)
	_, err := io.ReadFull(c.r, body)
	return protocol.Type(head[3]), body, err
}

// want reads the next frame into m.
func (c *client) want(m protocol.Message) {
	c.t.Helper()
	typ, body, err := c.read()
	require.NoError(c.t, err)
	require.Equal(c.t, m.Type(), typ)
	require.NoError(c.t, c.dec.Decode(body, m))
}

// wantClose reads CLOSE and then the end of the stream.
func (c *client) wantClose(reason protocol.Reason) protocol.Close {
	c.t.Helper()
	var m protocol.Close
	c.want(&m)
	require.Equal(c.t, reason, m.Reason, m.Message)
	c.wantEnd()
	return m
}

// wantCloseAfter joins, has end end the server, and takes the CLOSE meanwhile.
func (c *client) wantCloseAfter(end func()) {
	c.t.Helper()
	c.write(c.frames([]byte(protocol.Preface), hello()))
	c.want(&protocol.Welcome{})
	done := make(chan struct{})
	go func() { defer close(done); end() }()
	c.wantClose(protocol.ReasonShutdown)
	require.NoError(c.t, c.c.Close())
	<-done
}

func (c *client) wantEnd() {
	c.t.Helper()
	_, _, err := c.read()
	require.ErrorIs(c.t, err, io.EOF)
}

// ping makes sure that the connection lives.
func (c *client) ping(nonce uint64) {
	c.t.Helper()
	c.send(&protocol.Ping{Nonce: nonce})
	var m protocol.Pong
	c.want(&m)
	require.Equal(c.t, nonce, m.Nonce)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, 2*time.Millisecond, what)
}

// on runs fn on the connection's loop and waits.
func on(t testing.TB, l *Loop, fn func()) {
	t.Helper()
	done := make(chan struct{})
	require.NoError(t, l.Execute(func() { defer close(done); fn() }))
	select {
	case <-done:
	case <-time.After(patience):
		require.Fail(t, "the loop does not run what it is given")
	}
}

func result(n int) *protocol.Result {
	out := make([]byte, 0, n+5)
	out = append(out, 0xc6, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	return &protocol.Result{JobID: []byte("job"), Output: append(out, make([]byte, n)...)}
}

func (e ended) String() string { return fmt.Sprintf("%v (%v) from %s", e.reason, e.err, e.addr) }
