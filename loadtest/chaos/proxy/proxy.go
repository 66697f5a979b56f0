// Package proxy is a bad network: a TCP forwarder whose connections can be cut and
// stalled, and whose target may be away.
package proxy

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Proxy listens at one address for as long as it lives, whatever becomes of its target.
type Proxy struct {
	ln   net.Listener
	wg   sync.WaitGroup
	pipe func() Pipe

	mu     sync.Mutex
	target string
	conns  map[*conn]struct{}
	closed bool
}

// Pipe carries the bytes of one connection. Up and Down run at the same time, each
// until its source ends or it returns; then the connection is closed.
type Pipe interface {
	Up(to io.Writer, from io.Reader)   // from the client
	Down(to io.Writer, from io.Reader) // to the client
}

// conn is one forwarded connection.
type conn struct {
	near, far net.Conn

	mu      sync.Mutex
	stalled chan struct{} // closed when the stall ends; nil: there is none
}

// New listens on a loopback port. Connections are refused until there is a target. pipe
// is called for each connection; nil: bytes go through as they are.
func New(pipe func() Pipe) (*Proxy, error) { return Listen("127.0.0.1:0", pipe) }

// Listen is [New] at an address, which the clients of other hosts may reach.
func Listen(addr string, pipe func() Pipe) (*Proxy, error) {
	if pipe == nil {
		pipe = func() Pipe { return plain{} }
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &Proxy{ln: ln, pipe: pipe, conns: map[*conn]struct{}{}}
	p.wg.Add(1)
	go p.accept()
	return p, nil
}

// Addr is where nodes connect.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// SetTarget says where new connections go; "" refuses them. Those that exist stay.
func (p *Proxy) SetTarget(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Close cuts everything and waits for the end.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.ln.Close()
	p.Cut(nil, 1)
	p.wg.Wait()
}

// Cut resets a part of the connections, and returns how many.
func (p *Proxy) Cut(rng *rand.Rand, part float64) int {
	list := p.pick(rng, part)
	for _, c := range list {
		reset(c.near)
		reset(c.far)
	}
	return len(list)
}

// Stall holds back both directions of a part of the connections for a while, and
// returns how many.
func (p *Proxy) Stall(rng *rand.Rand, part float64, d time.Duration) int {
	list := p.pick(rng, part)
	for _, c := range list {
		c.stall(d)
	}
	return len(list)
}

func (p *Proxy) pick(rng *rand.Rand, part float64) []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*conn
	for c := range p.conns {
		if rng == nil || rng.Float64() < part {
			list = append(list, c)
		}
	}
	return list
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		near, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.serve(near)
		}()
	}
}

func (p *Proxy) serve(near net.Conn) {
	defer near.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	if target == "" {
		reset(near)
		return
	}
	far, err := net.DialTimeout("tcp", target, 2*time.Second)
	if err != nil {
		reset(near) // as a port that nobody listens on, nearly
		return
	}
	defer far.Close()
	c := &conn{near: near, far: far}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	pipe := p.pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.cut() // either direction's end is the connection's
		pipe.Up(far, staller{c, near})
	}()
	pipe.Down(near, staller{c, far})
	c.cut()
	<-done
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// reset closes a connection so that the other side sees an error, not an end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

// plain is the Pipe that changes nothing.
type plain struct{}

// Up implements Pipe.
func (plain) Up(to io.Writer, from io.Reader) { forward(to, from) }

// Down implements Pipe.
func (plain) Down(to io.Writer, from io.Reader) { forward(to, from) }

func forward(to io.Writer, from io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// staller is a side of a connection to read from: what it reads waits for the end of
// a stall.
type staller struct {
	c    *conn
	from net.Conn
}

// Read implements io.Reader.
func (s staller) Read(b []byte) (int, error) {
	n, err := s.from.Read(b)
	s.c.wait()
	return n, err
}

func (c *conn) cut() {
	c.near.Close()
	c.far.Close()
}

func (c *conn) wait() {
	c.mu.Lock()
	stalled := c.stalled
	c.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
}

func (c *conn) stall(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stalled != nil {
		return
	}
	stalled := make(chan struct{})
	c.stalled = stalled
	time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stalled = nil
		close(stalled)
	})
}
