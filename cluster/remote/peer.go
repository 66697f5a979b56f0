package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
)

// peer is one address that is sent to: what waits for it, and a goroutine that connects and writes.
type peer struct {
	r       *Remote
	address string
	ctx     context.Context // ends the peer and its connection
	cancel  context.CancelFunc
	wake    chan struct{} // something was put into an empty queue

	mu    sync.Mutex
	queue [][]byte
	bytes int   // in queue
	err   error // of the newest attempt or connection; nil while connected
}

func newPeer(r *Remote, address string) *peer {
	p := &peer{r: r, address: address, wake: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(r.ctx)
	return p
}

// push queues a body, or drops it when the queue is full: what came before stays, because a receiver
// that waits for it can use nothing that comes after a gap.
func (p *peer) push(body []byte) {
	p.mu.Lock()
	full := p.bytes+len(body)+envelopeBytes > MaxQueueBytes || p.r.closing.Err() != nil
	if !full {
		p.queue = append(p.queue, body)
		p.bytes += len(body) + envelopeBytes
	}
	p.mu.Unlock()
	if full {
		p.r.drop(1, len(body))
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take removes what makes up the next message.
func (p *peer) take() *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, size := 0, 0
	for n < len(p.queue) && n < maxBatchBodies && (n == 0 || size+len(p.queue[n]) <= batchBytes) {
		size += len(p.queue[n])
		n++
	}
	if n == 0 {
		return nil
	}
	b := &batch{bodies: p.queue[:n:n]}
	p.bytes -= size + n*envelopeBytes
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil // its array goes with the batch
	}
	return b
}

func (p *peer) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) == 0
}

func (p *peer) run() {
	defer p.r.wg.Done()
	defer p.end()
	backoff := p.r.tuning.backoffMin
	for p.await() {
		began := time.Now()
		err := p.connectAndWrite(&began)
		if err == nil || p.ctx.Err() != nil {
			continue
		}
		if time.Since(began) >= p.r.tuning.steady && !errors.As(err, new(*connectError)) {
			backoff = p.r.tuning.backoffMin
		}
		// Half of it at random: the peers of a member that restarts shall not come all at once.
		select {
		case <-time.After(backoff/2 + rand.N(backoff/2+1)):
		case <-p.ctx.Done():
		case <-p.r.closing.Done():
		}
		backoff = min(2*backoff, p.r.tuning.backoffMax)
	}
}

// await returns true as soon as something is to be sent, and false when the peer is to end: closed,
// disconnected, or without messages for so long that it is forgotten.
func (p *peer) await() bool {
	for {
		if p.ctx.Err() != nil || p.r.closing.Err() != nil {
			return false
		}
		if !p.empty() {
			return true
		}
		idle := time.NewTimer(p.r.tuning.idle)
		select {
		case <-p.wake:
		case <-p.ctx.Done():
		case <-p.r.closing.Done():
		case <-idle.C:
			if p.forget() {
				return false
			}
		}
		idle.Stop()
	}
}

// forget takes the peer off the list unless something came for it.
func (p *peer) forget() bool {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if !p.empty() {
		return false
	}
	if p.r.peers[p.address] == p {
		delete(p.r.peers, p.address)
	}
	return true
}

// end counts what was never sent.
func (p *peer) end() {
	p.cancel()
	p.dropQueue()
}

func (p *peer) dropQueue() {
	p.mu.Lock()
	n, bytes := len(p.queue), p.bytes
	p.queue, p.bytes = nil, 0
	p.mu.Unlock()
	if n > 0 {
		p.r.drop(n, bytes-n*envelopeBytes)
	}
}

func (p *peer) setErr(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// connectAndWrite lasts as long as a connection. It sets began when there is one. nil is a good end.
func (p *peer) connectAndWrite(began *time.Time) error {
	c, err := p.r.dial(p.ctx, p.address)
	if err != nil {
		if p.ctx.Err() != nil || p.r.closing.Err() != nil {
			return nil
		}
		p.r.counters.connectFailures.Add(1)
		p.setErr(err)
		p.dropQueue()
		p.r.warn("dial", p.address, "no connection to a member; trying again while there is something to send", zap.Error(err),
			zap.String("peer", err.peer))
		return err
	}
	defer c.close()
	*began = time.Now()
	p.setErr(nil)
	p.r.counters.connects.Add(1)
	p.r.counters.outbound.Add(1)
	defer p.r.counters.outbound.Add(-1)
	p.r.log.Debug("connected to a member", zap.String("address", p.address), zap.String("peer", c.name))
	if p.r.cfg.Connected != nil {
		p.r.cfg.Connected(p.address)
	}
	if err := p.write(c); err != nil && p.ctx.Err() == nil {
		p.r.counters.broken.Add(1)
		p.setErr(err)
		p.r.warn("broken", p.address, "connection to a member broke", zap.String("peer", c.name), zap.Error(err))
		return err
	}
	return nil
}

// write sends what is queued until the connection ends or Close lets go of it.
func (p *peer) write(c *connection) error {
	stuck := time.AfterFunc(time.Hour, c.giveUp)
	stuck.Stop()
	defer stuck.Stop()
	for {
		b := p.take()
		if b == nil {
			select {
			case <-p.wake:
				continue
			case <-c.gone:
				return c.err
			case <-p.r.closing.Done():
				return p.finish(c)
			}
		}
		stuck.Reset(p.r.tuning.stuck)
		err := c.stream.SendMsg(b)
		stuck.Stop()
		n := 0
		for _, body := range b.bodies {
			n += len(body)
		}
		if err != nil {
			p.r.drop(len(b.bodies), n)
			if errors.Is(err, io.EOF) { // the reason is what reading says
				<-c.gone
				err = c.err
			}
			return err
		}
		p.r.counters.sentBytes.Add(uint64(n))
	}
}

// finish sends what came meanwhile, then waits until the peer has read all.
func (p *peer) finish(c *connection) error {
	for b := p.take(); b != nil; b = p.take() {
		if err := c.stream.SendMsg(b); err != nil {
			return nil // closing anyway
		}
	}
	if err := c.stream.CloseSend(); err != nil {
		return nil
	}
	select {
	case <-c.gone:
	case <-p.ctx.Done():
	}
	return nil
}

// connectError is a connection that did not come about.
type connectError struct {
	peer string // its name, if it said it
	err  error
}

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

var errStuck = errors.New("the peer took nothing for too long: it hangs, or the way to it is cut")

var errLeft = fmt.Errorf("the peer ended the connection: %w", io.EOF)
