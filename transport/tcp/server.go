package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/roost-server/roost/protocol"
)

// Handler gives each loop what handles its connections.
type Handler interface {
	// LoopStarted is called for each event loop, on its goroutine, before its first
	// connection is handed over; once, unless it panics or returns nil: then that
	// connection is refused and it is called again for the next. A loop that never gets a
	// connection is never started.
	LoopStarted(l *Loop) LoopHandler
}

// LoopHandler handles the connections of one loop. Every method is called on the
// loop's goroutine and must not block: all connections of the loop wait meanwhile.
type LoopHandler interface {
	// Frame is called for each whole frame after the preface. body aliases the read
	// buffer and is valid only until Frame returns. An error closes the connection: a
	// *protocol.Error with its reason and message, any other with internal error. A
	// panic does the same and is logged.
	Frame(c *Conn, t protocol.Type, body []byte) error

	// Closed is called exactly once for each connection that was established, after
	// it became unusable, never from within another method: at the end of the batch.
	// reason is the one given to Close or CloseSilently, or bye when the peer's socket
	// closed or broke, or heartbeat timeout. err is the cause when there is one more
	// precise: io.EOF, the error of a read or write, or what Frame returned.
	Closed(c *Conn, reason protocol.Reason, err error)
}

// Server is a running server. Its methods may be called from any goroutine.
type Server struct {
	// set at the start
	cfg     Config
	limits  ceilings
	handler Handler
	log     *zap.Logger
	addr    net.Addr
	began   time.Time
	accepts *rate

	helloTicks, frameTicks, lingerTicks uint32

	// shared by the loops
	open        atomic.Int64 // admitted sockets, held against limits.admitted
	refusing    atomic.Int64 // refused sockets, held against limits.refused
	handshaking atomic.Int64
	no          atomic.Pointer[refusal] // told to every new connection while set
	stopping    atomic.Bool
	left        atomic.Int64 // sockets that Stop had to cut
	proxyWarned atomic.Int64 // ns since began, of the last warning; 0: none

	engine  gnet.Engine   // valid once started is closed
	started chan struct{} // closed by the first tick: all loops run
	done    chan struct{} // closed when the engine has ended
	err     error         // why; valid once done is closed

	mu    sync.Mutex // guards additions
	loops atomic.Pointer[[]*Loop]
	byEl  sync.Map // gnet.EventLoop → *Loop
}

// Start listens and returns once all loops run. ctx bounds the start alone. Errors
// name the setting, or the address.
func Start(ctx context.Context, cfg Config, h Handler, log *zap.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	files, err := raiseFileLimit()
	if err != nil {
		return nil, err
	}
	limits, err := cfg.plan(files)
	if err != nil {
		return nil, err
	}
	held, err := reserve(cfg.Listen)
	if err != nil {
		return nil, err
	}
	defer held.release()

	s := &Server{
		cfg: cfg, limits: limits, handler: h, log: log, addr: held.addr, began: time.Now(),
		accepts:    newRate(cfg.AcceptRate),
		helloTicks: cfg.ticks(cfg.HelloTimeout), frameTicks: cfg.ticks(cfg.FrameTimeout), lingerTicks: cfg.ticks(cfg.CloseLinger),
		started: make(chan struct{}), done: make(chan struct{}),
	}
	s.loops.Store(new([]*Loop))
	go s.run(held.url)
	select {
	case <-s.started:
		return s, nil
	case <-s.done:
		return nil, fmt.Errorf("tcp: listening on %s: %w", cfg.Listen, s.err)
	case <-ctx.Done():
		select { // there is no engine to halt before
		case <-s.started:
		case <-s.done:
		}
		s.halt()
		<-s.done
		return nil, fmt.Errorf("tcp: listening on %s: %w", cfg.Listen, ctx.Err())
	}
}

// run runs the engine until it ends.
func (s *Server) run(url string) {
	defer close(s.done)
	err := gnet.Run(&events{s: s}, url,
		gnet.WithNumEventLoop(s.cfg.loops()), gnet.WithReusePort(true), gnet.WithReuseAddr(true),
		gnet.WithTicker(true), gnet.WithTCPNoDelay(gnet.TCPNoDelay),
		gnet.WithLogger(s.log.Named("gnet").WithOptions(zap.IncreaseLevel(zap.WarnLevel)).Sugar()))
	if err == nil && !s.stopping.Load() {
		err = errors.New("tcp: the event loops ended; gnet does so when accept fails, see its message in the log")
	}
	s.err = err
}

