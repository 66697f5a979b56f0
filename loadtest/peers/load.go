//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bodyBytes   = 128 // of a job, and of its result
	bodyHead    = 20  // slot, number, time sent
	connecting  = 64  // nodes that are not ready yet, at most: less than any peer's backlog
	readBuffer  = 64 << 10
	maxReads    = 4 // of one connection, before others have their turn
	turnMs      = 50
	connectMost = 60 * time.Second // for all nodes
	stalledMost = 5 * time.Second  // without any result
	stride      = 7919             // from node to node; prime, so that all have their turn
)

// client is one connection of the load.
type client struct {
	fd    int
	ready bool
	rest  []byte // of a frame that is not all there yet
}

// slot is a job that is out.
type slot struct {
	number uint64
	out    bool
}

// load is all nodes and the dispatcher on one epoll loop. It belongs to one goroutine.
type load struct {
	wire       wire
	at         netip.AddrPort
	ep         int
	nodes      []client
	dispatcher client
	dialled    int
	ready      int // of the nodes

	buf     []byte
	out     []byte // of one node
	pending []byte // of the dispatcher, not taken by the kernel yet
	full    bool   // the kernel takes no more of it now
	waits   bool   // epoll tells when it does again
	events  []unix.EpollEvent

	began   time.Time
	slots   []slot
	free    []int32
	body    [bodyBytes]byte
	pattern []byte
	next    int // node
	number  uint64
	latency []int64 // ns, while measuring
	measure bool
	results uint64
	strange uint64 // results of no job that is out, or changed
	issuing bool
}

// dispatcherPad marks the dispatcher in epoll's data; nodes have their index there.
const dispatcherPad = -1

func newLoad(w wire, nodes int, at, dispatch netip.AddrPort) (*load, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l := &load{wire: w, at: at, ep: ep, nodes: make([]client, nodes), buf: make([]byte, readBuffer),
		events: make([]unix.EpollEvent, 1024), began: time.Now()}
	for i := range l.nodes {
		l.nodes[i].fd = -1
	}
	for i := range l.body {
		l.body[i] = byte(i)
	}
	l.pattern = bytes.Clone(l.body[bodyHead:])
	if l.dispatcher.fd, err = l.dial(dispatch, dispatcherPad, w.greet(nil)); err != nil {
		l.dispatcher.fd = -1
		return nil, errors.Join(fmt.Errorf("the dispatcher: %w", err), l.close())
	}
	l.dispatcher.ready = len(w.greet(nil)) == 0
	return l, nil
}

// close resets all connections, so that none of them keeps its port.
func (l *load) close() error {
	reset := func(fd int) {
		if fd >= 0 {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			_ = unix.Close(fd)
		}
	}
	for i := range l.nodes {
		reset(l.nodes[i].fd)
	}
	reset(l.dispatcher.fd)
	return unix.Close(l.ep)
}

// dial connects, waiting for the kernel alone, and says hello.
func (l *load) dial(to netip.AddrPort, pad int32, hello []byte) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err == nil {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err = unix.SetNonblock(fd, true); err == nil {
			if err = unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd), Pad: pad}); err == nil {
				err = writeAll(fd, hello)
			}
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}

// writeAll writes what has to fit into an empty socket buffer.
func writeAll(fd int, b []byte) error {
	n, err := unix.Write(fd, b)
	if err == nil && n < len(b) {
		err = fmt.Errorf("the kernel took %d of %d bytes", n, len(b))
	}
	return err
}

// connect opens all nodes' connections, some at a time, until all are ready. It returns
// how long that took.
func (l *load) connect(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for l.ready < len(l.nodes) || !l.dispatcher.ready {
		for l.dialled < len(l.nodes) && l.dialled-l.ready < connecting {
			l.out = l.wire.hello(l.out[:0], l.dialled)
			fd, err := l.dial(l.at, int32(l.dialled), l.out)
			if err != nil {
				return 0, fmt.Errorf("node %d: %w", l.dialled, err)
			}
			l.nodes[l.dialled].fd = fd
			l.dialled++
		}
		if err := l.turn(ctx, turnMs); err != nil {
			return 0, err
		}
		if time.Since(began) > connectMost {
			return 0, fmt.Errorf("after %v %d of %d nodes are ready", connectMost, l.ready, len(l.nodes))
		}
	}
	return time.Since(began), nil
}

// idle does nothing but what the server asks for.
func (l *load) idle(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := l.turn(ctx, turnMs); err != nil {
			return err
		}
	}
	return nil
}

// open puts a window of jobs under way.
func (l *load) open(window int) {
	l.slots, l.free, l.issuing = make([]slot, window), make([]int32, window), true
	for i := range l.free {
		l.free[i] = int32(i)
	}
	l.refill()
}

