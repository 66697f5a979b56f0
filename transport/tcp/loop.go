package tcp

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/roost-server/roost/protocol"
)

// ErrStopped is returned by [Loop.Execute] once the server has stopped.
var ErrStopped = errors.New("tcp: the server has stopped")

// Loop is one event loop. Index and Execute may be called from any goroutine, the
// rest on the loop's own.
type Loop struct {
	// set at the start
	server *Server
	el     gnet.EventLoop
	index  int
	runner gnet.RunnableFunc
	onTick func()
	expire func(*Conn)

	stats counters // written here, read by anyone

	// the loop's own
	handler LoopHandler
	encoder *protocol.Encoder
	decoder *protocol.Decoder
	closing protocol.Close // scratch
	wheel   wheel
	pool    buffers
	dirty   []*Conn  // to be flushed at the end of the batch
	gone    []gone   // Closed has to be called
	cuts    []*Conn  // sockets to be closed
	busy    bool     // in a batch
	turned  int      // nodes turned away
	advice  []string // scratch
	frames  uint64   // whole frames so far
	nowMs   int64
	tick    uint32 // the clock's, less stalled
	stalled uint32

	ticking atomic.Bool // a tick is queued

	mu     sync.Mutex // never held while anything is called
	tasks  []func()
	spare  []func() // the other slice of tasks, for reuse
	woken  bool     // the loop is going to look at tasks
	sealed bool     // no more tasks are taken
}

// gone is an end that Closed has to be told.
type gone struct {
	c     *Conn
	cause error
}

func newLoop(s *Server, el gnet.EventLoop) *Loop {
	l := &Loop{server: s, el: el, encoder: protocol.NewEncoder(), decoder: protocol.NewDecoder()}
	l.runner = func(context.Context) error { l.run(); return nil }
	l.onTick = l.ticked
	l.expire = l.expired
	l.nowMs, l.tick = s.clock()
	l.wheel.now = l.tick
	return l
}

// Index numbers the loops from 0 in the order in which they got their first
// connection. Any goroutine may ask.
func (l *Loop) Index() int { return l.index }

// NowMs returns Unix time in milliseconds, as of the start of the current batch. It
// follows the monotonic clock since the server's start: it never jumps.
func (l *Loop) NowMs() int64 { return l.nowMs }

// Decoder returns the decoder that is shared by the loop's connections.
func (l *Loop) Decoder() *protocol.Decoder { return l.decoder }

// Execute has fn run on the loop, soon, after what was given before; it never waits.
// What fn appends is flushed after the run of functions that were waiting. A panic in
// fn is logged and counted. Any goroutine may call it; give batches, not messages.
// A nil error means that fn will run, unless the engine itself fails. The error is
// [ErrStopped].
func (l *Loop) Execute(fn func()) error {
	l.mu.Lock()
	if l.sealed {
		l.mu.Unlock()
		return ErrStopped
	}
	l.tasks = append(l.tasks, fn)
	wake := !l.woken
	l.woken = true
	l.mu.Unlock()
	if wake {
		return l.wake()
	}
	return nil
}

// seal makes Execute refuse from now on, and returns a channel that is closed when
// everything that it took has run.
func (l *Loop) seal() <-chan struct{} {
	done := make(chan struct{})
	l.mu.Lock()
	l.sealed = true
	l.tasks = append(l.tasks, func() { close(done) })
	wake := !l.woken
	l.woken = true
	l.mu.Unlock()
	if wake {
		_ = l.wake() // when it fails nothing runs any more, and the caller has a deadline
	}
	return done
}

// wake has the loop call run.
func (l *Loop) wake() error {
	if err := l.el.Execute(context.Background(), l.runner); err != nil {
		l.mu.Lock()
		l.sealed = true
		l.mu.Unlock()
		return ErrStopped
	}
	return nil
}

// run runs the tasks that are waiting now. Those that come meanwhile wait for the
// next turn: gnet goes on as long as its queue has anything, so waking from here
// would keep sockets waiting as long as others are quick enough to give more. A
// goroutine of its own wakes the loop after it has been at its sockets.
func (l *Loop) run() {
	l.mu.Lock()
	tasks := l.tasks
	l.tasks, l.spare = l.spare[:0], nil
	l.mu.Unlock()

	was := l.begin()
	for i, fn := range tasks {
		tasks[i] = nil
		l.runTask(fn)
	}
	l.end(was)

	l.mu.Lock()
	l.spare = recycle(tasks)
	more := len(l.tasks) > 0
	l.woken = more
	l.mu.Unlock()
	if more {
		go func() { _ = l.wake() }()
	}
}

