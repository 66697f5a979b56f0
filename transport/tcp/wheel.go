package tcp

// wheelSlots is the wheel's size. With ticks of 250 ms one turn is 256 s: a
// connection with a longer idle time is looked at once a turn.
const wheelSlots = 1024

// noSlot marks a connection that is in no slot.
const noSlot = ^uint16(0)

// wheel is a hashed timing wheel (Varghese and Lauck, 1987) of one turn: a slot is a
// doubly linked list through the connections, so adding, moving and removing are
// O(1) and allocate nothing. It knows no clock; advance is told the tick.
//
// Times are ticks in 32 bits that wrap; they are compared by their difference. A
// time further off than one turn waits in the farthest slot, and whoever answers for
// it there says how long it is still to wait. That is also how activity is cheap: it
// moves nothing in the wheel, the answer is read from the connection when its slot
// comes round.
type wheel struct {
	slots [wheelSlots]*Conn
	now   uint32 // the last tick that was handled
	count int
}

// after reports whether tick a is later than b.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// schedule puts c where it is looked at on the tick due, moving it when it is in the
// wheel already. A due tick that has passed means the next one.
func (w *wheel) schedule(c *Conn, due uint32) {
	w.remove(c)
	if !after(due, w.now) {
		due = w.now + 1
	} else if due-w.now >= wheelSlots {
		due = w.now + wheelSlots - 1
	}
	slot := due % wheelSlots
	c.slot = uint16(slot)
	c.prev, c.next = nil, w.slots[slot]
	if c.next != nil {
		c.next.prev = c
	}
	w.slots[slot] = c
	w.count++
}

// remove takes c out of the wheel; nothing happens when it is not in it.
func (w *wheel) remove(c *Conn) {
	if c.slot == noSlot {
		return
	}
	if c.prev == nil {
		w.slots[c.slot] = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next, c.slot = nil, nil, noSlot
	w.count--
}

// due returns the tick on which c, which is in the wheel, is looked at.
func (w *wheel) due(c *Conn) uint32 {
	return w.now + 1 + (uint32(c.slot)-w.now-1)%wheelSlots
}

// advance handles all ticks up to and including now. Each connection whose slot
// comes is taken out and given to expire, which may put it, or any other, back or
// take others out.
func (w *wheel) advance(now uint32, expire func(*Conn)) {
	for after(now, w.now) {
		w.now++
		// What expire schedules is at least one tick and less than a turn away, so
		// this slot only becomes shorter.
		slot := &w.slots[w.now%wheelSlots]
		for c := *slot; c != nil; c = *slot {
			w.remove(c)
			expire(c)
		}
	}
}

// all returns every connection in the wheel.
func (w *wheel) all() []*Conn {
	out := make([]*Conn, 0, w.count)
	for _, c := range w.slots {
		for ; c != nil; c = c.next {
			out = append(out, c)
		}
	}
	return out
}
