package session

import "github.com/roost-server/roost/actors"

// desk is what a session keeps while its node has jobs, or acknowledgements wait for it:
// most nodes of a large fleet have none, so an idle session has no desk. The desks of an
// event loop's sessions are reused.
type desk struct {
	inflight []inflight
	queue    []actors.Delivery // by priority, then by arrival
	acks     heldAcks
	one      [1]inflight // where inflight begins
}

const (
	// maxFreeDesks bounds the desks that wait for reuse: mostly some 4 MB on an event loop,
	// until its nodes have been idle for a while.
	maxFreeDesks = 1 << 14
	// fewJobs is for how many jobs a desk keeps the room.
	fewJobs = 8
)

// desks are those that are free.
type desks []*desk

// open gives the core a desk, unless it has one.
func (c *Core) open(eff *Effects) {
	if c.desk != nil {
		return
	}
	if last := len(eff.desks) - 1; last >= 0 {
		c.desk, eff.desks[last] = eff.desks[last], nil
		eff.desks = eff.desks[:last]
		return
	}
	c.desk = &desk{}
	c.inflight = c.one[:0]
}

// close takes the desk back when nothing is on it.
func (c *Core) close(eff *Effects) {
	d := c.desk
	if len(d.inflight)+len(d.queue)+int(d.acks.count) > 0 {
		return
	}
	c.desk = nil
	if len(eff.desks) < maxFreeDesks {
		d.queue = nil
		if cap(d.inflight) > fewJobs {
			d.inflight = d.one[:0]
		}
		if cap(d.acks.list) > maxHeldAckBytes {
			d.acks.list = nil
		}
		eff.desks = append(eff.desks, d)
	}
}
