//go:build linux

package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
)

const (
	dialTimeout = 10 * time.Second
	// exitPatience is how long a child may take to end when its connection has.
	exitPatience = 5 * time.Second
)

// link is the coordinator's side of one worker.
type link struct {
	name   string
	addr   string // empty for a child
	cfg    *Config
	group  *Group
	weight int
	first  int
	nodes  int

	// Set by connect.
	line  *wire
	child *child // nil for a worker that runs by itself
	hello *hello
	wg    sync.WaitGroup
	done  chan struct{} // closed when the worker is lost, or was hung up on

	unstamped bool // set by begin

	mu      sync.Mutex
	over    bool  // done is closed
	lost    error // why; nil after hangUp
	lastID  uint64
	waiting map[uint64]chan *message
	stats   nodes.Stats
	erredAt uint64 // when stats.LastError changed, by the group's count
	asked   int    // how many of its nodes Ramp asked for
}

// errHungUp is of commands given after the end.
var errHungUp = errors.New("the group has been stopped")

func (l *link) index(g *Group) int { return slices.Index(g.links, l) }

// connect finds the worker, or starts it.
func (l *link) connect(ctx context.Context) error {
	conn, err := l.open(ctx)
	if err != nil {
		return fmt.Errorf("worker %s: %w", l.name, err)
	}
	l.line, l.done, l.waiting = newWire(conn, l.cfg.Patience), make(chan struct{}), map[uint64]chan *message{}
	l.stats = nodes.Stats{Nodes: l.nodes}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	token := l.cfg.Token
	if l.child != nil {
		token = "" // the socket pair says who it is
	}
	if l.hello, err = l.line.greetWorker(token, l.cfg.Version); !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		l.over = true
		close(l.done)
		return fmt.Errorf("worker %s: %w", l.name, l.explain(err))
	}
	l.wg.Go(l.read)
	l.wg.Go(l.ping)
	return nil
}

func (l *link) open(ctx context.Context) (conn net.Conn, err error) {
	if l.addr == "" {
		l.child, conn, err = startChild(l.cfg.Program, l.cfg.Args)
		return conn, err
	}
	d := net.Dialer{Timeout: dialTimeout}
	if conn, err = d.DialContext(ctx, "tcp", l.addr); err != nil {
		return nil, fmt.Errorf("%w; is \"loadtest worker\" running there?", err)
	}
	return conn, nil
}

// explain makes an error of the connection one that tells what became of the worker. A
// child has ended then.
func (l *link) explain(err error) error {
	broke := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch {
	case l.child == nil && broke:
		return fmt.Errorf("its connection ended: %w", err)
	case l.child == nil:
		return err
	case broke:
		return fmt.Errorf("its process ended: %s", l.child.end(exitPatience))
	case errors.Is(err, errSilent):
		return fmt.Errorf("%w (%s)", err, l.child.end(0))
	}
	return fmt.Errorf("%w (%s)", err, l.child.end(exitPatience))
}

// read takes what the worker says, until its end.
func (l *link) read() {
	for {
		m, err := l.line.receive(maxMessageBytes)
		if err == nil && m.Refusal != "" {
			err = errors.New(m.Refusal)
		}
		if err != nil {
			l.lose(err)
			return
		}
		l.mu.Lock()
		if m.Stats != nil {
			if m.Stats.LastError != l.stats.LastError {
				l.erredAt = l.group.count.Add(1)
			}
			l.stats = *m.Stats
		}
		if m.Reply != nil {
			if c, ok := l.waiting[m.ID]; ok {
				delete(l.waiting, m.ID)
				c <- m
			}
		}
		l.mu.Unlock()
	}
}

// ping tells the worker that there is a coordinator.
func (l *link) ping() {
	tick := time.NewTicker(pushEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-tick.C:
			if err := l.line.send(&message{}); err != nil {
				l.lose(err)
				return
			}
		}
	}
}

// lose notes that the worker will say nothing more: its nodes are gone.
func (l *link) lose(err error) {
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		return
	}
	l.over = true
	l.mu.Unlock()
	_ = l.line.conn.Close()
	err = l.explain(err) // may take a moment
	l.mu.Lock()
	l.lost = fmt.Errorf("worker %s was lost, with %d nodes: %w", l.name, l.nodes, err)
	l.stats.Connected, l.stats.Unacked, l.stats.Dead, l.stats.LastError = 0, 0, l.nodes, l.lost.Error()
	l.stats.Load.RSSBytes = 0
	l.erredAt = l.group.count.Add(1)
	l.mu.Unlock()
	close(l.done)
}

// ask gives a command and waits for what the worker answers. Nothing else than a worker
// that answers is no error: one that is lost, or does not answer in time, is.
func (l *link) ask(ctx context.Context, m *message) (*reply, error) {
	answer := make(chan *message, 1)
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		<-l.done
		return nil, l.gone()
	}
	l.lastID++
	m.ID = l.lastID
	l.waiting[m.ID] = answer
	l.mu.Unlock()
	if err := l.line.send(m); err != nil {
		l.lose(err)
	}
	limit := time.NewTimer(l.cfg.Answer)
	defer limit.Stop()
	select {
	case a := <-answer:
		if a.Reply.Error != "" {
			return nil, fmt.Errorf("worker %s: %s", l.name, a.Reply.Error)
		}
		return a.Reply, nil
	case <-l.done:
		return nil, l.gone()
	case <-ctx.Done():
		return nil, fmt.Errorf("worker %s: %w", l.name, ctx.Err())
	case <-limit.C:
		l.lose(fmt.Errorf("a command was not answered within %v", l.cfg.Answer))
		<-l.done
		return nil, l.gone()
	}
}

// gone tells why there is no worker any more.
func (l *link) gone() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return &lostError{l.lost}
	}
	return errHungUp
}

// lostError is of a command for a worker that is lost. The group reports that once, as a
// problem.
type lostError struct{ error }

// Unwrap is for errors.Is.
func (e *lostError) Unwrap() error { return e.error }

// hangUp ends the connection, and the process of a child, and waits for both.
func (l *link) hangUp() {
	if l.line == nil {
		return // never connected
	}
	l.mu.Lock()
	ours := !l.over
	l.over = true
	l.mu.Unlock()
	if ours {
		close(l.done)
	}
	_ = l.line.conn.Close()
	l.wg.Wait()
	if l.child != nil {
		l.child.end(exitPatience)
	}
}
