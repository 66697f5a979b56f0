package shard

import "container/heap"

// timer is one thing that is due later; it is embedded in what it is for. idle
// timers have index -1.
type timer struct {
	dueMs int64
	index int
	a     *assignment // exactly one of a and j is set
	j     *job
}

// timers is a binary heap of timers by due time.
type timers []*timer

// set arms or moves t.
func (h *timers) set(t *timer, dueMs int64) {
	t.dueMs = dueMs
	if t.index < 0 {
		heap.Push(h, t)
		return
	}
	heap.Fix(h, t.index)
}

// stop disarms t.
func (h *timers) stop(t *timer) {
	if t.index >= 0 {
		heap.Remove(h, t.index)
	}
}

// due takes the next timer due at nowMs, or nil.
func (h *timers) due(nowMs int64) *timer {
	if len(*h) == 0 || (*h)[0].dueMs > nowMs {
		return nil
	}
	return heap.Pop(h).(*timer)
}

// Len implements heap.Interface.
func (h timers) Len() int { return len(h) }

// Less implements heap.Interface.
func (h timers) Less(i, j int) bool { return h[i].dueMs < h[j].dueMs }

// Swap implements heap.Interface.
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *timers) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *timers) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = -1
	return t
}
