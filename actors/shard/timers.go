package shard

// alarm is an entry of timers: an assignment and when it is due.
type alarm struct {
	dueMs int64
	a     *assignment
}

// timers is a binary heap of assignments by the time at which something is due for
// them. An assignment knows its place in it: slot is one more than the index, and 0
// when it has no timer.
type timers []alarm

// set arms or moves a's timer.
func (h *timers) set(a *assignment, dueMs int64) {
	if a.slot == 0 {
		*h = append(*h, alarm{dueMs, a})
		a.slot = int32(len(*h))
		h.up(len(*h) - 1)
		return
	}
	i := int(a.slot - 1)
	(*h)[i].dueMs = dueMs
	if !h.up(i) {
		h.down(i)
	}
}

// stop disarms a's timer.
func (h *timers) stop(a *assignment) {
	if a.slot == 0 {
		return
	}
	i, last := int(a.slot-1), len(*h)-1
	a.slot = 0
	moved := (*h)[last]
	(*h)[last] = alarm{}
	*h = (*h)[:last]
	if i < last {
		h.put(i, moved)
		if !h.up(i) {
			h.down(i)
		}
	}
	if cap(*h) > 1024 && last < cap(*h)/8 { // a crowd is gone
		*h = append(make(timers, 0, cap(*h)/4), *h...)
	}
}

// due takes the next assignment due at nowMs, or nil.
func (h *timers) due(nowMs int64) *assignment {
	if len(*h) == 0 || (*h)[0].dueMs > nowMs {
		return nil
	}
	a := (*h)[0].a
	h.stop(a)
	return a
}

// at returns when a is due, 0 when it has no timer.
func (h timers) at(a *assignment) int64 {
	if a.slot == 0 {
		return 0
	}
	return h[a.slot-1].dueMs
}

func (h timers) put(i int, x alarm) {
	h[i] = x
	x.a.slot = int32(i + 1)
}

// up moves an entry towards the root; it reports whether it moved.
func (h timers) up(i int) bool {
	x, from := h[i], i
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].dueMs <= x.dueMs {
			break
		}
		h.put(i, h[parent])
		i = parent
	}
	h.put(i, x)
	return i != from
}

func (h timers) down(i int) {
	x := h[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].dueMs < h[child].dueMs {
			child++
		}
		if x.dueMs <= h[child].dueMs {
			break
		}
		h.put(i, h[child])
		i = child
	}
	h.put(i, x)
}
