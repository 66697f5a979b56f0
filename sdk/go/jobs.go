package roost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/roost-server/roost/protocol"
)

// onJob takes a JOB frame. m aliases the read buffer. Called by the reader.
func (c *Client) onJob(m *protocol.Job) {
	var event Event
	full := c.full()
	c.mu.Lock()
	c.stats.Jobs++
	if event = c.duplicate(m); event == nil {
		event = c.admit(m, full)
	}
	c.mu.Unlock()
	if event != nil {
		c.emit(event)
	}
}

// duplicate deals with a job that the client knows already and need not run again;
// nil means that it has to be admitted. Under mu.
func (c *Client) duplicate(m *protocol.Job) Event {
	t := c.tasks[string(m.JobID)]
	if t != nil && (t.state != taskEnded || t.recording || t.next != nil) {
		return c.duplicateOfTask(t, m)
	}
	if e := c.known(m.JobID); e != nil && (m.Attempt <= e.Attempt || reusable(e.Outcome)) {
		if m.Attempt > e.Attempt {
			e.Attempt, e.Shard = m.Attempt, m.Shard
		}
		c.session.sendResult(e)
		return c.duplicated(e.JobID, m.Attempt, true)
	}
	if t != nil { // its handler ignores its end: never two of one job at once
		t.next = c.newTask(m, t.handler, time.Now())
		c.sendAccepted(t)
		return c.duplicated(t.id, m.Attempt, false)
	}
	return nil
}

// known returns the result that the client has of a job, or nil. Under mu.
func (c *Client) known(jobID []byte) *Entry {
	if h := c.held[string(jobID)]; h != nil {
		return &h.Entry
	}
	return c.recent.get(jobID)
}

// duplicateOfTask deals with a job that waits, runs, or is about to have its result.
// Under mu.
func (c *Client) duplicateOfTask(t *task, m *protocol.Job) Event {
	newest := t.newest()
	if m.Attempt <= newest.attempt {
		e := c.known(m.JobID)
		answer := newest.state == taskEnded && !newest.recording && e != nil
		if answer {
			c.session.sendResult(e)
		} else if newest.state != taskEnded {
			c.sendAccepted(t)
		}
		return c.duplicated(t.id, m.Attempt, answer)
	}
	switch {
	case t.state == taskQueued: // never ran: the newer one takes its place in the line
		seq, since := t.seq, t.waitingSince
		c.discard(t)
		n := c.newTask(m, t.handler, time.Now())
		n.seq, n.waitingSince = seq, since
		c.enqueue(n)
		c.sendAccepted(n)
	case t.recording && reusable(t.outcome):
		t.attempt, t.shard = m.Attempt, m.Shard
	default: // its handler runs: the newer one waits for what comes of it
		if t.next != nil {
			c.discard(t.next)
		}
		t.next = c.newTask(m, t.handler, time.Now())
		c.sendAccepted(t)
	}
	return c.duplicated(t.id, m.Attempt, false)
}

func (c *Client) duplicated(id string, attempt uint32, answered bool) Event {
	c.stats.Duplicates++
	return JobDuplicate{JobID: id, Attempt: attempt, Answered: answered}
}

// admit queues a job that is new here, or refuses it. Under mu.
func (c *Client) admit(m *protocol.Job, full error) Event {
	if c.draining {
		return nil // left unanswered: the CLOSE that follows gives it to another attempt
	}
	h, known := c.handlers[string(m.Kind)]
	switch {
	case !known:
		offered := strings.Join(slices.Sorted(maps.Keys(c.handlers)), ", ")
		if offered == "" {
			offered = "none"
		}
		return c.refuse(m, fmt.Sprintf("unknown kind %q; this node offers: %s", m.Kind, offered))
	case full != nil:
		return c.refuse(m, "node is full: "+full.Error())
	case c.slots >= c.limit && c.queue.Len() >= c.cfg.Queue:
		return c.refuse(m, fmt.Sprintf("node is full: %d jobs run and %d wait", c.slots, c.queue.Len()))
	}
	c.enqueue(c.newTask(m, h, time.Now()))
	return nil
}

// refuse answers without running. The answer is not put into the outbox: a refusal
// is made again when the job comes again, so a full node stays bounded. Under mu.
func (c *Client) refuse(m *protocol.Job, text string) Event {
	c.stats.Refused++
	e := Entry{
		JobID: string(m.JobID), Shard: m.Shard, Attempt: m.Attempt,
		Outcome: protocol.OutcomeRefused, Error: clipText(text, protocol.MaxErrorBytes),
	}
	c.session.sendResult(&e)
	return JobRefused{JobID: e.JobID, Kind: string(m.Kind), Attempt: m.Attempt, Error: e.Error}
}

