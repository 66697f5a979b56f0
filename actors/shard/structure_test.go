package shard

import (
	"fmt"

	"github.com/stretchr/testify/require"
)

// structure checks that the core's lists agree, and that nothing is stuck: all that
// has no outcome is due some time, and what waits for a node is found when it comes.
func (w *world) structure() {
	c := w.core
	for i, x := range c.timers {
		require.Equal(w, i, int(x.a.slot-1))
		if i > 0 {
			require.LessOrEqual(w, c.timers[(i-1)/2].dueMs, x.dueMs)
		}
	}
	if c.rebuild != nil {
		return
	}
	w.jobList()
	parkedJobs, onNode := 0, 0
	for _, j := range c.pending.byID {
		sentJobs, left, open := int32(0), int32(0), int32(0)
		all := j.all()
		for i := range all {
			a := &all[i]
			w.placed(j, a)
			if a.is(parked) {
				parkedJobs++
			}
			if a.state == sent {
				sentJobs++
			}
			if a.state < ending {
				left++
			}
			if a.state < recorded {
				open++
			}
		}
		require.Equal(w, []int32{sentJobs, left, open}, []int32{j.sent, j.left, j.open}, j.id)
		if sentJobs > 0 {
			onNode++
		}
	}
	require.Equal(w, onNode, c.onNode)
	for _, crowd := range []*crowd{&c.away, &c.afar} {
		for node, first := range crowd.byNode {
			last := first
			for a := first; a != nil; a = a.next {
				require.Equal(w, node, a.node)
				parkedJobs--
				last = a
			}
			require.Equal(w, last, first.prev)
		}
	}
	require.Zero(w, parkedJobs)
}

// placed checks one assignment.
func (w *world) placed(j *job, a *assignment) {
	name := fmt.Sprintf("%s[%d] on %q in state %d with flags %b, attempt %d of %d, job %b, in %dms", j.id, a.index, a.node, a.state, a.flags,
		a.attempt, j.attempts, j.flags, j.deadlineMs-w.now)
	hasAlarm := j.extra != nil && j.extra.alarm.slot > 0
	if a.is(parked) {
		require.Equal(w, waiting, a.state, name)
		require.Equal(w, w.core.home(a.node) != w.core.cfg.Partition, a.is(afar), name)
	}
	switch a.state {
	case ending, recorded:
		require.Zero(w, a.slot, name)
		require.False(w, a.is(parked|over|again), name)
	case choosing:
		require.True(w, hasAlarm, name)
	default:
		require.True(w, a.slot > 0 || hasAlarm, name)
		require.Equal(w, a, j.find(a.node), name)
	}
	require.LessOrEqual(w, a.attempt, j.attempts, name)
}

// jobList checks the order of the pending jobs, and their sums.
func (w *world) jobList() {
	c := w.core
	n, bytes := 0, 0
	var low, last *job
	for j := c.pending.first; j != nil; j = j.next {
		require.Equal(w, last, j.prev)
		require.Equal(w, j, c.pending.byID[j.id])
		if last != nil {
			require.Greater(w, j.offset, last.offset)
		}
		if low == nil && j.left > 0 {
			low = j
		}
		n++
		bytes += j.bytes()
		last = j
	}
	require.Equal(w, last, c.pending.last)
	require.Len(w, c.pending.byID, n)
	require.Equal(w, bytes, c.pending.bytes)
	require.Equal(w, low, c.pending.open())
	bytes = 0
	for i := range c.books.writes {
		x := &c.books.writes[i]
		if bytes += len(x.Value); x.Stream == Dead {
			bytes += len(x.Record.Key) + len(x.Record.Value)
		}
	}
	if w.cut == nil {
		require.Equal(w, bytes, c.books.bytes)
	}
}
