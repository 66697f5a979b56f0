package roost

import (
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/roost-server/roost/protocol"
)

type taskState uint8

const (
	taskQueued  taskState = iota // in Client.queue, or waiting as another's next
	taskRunning                  // its handler runs and has no result yet
	taskEnded                    // it has an outcome; the handler may still run
)

// task is one attempt of a job on this node.
type task struct {
	client  *Client
	id      string
	kind    string
	args    []byte
	prio    uint8
	seq     uint64 // order of arrival
	timeout time.Duration
	handler Handler
	// firstAttempt is the attempt as the handler sees it.
	firstAttempt uint32
	waitingSince time.Time // the arrival of the first attempt that waited here
	ctx          context.Context
	cancel       context.CancelCauseFunc
	release      func() // stops the timer and the watch of ctx

	// Guarded by Client.mu.
	state   taskState
	attempt uint32 // raised by duplicates while the result may still carry it
	shard   uint32
	outcome protocol.Outcome // once ended
	index   int              // in the queue, -1 outside
	started time.Time
	// The task leaves Client.tasks when neither holds any more.
	recording bool        // between its end and its result's place in held
	occupies  bool        // a slot, until its handler returns
	next      *task       // a newer attempt, for after this one's handler
	accept    *time.Timer // sends ACCEPTED
}

// newest returns the task whose attempt members know last; under mu.
func (t *task) newest() *task {
	if t.next != nil {
		return t.next
	}
	return t
}

// newTask makes the task of a JOB and starts its clock; under mu. m is copied from.
func (c *Client) newTask(m *protocol.Job, h Handler, now time.Time) *task {
	c.seq++
	t := &task{
		client: c, id: string(m.JobID), kind: string(m.Kind), args: append([]byte(nil), m.Args...),
		prio: m.Priority, seq: c.seq, timeout: time.Duration(m.TimeoutMs) * time.Millisecond, waitingSince: now,
		handler: h, firstAttempt: m.Attempt, attempt: m.Attempt, shard: m.Shard, index: -1,
	}
	ctx, cancel := context.WithCancelCause(c.base)
	t.ctx, t.cancel = ctx, cancel
	endTimer := context.CancelFunc(func() {})
	if t.timeout > 0 {
		t.ctx, endTimer = context.WithDeadlineCause(ctx, now.Add(t.timeout), ErrTimeout)
	}
	endWatch := context.AfterFunc(t.ctx, func() { c.expire(t) })
	t.release = func() {
		endWatch()
		endTimer()
		cancel(nil)
	}
	if c.session != nil {
		t.accept = time.AfterFunc(c.session.acceptAfter(), func() { c.acceptDue(t) })
	}
	return t
}

// discard drops a task that never ran; under mu.
func (c *Client) discard(t *task) {
	t.state = taskEnded
	if t.index >= 0 {
		heap.Remove(&c.queue, t.index)
	}
	t.stopAccept()
	t.release()
}

func (t *task) stopAccept() {
	if t.accept != nil {
		t.accept.Stop()
	}
}

// acceptDue tells the member that a job is still worked on.
func (c *Client) acceptDue(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.state != taskEnded {
		c.sendAccepted(t)
	}
}

// sendAccepted runs under mu.
func (c *Client) sendAccepted(t *task) {
	if c.session != nil {
		n := t.newest()
		c.session.out.send(&protocol.Accepted{JobID: []byte(n.id), Shard: n.shard, Attempt: n.attempt})
	}
}

// enqueue gives a task a place in the queue and starts what may start; under mu.
func (c *Client) enqueue(t *task) {
	t.state = taskQueued
	c.tasks[t.id] = t
	heap.Push(&c.queue, t)
	c.schedule()
}

// schedule starts queued tasks while there are slots; under mu.
func (c *Client) schedule() {
	for c.slots < c.limit && c.queue.Len() > 0 {
		t := heap.Pop(&c.queue).(*task)
		t.state, t.occupies, t.started = taskRunning, true, time.Now()
		c.slots++
		go c.run(t)
	}
}

// expire ends a task whose context ended before its handler did.
func (c *Client) expire(t *task) {
	cause := context.Cause(t.ctx)
	switch {
	case errors.Is(cause, ErrTimeout):
		c.finish(t, Entry{Outcome: protocol.OutcomeTimeout, Error: cause.Error()})
	case errors.Is(cause, ErrCancelled):
		c.finish(t, Entry{Outcome: protocol.OutcomeCancelled, Error: cause.Error()})
	}
	// On shutdown the handler may still end properly; without it there is no result
	// and the job is delivered again.
}