// onCancel takes a CANCEL frame. One for another attempt than the newest, or for a
// job that is unknown or has ended, is ignored. Called by the reader.
func (c *Client) onCancel(m *protocol.Cancel) {
	c.mu.Lock()
	t := c.tasks[string(m.JobID)]
	if t == nil || m.Attempt != t.newest().attempt {
		c.mu.Unlock()
		return
	}
	if t.state == taskEnded && t.next != nil {
		t = t.next
	}
	c.mu.Unlock()
	cause := ErrCancelled
	if m.Reason != "" {
		cause = fmt.Errorf("%w: %s", ErrCancelled, clipText(m.Reason, protocol.MaxTextBytes))
	}
	t.cancel(cause)
}

// onAck takes a RESULT_ACK frame. Called by the reader.
func (c *Client) onAck(m *protocol.ResultAck) {
	for i := range m.Acks {
		id, attempt := string(m.Acks[i].JobID), m.Acks[i].Attempt
		c.mu.Lock()
		h := c.held[id]
		if h == nil || h.Attempt > attempt {
			c.mu.Unlock()
			continue
		}
		delete(c.held, id)
		c.recent.add(&h.Entry)
		c.stats.Acked++
		c.workEnded()
		c.mu.Unlock()
		if err := c.cfg.Outbox.Remove(id, attempt); err != nil {
			c.emit(OutboxFailed{JobID: id, Err: err})
		}
		c.emit(ResultAcked{JobID: id, Attempt: h.Attempt})
	}
}

// run is the goroutine of one handler.
func (c *Client) run(t *task) {
	var (
		res      Result
		err      error
		returned bool
	)
	defer func() {
		if p := recover(); p != nil {
			c.emit(HandlerPanicked{JobID: t.id, Kind: t.kind, Value: p, Stack: debug.Stack()})
			err = fmt.Errorf("handler panicked: %v", p)
		} else if !returned {
			err = errors.New("handler called runtime.Goexit")
		}
		c.handlerEnded(t, res, err)
		c.handlerReturned(t)
	}()
	c.emitStarted(t)
	res, err = t.handler(t.ctx, Job{
		ID: t.id, Kind: t.kind, Attempt: t.firstAttempt, Priority: t.prio, Timeout: t.timeout, args: t.args, task: t,
	})
	returned = true
}

// handlerEnded makes the result of what a handler returned.
func (c *Client) handlerEnded(t *task, res Result, err error) {
	if err != nil && t.ctx.Err() != nil { // the error is the context's, or its consequence
		c.expire(t)
		return
	}
	c.finish(t, outcomeOf(res, err))
}

// outcomeOf turns a handler's return values into outcome, error and output.
func outcomeOf(res Result, err error) Entry {
	e := Entry{Outcome: res.Outcome, Error: res.Error}
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		e.Outcome, e.Error = protocol.OutcomeRefused, err.Error()
	case err != nil:
		e.Outcome, e.Error = protocol.OutcomeFailed, err.Error()
	case e.Outcome > protocol.OutcomeCancelled:
		e.Outcome, e.Error = protocol.OutcomeFailed, fmt.Sprintf("handler reported outcome %q, which is not a node's to say", res.Outcome)
	}
	out, encErr := safeEncode(res.Output)
	if encErr != nil {
		if e.Outcome == protocol.OutcomeOK {
			e.Outcome = protocol.OutcomeFailed
		}
		e.Error = strings.TrimPrefix(e.Error+"; output "+encErr.Error(), "; ")
	}
	e.Output, e.Error = out, clipText(e.Error, protocol.MaxErrorBytes)
	return e
}

// safeEncode survives an encoder method of the program's that panics.
func safeEncode(v any) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, fmt.Errorf("cannot be encoded as msgpack: panic: %v", p)
		}
	}()
	return encodeValue(v)
}

func (c *Client) emitStarted(t *task) {
	c.emit(JobStarted{JobID: t.id, Kind: t.kind, Attempt: t.firstAttempt, Waited: time.Since(t.waitingSince)})
}

// progress sends a running job's report.
func (c *Client) progress(ctx context.Context, t *task, data []byte) error {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return ErrNotConnected
	}
	if err := s.out.waitRoom(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.state == taskEnded {
		return ErrJobEnded
	}
	if c.session != s {
		return ErrNotConnected
	}
	n := t.newest()
	m := protocol.Progress{JobID: []byte(t.id), Shard: n.shard, Attempt: n.attempt, Data: data}
	return s.out.send(&m)
}
