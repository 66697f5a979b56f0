//go:build linux

package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
)

// MinTokenBytes is the shortest token with which a worker listens to other hosts.
const MinTokenBytes = 16

// maxStrangers is how many connections may be in their first messages at a time.
const maxStrangers = 8

// busyPatience is how long a coordinator waits for the one before to be gone.
const busyPatience = 3 * time.Second

// Worker has nodes for coordinators, one after the other.
type Worker struct {
	// Start makes the nodes of a coordinator, none of them connected yet.
	Start   func(nodes.Spec) (nodes.Group, error)
	Token   string
	Version string       // default [Version]
	Sources []netip.Addr // where its nodes connect from, instead of the coordinator's
	Once    bool         // Serve returns after one coordinator
	Log     func(string) // what happens, for people; may be nil
	// Patience is how long a coordinator may be silent; default [DefaultPatience].
	Patience time.Duration

	clock     string        // default [clock]
	pushEvery time.Duration // default [pushEvery]

	mu   sync.Mutex
	with string // the coordinator that is served; "" when there is none
}

// Listen opens a worker's port. Without a token only a loopback address is allowed.
func Listen(address, token string) (net.Listener, error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w; host:port is expected", err)
	}
	if !a.IP.IsLoopback() && len(token) < MinTokenBytes {
		return nil, fmt.Errorf("--listen %s: whoever reaches it could have this host flood another; give --token, at least %d characters (there are %d), or a loopback address",
			address, MinTokenBytes, len(token))
	}
	ln, err := net.ListenTCP("tcp", a)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	return ln, nil
}

func (w *Worker) say(format string, args ...any) {
	if w.Log != nil {
		w.Log(fmt.Sprintf(format, args...))
	}
}

// Serve takes coordinators until ctx ends, or with Once until one has been served, and
// closes ln. With Once its error is that of the coordinator that was lost. When it
// returns no node is left.
func (w *Worker) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer func() { _ = ln.Close() }()
	strangers := make(chan struct{}, maxStrangers)
	var first sync.Once
	var how error // the first coordinator ended, with Once
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				_ = conn.Close()
			}
			wg.Wait()
			return how
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			w.say("a connection cannot be taken: %v", err)
			time.Sleep(time.Second) // others may close theirs
			continue
		}
		if err != nil {
			return fmt.Errorf("the worker's port: %w", err)
		}
		select {
		case strangers <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			served, err := w.serve(ctx, conn, func() { <-strangers })
			if served && w.Once {
				first.Do(func() { how = err; cancel() })
			}
		})
	}
}

// ServeConn serves one coordinator on a connection, which it closes.
func (w *Worker) ServeConn(ctx context.Context, conn net.Conn) error {
	_, err := w.serve(ctx, conn, func() {})
	return err
}

// serve is one connection from its first message on. It reports whether the other side
// was a coordinator, and how it was lost.
func (w *Worker) serve(ctx context.Context, conn net.Conn, known func()) (served bool, err error) {
	defer conn.Close()
	name := conn.RemoteAddr().String()
	if name == "" || name == "@" {
		name = "the parent process"
	}
	line := newWire(conn, w.patience())
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = line.greetCoordinator(w.Token, cmp.Or(w.Version, Version()), cmp.Or(w.clock, clock()), func() error { return w.take(ctx, name) })
	known()
	if !stop() || err != nil {
		if err != nil && ctx.Err() == nil {
			w.say("coordinator %s: %v", name, err)
		} else if err == nil {
			w.release()
		}
		return false, err
	}
	defer w.release()
	w.say("coordinator %s: connected", name)
	s := &session{worker: w, line: line, commands: make(chan *message, 16)}
	if err = s.run(ctx); err != nil {
		w.say("coordinator %s: lost: %v; its nodes have been ended", name, err)
		return true, fmt.Errorf("coordinator %s was lost: %w", name, err)
	}
	w.say("coordinator %s: done", name)
	return true, nil
}