// run keeps the window full for so long.
func (l *load) run(ctx context.Context, d time.Duration) error {
	last, seen := time.Now(), l.results
	for end := last.Add(d); ; {
		now := time.Now()
		if now.After(end) {
			return nil
		}
		if err := l.turn(ctx, turnMs); err != nil {
			return err
		}
		if l.results != seen {
			last, seen = now, l.results
		} else if now.Sub(last) > stalledMost {
			return fmt.Errorf("no result for %v; %d jobs are out", stalledMost, l.under())
		}
	}
}

// drain waits for the results of what is out, while there are any, and returns how many
// did not come.
func (l *load) drain(ctx context.Context) (lost int, err error) {
	l.issuing = false
	for last, seen := time.Now(), l.results; l.under() > 0 && time.Since(last) < stalledMost/2; {
		if err := l.turn(ctx, turnMs); err != nil {
			return l.under(), err
		}
		if l.results != seen {
			last, seen = time.Now(), l.results
		}
	}
	return l.under(), nil
}

func (l *load) under() int { return len(l.slots) - len(l.free) }

// turn takes what has arrived, once.
func (l *load) turn(ctx context.Context, ms int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := unix.EpollWait(l.ep, l.events, ms)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll_wait: %w", err)
	}
	for _, e := range l.events[:n] {
		if e.Pad == dispatcherPad {
			if e.Events&unix.EPOLLOUT != 0 {
				l.full = false
			}
			err = l.readable(&l.dispatcher, true)
		} else {
			err = l.readable(&l.nodes[e.Pad], false)
		}
		if err != nil {
			return err
		}
	}
	l.refill()
	return l.flush()
}

func (l *load) readable(c *client, dispatcher bool) error {
	for range maxReads {
		n, err := unix.Read(c.fd, l.buf)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return nil
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errors.New("the server has closed a connection")
		}
		if err := l.frames(c, l.buf[:n], dispatcher); err != nil {
			return err
		}
		if n < len(l.buf) {
			return nil
		}
	}
	return nil
}

// frames handles whole frames, and writes a node's answers at once.
func (l *load) frames(c *client, b []byte, dispatcher bool) error {
	if len(c.rest) > 0 {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	l.out = l.out[:0]
	for len(b) > 0 {
		f, err := l.wire.next(b, dispatcher)
		if err != nil {
			return fmt.Errorf("the server sent: %w", err)
		}
		if f.size == 0 {
			break
		}
		b = b[f.size:]
		switch f.kind {
		case ready:
			if !c.ready {
				c.ready = true
				if !dispatcher {
					l.ready++
				}
			}
		case jobIn:
			l.out = l.wire.answer(l.out, f.body)
		case result:
			l.result(f.body)
		case ping:
			l.out = l.wire.pong(l.out)
		}
	}
	if len(b) == 0 {
		c.rest = nil
	} else {
		c.rest = append(make([]byte, 0, 2*len(b)), b...)
	}
	if dispatcher {
		l.pending = append(l.pending, l.out...)
		return nil
	}
	if len(l.out) > 0 {
		if err := writeAll(c.fd, l.out); err != nil {
			return fmt.Errorf("a node's answer: %w", err)
		}
	}
	return nil
}

// result frees a job's slot.
func (l *load) result(body []byte) {
	l.results++
	if len(body) != bodyBytes || !bytes.Equal(body[bodyHead:], l.pattern) {
		l.strange++
		return
	}
	at, number := int(binary.BigEndian.Uint32(body)), binary.BigEndian.Uint64(body[4:])
	if at >= len(l.slots) || !l.slots[at].out || l.slots[at].number != number {
		l.strange++
		return
	}
	l.slots[at].out = false
	l.free = append(l.free, int32(at))
	if l.measure {
		l.latency = append(l.latency, int64(time.Since(l.began))-int64(binary.BigEndian.Uint64(body[12:])))
	}
}

// refill sends a job for each free slot.
func (l *load) refill() {
	if !l.issuing || len(l.free) == 0 {
		return
	}
	now := uint64(time.Since(l.began))
	for _, at := range l.free {
		l.number++
		l.slots[at] = slot{l.number, true}
		binary.BigEndian.PutUint32(l.body[:], uint32(at))
		binary.BigEndian.PutUint64(l.body[4:], l.number)
		binary.BigEndian.PutUint64(l.body[12:], now)
		l.pending = l.wire.job(l.pending, l.next, l.body[:])
		l.next = (l.next + stride) % len(l.nodes)
	}
	l.free = l.free[:0]
}

// flush writes what the dispatcher has, as far as the kernel takes it.
func (l *load) flush() error {
	if len(l.pending) == 0 || l.full {
		return nil
	}
	n, err := unix.Write(l.dispatcher.fd, l.pending)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("the dispatcher's jobs: %w", err)
	}
	l.pending = append(l.pending[:0], l.pending[max(n, 0):]...)
	l.full = len(l.pending) > 0
	if l.full == l.waits {
		return nil
	}
	l.waits = l.full
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.dispatcher.fd), Pad: dispatcherPad}
	if l.full {
		e.Events |= unix.EPOLLOUT
	}
	return unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, l.dispatcher.fd, &e)
}
