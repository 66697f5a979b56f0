package roost

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/protocol"
)

func TestMain(m *testing.M) {
	if crashChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

const patience = 10 * time.Second

// member is a listener on loopback that a test serves by hand.
type member struct {
	t   testing.TB
	ln  net.Listener
	tls *tls.Config // nil: plain TCP
}

func newMember(t testing.TB) *member {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return &member{t: t, ln: ln}
}

func (m *member) addr() string { return m.ln.Addr().String() }

// accept waits for the next connection and reads its preface.
func (m *member) accept() *peer {
	m.t.Helper()
	require.NoError(m.t, m.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
	conn, err := m.ln.Accept()
	require.NoError(m.t, err)
	if m.tls != nil {
		conn = tls.Server(conn, m.tls)
	}
	return newPeer(m.t, conn)
}

// session accepts and welcomes.
func (m *member) session() (*peer, *protocol.Hello) {
	m.t.Helper()
	p := m.accept()
	return p, p.open()
}

// pipes is a Config.Dial whose other ends a test serves by hand.
type pipes struct {
	t     testing.TB
	peers chan net.Conn
	mu    sync.Mutex
	addrs []string
	fail  error // of the next dials
}

func newPipes(t testing.TB) *pipes { return &pipes{t: t, peers: make(chan net.Conn, 16)} }

func (p *pipes) dial(_ context.Context, _, addr string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addrs = append(p.addrs, addr)
	if p.fail != nil {
		return nil, p.fail
	}
	a, b := net.Pipe()
	p.peers <- b
	return a, nil
}

func (p *pipes) accept() *peer { p.t.Helper(); return newPeer(p.t, <-p.peers) }

func (p *pipes) session() (*peer, *protocol.Hello) {
	p.t.Helper()
	pe := p.accept()
	return pe, pe.open()
}

func (p *pipes) setFail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

func (p *pipes) dialled() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.addrs...)
}

// peer is the member's end of one connection. A goroutine reads its frames.
type peer struct {
	t      testing.TB
	conn   net.Conn
	frames chan protocol.Message // closed at the end of the connection
	enc    *protocol.Encoder
}

func newPeer(t testing.TB, conn net.Conn) *peer {
	t.Helper()
	p := &peer{t: t, conn: conn, frames: make(chan protocol.Message, 4096), enc: protocol.NewEncoder()}
	preface := make([]byte, len(protocol.Preface))
	_, err := io.ReadFull(conn, preface)
	require.NoError(t, err)
	require.Equal(t, protocol.Preface, string(preface))
	done := make(chan struct{})
	go func() { defer close(done); p.read() }()
	t.Cleanup(func() { conn.Close(); <-done })
	return p
}

func (p *peer) read() {
	defer close(p.frames)
	dec := protocol.NewDecoder()
	for {
		head := make([]byte, protocol.HeaderBytes)
		if _, err := io.ReadFull(p.conn, head); err != nil {
			return
		}
		body := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(p.conn, body); err != nil {
			return
		}
		m := fromNode(protocol.Type(head[3]))
		if m == nil || dec.Decode(body, m) != nil {
			p.t.Errorf("the node sent a bad %v frame", protocol.Type(head[3]))
			return
		}
		p.frames <- m
	}
}

func fromNode(t protocol.Type) protocol.Message {
	switch t {
	case protocol.TypeHello:
		return &protocol.Hello{}
	case protocol.TypeProof:
		return &protocol.Proof{}
	case protocol.TypeAccepted:
		return &protocol.Accepted{}
	case protocol.TypeProgress:
		return &protocol.Progress{}
	case protocol.TypeResult:
		return &protocol.Result{}
	case protocol.TypeCredit:
		return &protocol.Credit{}
	case protocol.TypeAttributes:
		return &protocol.AttributesUpdate{}
	case protocol.TypePing:
		return &protocol.Ping{}
	case protocol.TypePong:
		return &protocol.Pong{}
	case protocol.TypeClose:
		return &protocol.Close{}
	}
	return nil
}

// next returns the next frame, or nil at the end of the connection.
func (p *peer) next() protocol.Message {
	p.t.Helper()
	select {
	case m := <-p.frames:
		return m
	case <-time.After(time.Hour): // fake time in synctest; else go test's own timeout is earlier
		require.Fail(p.t, "no frame from the node")
		return nil
	}
}

