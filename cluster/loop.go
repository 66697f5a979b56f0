package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/cluster/remote"
	"github.com/roost-server/roost/cluster/view"
	"go.uber.org/zap"
)

// event is a call of the handler that is due.
type event struct {
	kind      eventKind
	peer      Peer   // up, down
	why       string // down
	unacked   [][]byte
	slot      uint16 // message, owner
	body      []byte
	partition uint32
	epoch     uint64
	known     bool
	err       error // conflict
}

type eventKind uint8

const (
	evMessage eventKind = iota
	evUp
	evDown
	evOwner
	evConflict
)

// receive takes what came from another member, on the remote's goroutine.
func (c *Cluster) receive(in remote.Inbound) {
	if c.inbox.put(in) {
		c.wakeUp()
	}
}

// connected has what may have been lost with an earlier connection to an address sent again
// at once. It is called on the remote's goroutine.
func (c *Cluster) connected(address string) {
	c.mu.Lock()
	for _, d := range c.sessions {
		if d.address == address {
			d.mu.Lock()
			d.link.Reconnected()
			d.mu.Unlock()
			c.dirty.add(d)
		}
	}
	c.mu.Unlock()
	c.wakeUp()
}

// loop is the cluster's one goroutine.
func (c *Cluster) loop() {
	defer close(c.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var turn turn
	for {
		select {
		case <-c.quit:
			return
		case <-c.wake:
		case <-timer.C:
		}
		next, more := c.step(&turn)
		for i := range turn.events {
			c.call(&turn.events[i])
		}
		if more {
			c.wakeUp()
		}
		timer.Reset(time.Duration(next-c.mono()) * time.Millisecond)
	}
}

// turn is memory that the loop's turns reuse.
type turn struct {
	in     []remote.Inbound
	dirty  []*conn
	events []event
}

// step does everything but calling the handler. next is when the loop's next turn is due.
func (c *Cluster) step(t *turn) (next int64, more bool) {
	clear(t.in)
	t.in, more = c.inbox.take(t.in[:0])
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for i := range t.in {
		c.take(now, &t.in[i])
	}
	if now.Mono >= c.viewNext {
		c.view.Tick(now)
		c.viewNext = c.view.NextMs(now)
	}
	t.dirty = c.dirty.take(t.dirty)
	for _, d := range t.dirty {
		c.linkNext = min(c.linkNext, d.flush(now.Mono, c.carrier))
	}
	if now.Mono >= c.linkNext {
		c.linkNext = math.MaxInt64
		for _, d := range c.sessions {
			due := d.due()
			if now.Mono >= due {
				due = d.flush(now.Mono, c.carrier)
			}
			c.linkNext = min(c.linkNext, due)
		}
	}
	clear(t.events)
	t.events, c.events = c.events, t.events[:0]
	return min(c.viewNext, c.linkNext), more
}

// take is about one packet.
func (c *Cluster) take(now view.Now, in *remote.Inbound) {
	var p link.Packet
	if err := p.Parse(in.Body); err != nil {
		c.complain.about(*in, err)
		return
	}
	if p.Kind == link.KindLoose {
		c.viewNext = 0
		for body := range p.Bodies() {
			if err := c.view.Receive(now, in.Peer, body); err != nil {
				c.complain.about(*in, err)
			}
		}
		return
	}
	from := c.sessions[p.To]
	if from == nil {
		return // of a session that has ended, or that this side does not know to be up yet
	}
	if from.cert != in.Peer {
		c.complain.about(*in, fmt.Errorf("a packet of %s's session with a certificate for %q", from.peer.Name, in.Peer))
		return
	}
	from.mu.Lock()
	err := from.link.Receive(now.Mono, &p, func(body []byte) {
		c.events = append(c.events, event{kind: evMessage, slot: from.peer.Slot, body: body})
	})
	from.mu.Unlock()
	switch {
	case err == nil:
		c.view.Heard(now, p.To)
		c.dirty.add(from)
	case !errors.Is(err, link.ErrStale) && !errors.Is(err, link.ErrOther):
		c.complain.about(*in, err)
	}
}

func (c *Cluster) call(e *event) {
	h := c.cfg.Handler
	switch e.kind {
	case evMessage:
		h.Message(e.slot, e.body)
	case evUp:
		h.Up(e.peer)
	case evDown:
		h.Down(e.peer, e.why, e.unacked)
	case evOwner:
		h.Owner(e.partition, e.slot, e.epoch, e.known)
	case evConflict:
		h.Conflict(e.err)
	}
}

// effects is what the view wants done; all is called with the lock held.
type effects Cluster

// Send implements view.Out.
func (e *effects) Send(address string, body []byte) {
	e.carrier.Send(address, link.AppendLoose(make([]byte, 0, len(body)+looseOverhead), e.instance, 0, body))
}

// looseOverhead is more than what a packet around a hello or beat takes.
const looseOverhead = 64

// Up implements view.Out.
func (e *effects) Up(p view.Peer) {
	d := newConn(p, e.cfg.QueueBytes)
	e.sessions[p.Session] = d
	slots := slices.Clone(*e.slots.Load())
	for int(p.Slot) >= len(slots) {
		slots = append(slots, nil)
	}
	slots[p.Slot] = d
	e.slots.Store(&slots)
	instances := maps.Clone(*e.instances.Load())
	instances[p.Instance] = p.Slot
	e.instances.Store(&instances)
	e.dirty.add(d) // its link wants to pair
	e.events = append(e.events, event{kind: evUp, peer: d.peer})
	e.log.Info("cluster: a member is up", zap.String("peer", p.Name), zap.String("address", p.Address),
		zap.Uint16("slot", p.Slot), zap.String("version", p.Version))
}

// Down implements view.Out.
func (e *effects) Down(p view.Peer, why string) {
	slots := slices.Clone(*e.slots.Load())
	d := slots[p.Slot]
	slots[p.Slot] = nil
	e.slots.Store(&slots)
	instances := maps.Clone(*e.instances.Load())
	delete(instances, p.Instance)
	e.instances.Store(&instances)
	for session, s := range e.sessions {
		if s == d {
			delete(e.sessions, session)
		}
	}
	d.mu.Lock()
	unacked := d.link.Close()
	d.mu.Unlock()
	e.events = append(e.events, event{kind: evDown, peer: d.peer, why: why, unacked: unacked})
	level := e.log.Warn
	if strings.HasPrefix(why, "left") {
		level = e.log.Info
	}
	level("cluster: a member is down", zap.String("peer", p.Name), zap.String("address", p.Address),
		zap.Uint16("slot", p.Slot), zap.String("why", why), zap.Int("messages_not_acknowledged", len(unacked)))
}

// Owner implements view.Out.
func (e *effects) Owner(partition uint32, slot uint16, epoch uint64, known bool) {
	var o *ownership
	if known {
		o = &ownership{slot: slot, epoch: epoch}
	}
	e.owners[partition].Store(o)
	e.events = append(e.events, event{kind: evOwner, partition: partition, slot: slot, epoch: epoch, known: known})
}

// Refused implements view.Out.
func (e *effects) Refused(name, address, why string) {
	e.log.Warn("cluster: a member does not come up", zap.String("peer", name), zap.String("address", address), zap.String("why", why))
}

// Conflict implements view.Out.
func (e *effects) Conflict(err error) {
	e.log.Error("cluster: this member has to end", zap.Error(err))
	e.events = append(e.events, event{kind: evConflict, err: err})
}

// Close takes no more messages, waits a moment for those under way, says goodbye to the
// others, and ends everything. The handler is not called any more when it returns; it is
// not told that the others are down.
func (c *Cluster) Close(ctx context.Context) error {
	c.closing.Do(func() {
		c.closed.Store(true)
		c.cancelSources(errors.New("this member leaves the cluster"))
		c.until(ctx, c.idle)
		c.do(func(now view.Now) { c.view.Leave(now, "it ends in good order") })
		c.until(ctx, c.view.Left)
		c.end(ctx)
	})
	return c.closeErr
}

// end is Close without manners.
func (c *Cluster) end(ctx context.Context) {
	c.closed.Store(true)
	c.cancelSources(errors.New("this member ends"))
	close(c.quit)
	<-c.ended
	c.closeErr = c.carrier.Close(ctx)
	c.sources.Wait()
}

// until waits for something that the loop brings about, with a limit. The condition is
// called with the lock held.
func (c *Cluster) until(ctx context.Context, done func() bool) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c.mu.Lock()
		ok := done()
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.ended:
			return
		case <-tick.C:
		}
	}
}

// idle says whether nothing waits for a peer.
func (c *Cluster) idle() bool {
	for _, d := range c.sessions {
		if d.stats().Queued > 0 {
			return false
		}
	}
	return true
}