// take makes the worker busy with a coordinator. One that has just gone may still have
// nodes that say goodbye.
func (w *Worker) take(ctx context.Context, name string) error {
	for until := time.Now().Add(min(busyPatience, w.patience()/2)); ; {
		w.mu.Lock()
		with := w.with
		if with == "" {
			w.with = name
		}
		w.mu.Unlock()
		if with == "" {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(until) {
			return fmt.Errorf("%w: the worker is busy with another coordinator, %s", errRefused, with)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *Worker) release() { w.mu.Lock(); defer w.mu.Unlock(); w.with = "" }

func (w *Worker) patience() time.Duration { return cmp.Or(w.Patience, DefaultPatience) }

// session is a coordinator that is served.
type session struct {
	worker   *Worker
	line     *wire
	commands chan *message

	reporting sync.Mutex

	mu      sync.Mutex
	group   nodes.Group // nil before it was started
	stopped bool
}

// errDone ends a session in order.
var errDone = errors.New("the coordinator is done")

// run ends when the coordinator has stopped its nodes, is lost, or ctx ends; the nodes
// are gone then. It returns why the coordinator is lost.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(s.read(ctx)) })
	wg.Go(func() { s.push(ctx, cancel) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case m := <-s.commands:
			var r reply
			if err := s.do(ctx, m, &r); err != nil {
				r.Error = err.Error()
			}
			if err := s.report(&message{ID: m.ID, Reply: &r}); err != nil {
				cancel(err)
			}
		}
	}
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		s.line.refuse("the worker has been ended where it runs")
	}
	if s.group != nil && !s.stopped {
		_ = s.group.Stop() // the coordinator that would hear of a failure is gone
	}
	_ = s.line.conn.Close()
	wg.Wait()
	if errors.Is(err, errDone) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// read hands on commands, until the connection ends. What the coordinator sends while a
// command is under way is read all the same, so that its end is seen at once.
func (s *session) read(ctx context.Context) error {
	for {
		m, err := s.line.receive(maxMessageBytes)
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.stopped {
				return errDone
			}
			return err
		}
		if m.Refusal != "" {
			return errors.New(m.Refusal)
		}
		if m.ID == 0 {
			continue // it lives
		}
		select {
		case s.commands <- m:
		case <-ctx.Done():
			return ctx.Err()
		default:
			return errors.New("too many commands at a time")
		}
	}
}

// push says how the nodes are doing.
func (s *session) push(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(cmp.Or(s.worker.pushEvery, pushEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.report(&message{}); err != nil {
				cancel(err)
				return
			}
		}
	}
}

// report sends how the nodes are doing along with a message. What is sent later was seen
// later: so what comes with the reply to a command, or after it, shows its effect.
func (s *session) report(m *message) error {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	s.mu.Lock()
	g := s.group
	s.mu.Unlock()
	if g != nil {
		st := g.Stats()
		m.Stats = &st
	}
	return s.line.send(m)
}

// do does what a command says.
func (s *session) do(ctx context.Context, m *message, r *reply) (err error) {
	switch {
	case m.Start != nil:
		return s.start(*m.Start)
	case s.group == nil:
		return errors.New("the nodes have not been started")
	case m.Ramp != nil:
		return s.group.Ramp(ctx, m.Ramp.UpTo, m.Ramp.PerS)
	case m.Cut != nil:
		r.Cut, err = s.group.Cut(ctx, *m.Cut)
		return err
	case m.Churn != nil:
		return s.group.Churn(ctx, *m.Churn)
	case m.Slow != nil:
		return s.group.Slow(ctx, *m.Slow)
	case m.Stop:
		err := s.group.Stop()
		s.mu.Lock()
		s.stopped = true
		s.mu.Unlock()
		return err
	}
	return errors.New("unknown command")
}

// start makes the nodes.
func (s *session) start(spec nodes.Spec) error {
	if s.group != nil {
		return errors.New("the nodes have been started already")
	}
	if len(s.worker.Sources) > 0 {
		spec.Sources = s.worker.Sources
	}
	g, err := s.worker.Start(spec)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.group = g
	s.mu.Unlock()
	s.worker.say("nodes %d to %d of %d", spec.First, spec.First+spec.Nodes-1, spec.Of)
	return nil
}
