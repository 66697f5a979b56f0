package gate

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// testLoop is an event loop without sockets: one goroutine that runs functions.
type testLoop struct {
	decoder *protocol.Decoder
	mu      sync.Mutex
	queue   []func()
	wake    chan struct{}
	over    bool
	ended   chan struct{}
}

func newLoop() *testLoop {
	l := &testLoop{decoder: protocol.NewDecoder(), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go l.run()
	return l
}

func (l *testLoop) run() {
	defer close(l.ended)
	for range l.wake {
		for {
			l.mu.Lock()
			fns := l.queue
			l.queue = nil
			over := l.over
			l.mu.Unlock()
			for _, fn := range fns {
				fn()
			}
			if len(fns) == 0 {
				if over {
					return
				}
				break
			}
		}
	}
}

// Execute implements Loop.
func (l *testLoop) Execute(fn func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return errors.New("the loop has ended")
	}
	l.queue = append(l.queue, fn)
	l.poke()
	return nil
}

func (l *testLoop) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Decoder implements Loop.
func (l *testLoop) Decoder() *protocol.Decoder { return l.decoder }

// do runs fn on the loop and waits for it.
func (l *testLoop) do(fn func()) {
	done := make(chan struct{})
	if l.Execute(func() { defer close(done); fn() }) != nil {
		panic("the loop has ended")
	}
	<-done
}

func (l *testLoop) end() {
	l.mu.Lock()
	l.over = true
	l.poke()
	l.mu.Unlock()
	<-l.ended
}

// testConn is a connection without a socket; it belongs to its loop.
type testConn struct {
	h       *harness
	ctx     any
	log     []string
	closed  bool
	dead    bool // gone before Establish
	panicOn string
	enc     *protocol.Encoder
	dec     *protocol.Decoder
}

// Append implements session.Conn: what is sent is encoded and read as a node would.
func (c *testConn) Append(m protocol.Message) error {
	if c.closed {
		return errors.New("closed")
	}
	b, err := c.enc.Append(nil, m)
	if err != nil {
		return err
	}
	t, body, size, err := protocol.NextFrame(b, protocol.MaxBodyBytes)
	require.NoError(c.h.t, err)
	require.Len(c.h.t, b, size)
	line := c.read(t, body)
	if c.panicOn != "" && strings.HasPrefix(line, c.panicOn) {
		panic("the connection fails on " + line)
	}
	c.log = append(c.log, line)
	return nil
}

func (c *testConn) read(t protocol.Type, body []byte) string {
	decode := func(m protocol.Message) { require.NoError(c.h.t, c.dec.Decode(body, m)) }
	switch t {
	case protocol.TypeWelcome:
		var m protocol.Welcome
		decode(&m)
		return "WELCOME " + m.Member
	case protocol.TypeJob:
		var m protocol.Job
		decode(&m)
		return fmt.Sprintf("JOB %s#%d %s", m.JobID, m.Attempt, m.Kind)
	case protocol.TypeCancel:
		var m protocol.Cancel
		decode(&m)
		return fmt.Sprintf("CANCEL %s#%d", m.JobID, m.Attempt)
	case protocol.TypeResultAck:
		var m protocol.ResultAck
		decode(&m)
		line := "ACK"
		for _, a := range m.Acks {
			line += fmt.Sprintf(" %s#%d", a.JobID, a.Attempt)
		}
		return line
	case protocol.TypePong:
		var m protocol.Pong
		decode(&m)
		return fmt.Sprintf("PONG %d", m.Nonce)
	case protocol.TypeGoAway:
		var m protocol.GoAway
		decode(&m)
		return strings.TrimSpace(fmt.Sprintf("GOAWAY %v %d %s %s", m.Reason, m.JitterMs, m.Message, strings.Join(m.Addresses, ",")))
	}
	return t.String()
}

// Close implements session.Conn.
func (c *testConn) Close(r protocol.Reason, _ string, _ time.Duration) { c.end("CLOSE " + r.String()) }

// CloseSilently implements session.Conn.
func (c *testConn) CloseSilently(r protocol.Reason) { c.end("closed silently " + r.String()) }

func (c *testConn) end(line string) {
	if c.closed {
		return
	}
	c.closed = true
	c.log = append(c.log, line)
	_ = c.h.loop.Execute(func() { c.h.door.Closed(c) })
}

// Establish implements Conn.
func (c *testConn) Establish(time.Duration) bool { return !c.dead }

// SetContext implements Conn.
func (c *testConn) SetContext(ctx any) { c.ctx = ctx }

// Context implements Conn.
func (c *testConn) Context() any { return c.ctx }

// harness is one gate with its loop.
type harness struct {
	t      testing.TB
	loop   *testLoop
	door   *Door
	system *actor.ActorSystem
	pid    *actor.PID
	stats  *Stats
	shards *testShards
	lost   atomic.Int64 // messages to actors that are gone
	nowMs  atomic.Int64
}

// testShards notes what gates tell.
type testShards struct {
	mu     sync.Mutex
	log    []string
	here   func(shard uint32) bool
	quiet  bool
	panics bool
}