func (l *Loop) runTask(fn func()) {
	var err error // logged by catch
	defer l.catch("Execute", &err)
	fn()
}

// begin starts a batch, unless one is running; end is given what it returned.
func (l *Loop) begin() (was bool) {
	was = l.busy
	l.busy = true
	if !was {
		l.refresh()
	}
	return was
}

// lateTicks is how long a loop may be without a batch before it has stalled: there is
// at least one for each tick.
const lateTicks = 4

// refresh reads the clock. A stall (a pause of the machine, a handler that blocked)
// counts as one tick: nobody was heard in that time because nobody listened, and to
// judge by it would end every session of the loop at once.
func (l *Loop) refresh() {
	nowMs, tick := l.server.clock()
	l.nowMs = nowMs
	if gap := tick - l.stalled - l.tick; gap > lateTicks {
		l.stalled += gap - 1
	}
	l.tick = tick - l.stalled
}

// end ends the batch: one write for each connection with output, then the news of
// those that ended, then the sockets to be cut. Each may cause more of the others.
func (l *Loop) end(was bool) {
	if was {
		return
	}
	for len(l.dirty)+len(l.gone)+len(l.cuts) > 0 {
		for i := 0; i < len(l.dirty); i++ {
			if c := l.dirty[i]; c != nil && c.flags&flagDirty != 0 {
				l.flush(c)
			}
			l.dirty[i] = nil
		}
		l.dirty = recycle(l.dirty)
		for i := 0; i < len(l.gone); i++ {
			l.callClosed(l.gone[i])
			l.gone[i] = gone{}
		}
		l.gone = recycle(l.gone)
		for i := 0; i < len(l.cuts); i++ {
			l.cut(l.cuts[i])
			l.cuts[i] = nil
		}
		l.cuts = recycle(l.cuts)
	}
	l.busy = false
}

// recycle empties a slice for reuse, unless it has grown large.
func recycle[T any](s []T) []T {
	if cap(s) > 4096 {
		return nil
	}
	return s[:0]
}

// append encodes m behind c's output.
func (l *Loop) append(c *Conn, m protocol.Message) error {
	out := c.out
	if out == nil {
		out = l.pool.get(smallBuffer)
	}
	var err error
	if out.b, err = l.encoder.Append(out.b, m); err == nil {
		l.stats.framesOut.Add(1)
	}
	if len(out.b) == 0 {
		l.pool.put(out)
		return err
	}
	c.out = out
	l.markDirty(c)
	return err
}

func (l *Loop) markDirty(c *Conn) {
	if c.flags&flagDirty == 0 {
		c.flags |= flagDirty
		l.dirty = append(l.dirty, c)
	}
}

// flush writes c's output, and then sees to what follows from it.
func (l *Loop) flush(c *Conn) {
	c.flags &^= flagDirty
	if out := c.out; out != nil {
		c.out = nil
		if c.gc != nil {
			l.stats.writes.Add(1)
			l.stats.bytesOut.Add(uint64(len(out.b)))
			// A write that fails has closed the connection before it returns.
			_, _ = c.gc.Write(out.b)
		}
		l.pool.put(out)
	}
	switch {
	case c.gc == nil:
	case c.state < stateClosing:
		if n := c.gc.OutboundBuffered(); n > l.server.cfg.OutboundMaxBytes {
			c.close(protocol.ReasonSlowReader, "output is not read: too much of it is waiting", 0, nil)
		}
	case c.state == stateClosing && c.flags&flagAbrupt != 0:
		l.cuts = append(l.cuts, c)
	case c.state == stateClosing:
		l.linger(c)
	}
}

// panicked logs and counts a recovered panic.
func (l *Loop) panicked(where string, p any) {
	l.stats.panics.Add(1)
	l.server.log.Error("panic in a handler", zap.String("in", where), zap.Int("loop", l.index),
		zap.Any("panic", p), zap.Stack("stack"))
}

// catch is deferred around handlers.
func (l *Loop) catch(where string, err *error) {
	if p := recover(); p != nil {
		l.panicked(where, p)
		*err = protocol.Errorf(protocol.ReasonInternal, "internal error")
	}
}

func (l *Loop) callClosed(g gone) {
	var err error // logged by catch
	defer l.catch("Closed", &err)
	l.handler.Closed(g.c, g.c.reason, g.cause)
}