// Addr returns the address that is listened on, with the real port.
func (s *Server) Addr() net.Addr { return s.addr }

// Done is closed when the server has ended, by Stop or because the engine failed.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the server ended; nil while it runs and after Stop.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stats returns the numbers of now. It locks nothing and costs about as much as
// reading a hundred integers for each loop.
func (s *Server) Stats() Stats {
	out := Stats{MaxConns: s.limits.admitted, Closed: make(map[protocol.Reason]uint64)}
	for _, l := range *s.loops.Load() {
		l.stats.addTo(&out)
	}
	return out
}

// clock returns Unix milliseconds and the tick, both by the monotonic clock.
func (s *Server) clock() (nowMs int64, tick uint32) {
	past := time.Since(s.began)
	return s.began.UnixMilli() + past.Milliseconds(), uint32(past / s.cfg.Tick)
}

// loopOf returns the loop of el, which is the caller's, and starts it when it is new.
func (s *Server) loopOf(el gnet.EventLoop) *Loop {
	if l, ok := s.byEl.Load(el); ok && l.(*Loop).handler != nil {
		return l.(*Loop)
	}
	l := s.addLoop(el)
	l.start()
	return l
}

func (s *Server) addLoop(el gnet.EventLoop) *Loop {
	if l, ok := s.byEl.Load(el); ok {
		return l.(*Loop) // whose start has panicked
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.loops.Load()
	l := newLoop(s, el)
	l.index = len(old)
	loops := append(old[:len(old):len(old)], l)
	s.loops.Store(&loops)
	s.byEl.Store(el, l)
	return l
}

// start asks for the loop's handler.
func (l *Loop) start() {
	was := l.begin()
	var err error // logged by catch; open refuses without a handler
	func() {
		defer l.catch("LoopStarted", &err)
		l.handler = l.server.handler.LoopStarted(l)
	}()
	l.end(was)
}

// events is the server as gnet sees it. There is no recover in gnet, so there is one
// in each method.
type events struct {
	gnet.BuiltinEventEngine
	s *Server
}

func (e *events) OnBoot(engine gnet.Engine) gnet.Action {
	e.s.engine = engine
	return gnet.None
}

func (e *events) OnOpen(gc gnet.Conn) (_ []byte, action gnet.Action) {
	defer e.s.rescue(nil, false, &action)
	e.s.loopOf(gc.EventLoop()).open(gc)
	return nil, gnet.None
}

func (e *events) OnTraffic(gc gnet.Conn) (action gnet.Action) {
	c, ok := gc.Context().(*Conn)
	if !ok {
		return gnet.Close // a panic in OnOpen
	}
	defer e.s.rescue(c.loop, c.loop.busy, &action)
	c.loop.traffic(c, gc)
	return gnet.None
}

func (e *events) OnClose(gc gnet.Conn, err error) (action gnet.Action) {
	c, ok := gc.Context().(*Conn)
	if !ok {
		return gnet.None
	}
	defer e.s.rescue(c.loop, c.loop.busy, &action)
	c.loop.closed(c, err)
	return gnet.None
}

// OnTick comes on a goroutine of its own; the first time says that all loops run.
func (e *events) OnTick() (time.Duration, gnet.Action) {
	s := e.s
	select {
	case <-s.started:
	default:
		close(s.started)
	}
	for _, l := range *s.loops.Load() {
		if l.ticking.CompareAndSwap(false, true) { // one is enough for a loop that is late
			_ = l.Execute(l.onTick) // refused only when stopped
		}
	}
	return s.cfg.Tick, gnet.None
}

// rescue is deferred in gnet's callbacks: the handlers' panics are caught closer to
// them, so this is a fault of this package. The connection is closed.
func (s *Server) rescue(l *Loop, busy bool, action *gnet.Action) {
	p := recover()
	if p == nil {
		return
	}
	*action = gnet.Close
	if l == nil {
		s.log.Error("panic while accepting", zap.Any("panic", p), zap.Stack("stack"))
		return
	}
	l.panicked("the transport", p)
	l.busy = busy
}