// Send implements Shards.
func (s *testShards) Send(shard uint32, b *actors.FromGate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer b.Release()
	if s.panics {
		s.panics = false
		panic("the router fails")
	}
	if s.here != nil && !s.here(shard) {
		return false
	}
	if s.quiet {
		return true
	}
	add := func(format string, args ...any) {
		s.log = append(s.log, fmt.Sprintf("shard %d: ", shard)+fmt.Sprintf(format, args...))
	}
	for _, x := range b.Results {
		add("result %s#%d of %s: %v %s", x.JobID, x.Attempt, x.Node, x.Outcome, x.Output)
	}
	for _, x := range b.Progress {
		add("progress %s of %s %s", x.JobID, x.Node, x.Data)
	}
	for _, x := range b.Registrations {
		add("register %s %s", x.Node, strings.Join(x.Profile.Kinds, ","))
	}
	names := [...]string{"undelivered", "queued", "sent", "busy", "accepted", "running", "held", "lost"}
	for _, x := range b.Notices {
		add("%s %s#%d of %s", names[x.Kind], x.JobID, x.Attempt, x.Node)
	}
	for _, x := range b.Departures {
		add("depart %s", x.Node)
	}
	return true
}

func (s *testShards) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.log
	s.log = nil
	return out
}

func newHarness(t testing.TB, index uint32, cfg Config) *harness {
	h := &harness{t: t, loop: newLoop(), stats: &Stats{}, shards: &testShards{}}
	cfg.Member, cfg.Heartbeat, cfg.Stats = "m", time.Second, h.stats
	if cfg.Partitions == 0 {
		cfg.Partitions = 1
	}
	if cfg.Shards == nil {
		cfg.Shards = h.shards
	}
	h.nowMs.Store(1_700_000_000_000)
	cfg.NowMs = h.nowMs.Load
	h.door = NewDoor(&cfg, index, h.loop)
	h.system = quietSystem()
	h.system.EventStream.Subscribe(func(e any) {
		if _, ok := e.(*actor.DeadLetterEvent); ok {
			h.lost.Add(1)
		}
	})
	stop := actor.NewOneForOneStrategy(0, 0, func(any) actor.Directive { return actor.StopDirective })
	h.pid = h.system.Root.Spawn(h.door.Props(stop))
	t.Cleanup(func() {
		if _, alive := h.system.ProcessRegistry.GetLocal(h.pid.Id); alive {
			require.NoError(t, h.system.Root.StopFuture(h.pid).Wait())
		}
		h.loop.end()
		require.Zero(t, h.lost.Load(), "messages for actors that are gone")
		h.system.Shutdown()
	})
	return h
}

func (h *harness) conn() *testConn {
	return &testConn{h: h, enc: protocol.NewEncoder(), dec: protocol.NewDecoder()}
}

// frame gives the gate a frame of the connection's, and ends the connection for an
// error as the transport does.
func (h *harness) frame(c *testConn, m protocol.Message) (err error) {
	h.loop.do(func() { err = h.frameOnLoop(c, m) })
	return err
}

func (h *harness) frameOnLoop(c *testConn, m protocol.Message) error {
	b, err := c.enc.Append(nil, m)
	require.NoError(h.t, err)
	return h.raw(c, m.Type(), b[protocol.HeaderBytes:])
}

func (h *harness) raw(c *testConn, t protocol.Type, body []byte) error {
	err := h.door.Frame(c, t, body)
	if err != nil {
		c.Close(protocol.ReasonOf(err), "", 0)
	}
	return err
}

func helloOf(node string) *protocol.Hello {
	return &protocol.Hello{Version: protocol.Version, NodeID: node, Credit: 1, Agent: "test",
		Attributes: protocol.Attributes{Country: "AU", Kinds: []string{"ping"}}}
}

// open connects a node.
func (h *harness) open(node string) *testConn {
	c := h.conn()
	require.NoError(h.t, h.frame(c, helloOf(node)))
	return c
}

// settle waits until the loop has nothing to do and the gate's mailbox is empty.
func (h *harness) settle() {
	for range 10 {
		h.loop.do(func() {})
	}
}

// sent returns what was sent to the node since the last call.
func (h *harness) sent(c *testConn) (out []string) {
	h.settle()
	h.loop.do(func() { out, c.log = c.log, nil })
	return out
}

// told returns what shards were told since the last call.
func (h *harness) told() []string {
	h.settle()
	return h.shards.take()
}

func (h *harness) send(m any) { h.system.Root.Send(h.pid, m) }

func (h *harness) deliver(node string, jobs ...string) {
	b := actors.NewToGate()
	for _, j := range jobs {
		b.Deliveries = append(b.Deliveries, actors.Delivery{Node: node, JobID: j, Kind: "ping", Attempt: 1, Args: []byte{0xc0}})
	}
	h.send(b)
}

func resultOf(job string) *protocol.Result {
	return &protocol.Result{JobID: []byte(job), Attempt: 1, Outcome: protocol.OutcomeOK, Output: []byte{0xa1, 'x'}}
}

func quietSystem() *actor.ActorSystem {
	return actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
}