// expect reads a frame of the type M.
func expect[M protocol.Message](p *peer) M {
	p.t.Helper()
	m := p.next()
	got, ok := m.(M)
	require.True(p.t, ok, "got %T %+v instead", m, m)
	return got
}

// gone reads to the end of the connection.
func (p *peer) gone() {
	p.t.Helper()
	for p.next() != nil {
	}
}

func (p *peer) send(msgs ...protocol.Message) {
	p.t.Helper()
	var b []byte
	for _, m := range msgs {
		var err error
		b, err = p.enc.Append(b, m)
		require.NoError(p.t, err)
	}
	p.write(b)
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	_, err := p.conn.Write(b)
	require.NoError(p.t, err)
}

var quietWelcome = protocol.Welcome{
	Version: 1, Incarnation: 7, Member: "m1", HeartbeatMs: 300_000, AcceptAfterMs: 600_000, MaxBodyBytes: protocol.MaxBodyBytes,
}

// open takes HELLO and answers with quietWelcome.
func (p *peer) open() *protocol.Hello {
	p.t.Helper()
	h := expect[*protocol.Hello](p)
	w := quietWelcome
	p.send(&w)
	return h
}

// job sends a JOB with args as its arguments.
func (p *peer) job(id string, attempt uint32, kind string, args any) {
	p.t.Helper()
	p.send(newJob(p.t, id, attempt, kind, args))
}

func newJob(t testing.TB, id string, attempt uint32, kind string, args any) *protocol.Job {
	raw, err := msgpack.Marshal(args)
	require.NoError(t, err)
	return &protocol.Job{JobID: []byte(id), Shard: 3, Attempt: attempt, Kind: []byte(kind), TimeoutMs: 60_000, Priority: 4, Args: raw}
}

func (p *peer) ack(id string, attempt uint32) {
	p.t.Helper()
	p.send(&protocol.ResultAck{Acks: []protocol.Ack{{JobID: []byte(id), Attempt: attempt}}})
}

// result takes a RESULT and checks what it is for.
func (p *peer) result(id string, attempt uint32, outcome protocol.Outcome) *protocol.Result {
	p.t.Helper()
	r := expect[*protocol.Result](p)
	require.Equal(p.t, id, string(r.JobID))
	require.Equal(p.t, attempt, r.Attempt, "attempt of %s", id)
	require.Equal(p.t, outcome, r.Outcome, "error text: %s", r.Error)
	require.EqualValues(p.t, 3, r.Shard)
	return r
}

// node is a client under test with Run on a goroutine.
type node struct {
	*Client
	t      testing.TB
	events chan Event
	stop   context.CancelFunc
	done   chan error
}

// startNode runs a client of cfg, which needs no NodeID. setup may add handlers.
func startNode(t testing.TB, cfg Config, setup func(c *Client)) *node {
	t.Helper()
	n := &node{t: t, events: make(chan Event, 4096), done: make(chan error, 1)}
	if cfg.NodeID == "" {
		cfg.NodeID = "node-1"
	}
	cfg.OnEvent = func(e Event) {
		select {
		case n.events <- e:
		default:
		}
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = time.Millisecond // tests that leave results unacknowledged
	}
	c, err := New(cfg)
	require.NoError(t, err)
	n.Client = c
	if setup != nil {
		setup(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.done <- c.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return n
}

// awaitEvent returns the next event of type E, dropping others.
func awaitEvent[E Event](n *node) E {
	n.t.Helper()
	for {
		select {
		case e := <-n.events:
			if got, ok := e.(E); ok {
				return got
			}
		case <-time.After(time.Hour):
			var want E
			require.Fail(n.t, "no event", "%T", want)
		}
	}
}

// wait returns what Run returned.
func (n *node) wait() error {
	n.t.Helper()
	select {
	case err := <-n.done:
		return err
	case <-time.After(time.Hour):
		require.Fail(n.t, "Run does not return")
		return nil
	}
}

func echo(_ context.Context, j Job) (Result, error) {
	return OK(msgpack.RawMessage(j.Args())), nil
}

var errTest = errors.New("no luck")
