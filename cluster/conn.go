package cluster

import (
	"sync"
	"sync/atomic"

	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/cluster/view"
)

// conn is one session with a peer: it lasts from Up to Down.
type conn struct {
	peer    Peer
	address string
	cert    string
	isDirty atomic.Bool // it is in the dirtyList

	mu   sync.Mutex
	link *link.Link
	next int64 // mono: when the link wants its Tick
}

func newConn(p view.Peer, queueBytes int) *conn {
	return &conn{
		peer: Peer{
			Slot: p.Slot, Name: p.Name, Instance: p.Instance,
			NodesAddr: p.NodesAddr, APIAddr: p.APIAddr, Version: p.Version,
		},
		address: p.Address, cert: p.Cert,
		// A session is what the link calls an instance: neither side has it twice.
		link: link.New(link.Config{Self: p.Session, Peer: p.TheirSession, QueueBytes: queueBytes}),
	}
}

func (c *conn) send(mono int64, body []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link.Send(mono, body)
}

// flush sends what may go, and returns when the link wants to be looked at again.
func (c *conn) flush(mono int64, carry carrier) (next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Tick is Flush and what is due by the clock.
	c.link.Tick(mono, func(packet []byte) { carry.Send(c.address, packet) })
	c.next = max(c.link.NextMs(), mono+1)
	return c.next
}

func (c *conn) due() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

func (c *conn) stats() link.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link.Stats()
}

// dirtyList is the conns that have something to send since the loop's last turn.
type dirtyList struct {
	mu    sync.Mutex
	conns []*conn
}

// add reports whether the conn was not in the list yet.
func (d *dirtyList) add(c *conn) bool {
	if c.isDirty.Swap(true) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns = append(d.conns, c)
	return true
}

// take empties the list into a slice that is given back with the next take. A conn that is
// added from now on is in the list again.
func (d *dirtyList) take(spare []*conn) []*conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(spare)
	taken := d.conns
	d.conns = spare[:0]
	for _, c := range taken {
		c.isDirty.Store(false)
	}
	return taken
}