// reusable says whether a result answers later attempts of its job: only when the
// job ran to its end.
func reusable(o protocol.Outcome) bool {
	return o == protocol.OutcomeOK || o == protocol.OutcomeFailed
}

// finish records the outcome of t once; later calls do nothing. e has the outcome,
// error and output. It may block in the outbox.
func (c *Client) finish(t *task, e Entry) {
	now := time.Now()
	c.mu.Lock()
	if t.state == taskEnded {
		c.mu.Unlock()
		return
	}
	t.state, t.outcome = taskEnded, e.Outcome
	t.stopAccept()
	if t.index >= 0 {
		heap.Remove(&c.queue, t.index)
	}
	if !t.started.IsZero() {
		e.Duration = now.Sub(t.started)
	}
	// A newer attempt that waited is answered by this result, or cancelled with it;
	// else it runs next, and nobody waits for this result any more.
	if n := t.next; n != nil {
		if !reusable(e.Outcome) && !errors.Is(context.Cause(t.ctx), ErrCancelled) {
			c.mu.Unlock()
			return
		}
		t.attempt, t.shard, t.next = n.attempt, n.shard, nil
		c.discard(n)
	}
	t.recording = true
	e.JobID, e.Shard, e.Attempt = t.id, t.shard, t.attempt
	c.mu.Unlock()
	c.record(t, e)
}

// record stores and sends the result of a task that is marked as recording.
func (c *Client) record(t *task, e Entry) {
	if err := c.cfg.Outbox.Put(e); err != nil {
		c.emit(OutboxFailed{JobID: t.id, Err: err})
	}
	c.emit(JobFinished{JobID: t.id, Kind: t.kind, Attempt: e.Attempt, Outcome: e.Outcome, Error: e.Error, Duration: e.Duration})

	c.mu.Lock()
	defer c.mu.Unlock()
	e.Shard, e.Attempt = t.shard, t.attempt // a duplicate may have raised them during Put
	c.seq++
	h := &heldResult{Entry: e, seq: c.seq}
	c.held[t.id] = h
	c.stats.Finished[e.Outcome]++
	t.recording = false
	c.sendHeld(h)
	c.settle(t)
}

// settle takes a task out of the table once nothing holds it there, and lets the
// attempt that waited for it go on; under mu.
func (c *Client) settle(t *task) {
	if t.recording || t.occupies || t.state != taskEnded {
		return
	}
	t.release()
	if c.tasks[t.id] == t {
		delete(c.tasks, t.id)
		if n := t.next; n != nil && c.stopping {
			c.discard(n)
		} else if n != nil && n.state == taskQueued {
			c.enqueue(n)
		}
	}
	t.next = nil
	c.workEnded()
}

// sendHeld sends a result on the current connection; under mu.
func (c *Client) sendHeld(h *heldResult) {
	if c.session != nil {
		h.sent = time.Now()
		c.session.sendResult(&h.Entry)
	}
}

// maxReminders bounds what one heartbeat sends again, so that a member which cannot have
// results recorded for long does not get all of them at once.
const maxReminders = 16

// remind sends results again that were sent long ago and not acknowledged, the oldest
// first: the member that had them recorded may have died before it said so. Called by the
// writer.
func (c *Client) remind(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != s || s.hello != nil || len(c.held) == 0 {
		return // or what HELLO could not carry is still on its way
	}
	n, due := 0, time.Now().Add(-c.cfg.ResendAfter)
	for _, h := range c.heldInOrder() {
		if n == maxReminders {
			return
		}
		if h.sent.Before(due) {
			c.sendHeld(h)
			n++
		}
	}
}

// handlerReturned frees t's slot. A task without a result by now gets none.
func (c *Client) handlerReturned(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots--
	t.occupies, t.state = false, taskEnded
	t.stopAccept()
	c.settle(t)
	c.schedule()
}

// workEnded wakes whoever waits for the client to come to rest; under mu.
func (c *Client) workEnded() {
	if c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// taskQueue orders by priority, then arrival. It implements heap.Interface.
type taskQueue []*task

func (q taskQueue) Len() int { return len(q) }

func (q taskQueue) Less(i, j int) bool {
	if q[i].prio != q[j].prio {
		return q[i].prio > q[j].prio
	}
	return q[i].seq < q[j].seq
}

func (q taskQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *taskQueue) Push(x any) {
	t := x.(*task)
	t.index = len(*q)
	*q = append(*q, t)
}

func (q *taskQueue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.index = -1
	return t
}
