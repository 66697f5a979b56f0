package session

import (
	"slices"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// MaxQueued caps the deliveries that wait at one session for the node's credit. A
// shard that hears busy tries again later, so this bounds memory, not work.
const MaxQueued = 1024

// overdueMs is how long past its timeout a job counts against a node's credit. The
// shard that has it withdraws it sooner; this is for jobs that no shard knows of any
// more, since it began anew.
const overdueMs = 30_000

// Effects is what a step of the core wants done, in order. The caller owns and
// reuses it.
type Effects struct {
	Cancels []actors.Withdrawal // to be told to the node; first, as they make room
	Jobs    []actors.Delivery   // to be sent to the node
	Notices []ShardNotice       // to be told to shards
	desks   desks
}

// ShardNotice is a notice and the shard that it is for.
type ShardNotice struct {
	Shard  uint32
	Notice actors.Notice
}

// Reset empties the effects for the next step.
func (e *Effects) Reset() {
	clear(e.Cancels)
	clear(e.Jobs)
	clear(e.Notices)
	e.Cancels, e.Jobs, e.Notices = e.Cancels[:0], e.Jobs[:0], e.Notices[:0]
}

// inflight is a delivery that the node has and has not answered.
type inflight struct {
	jobID   string
	untilMs int64 // counts against the credit; 0: for ever
	shard   uint32
	attempt uint32
}

// Core is a session's state machine: which deliveries the node has, and which wait
// for its credit. It knows no socket, actor or clock. An idle node's core holds no
// memory beyond the struct.
//
// Invariants: len(inflight) <= credit except after the node lowered its credit; a
// job is at most once in inflight and queue together.
type Core struct {
	node        string
	incarnation uint64
	*desk              // nil while there is nothing to keep
	credit      uint16 // at most protocol.MaxCredit
	// Of the session; they stand here for the sake of its size.
	state  state
	number uint32 // of its id
}

// Deliver takes one delivery for the node.
func (c *Core) Deliver(nowMs int64, d *actors.Delivery, eff *Effects) {
	c.open(eff)
	c.deliver(nowMs, d, eff)
	c.close(eff)
}

func (c *Core) deliver(nowMs int64, d *actors.Delivery, eff *Effects) {
	if i := c.find(d.JobID); i >= 0 {
		// A restarted shard sends again what the node may already have: the node
		// sorts out duplicates, the credit is counted once.
		c.inflight[i].attempt, c.inflight[i].shard = d.Attempt, d.Shard
		c.inflight[i].untilMs = until(nowMs, d)
		eff.Jobs = append(eff.Jobs, *d)
		return
	}
	if i := c.findQueued(d.JobID); i >= 0 {
		c.queue[i] = *d
		c.notice(eff, actors.Queued, d)
		return
	}
	if len(c.inflight) >= int(c.credit) {
		c.overdue(nowMs, eff)
	}
	if len(c.inflight) < int(c.credit) {
		c.send(nowMs, d, eff)
		return
	}
	if len(c.queue) >= MaxQueued {
		c.notice(eff, actors.Busy, d)
		return
	}
	at := len(c.queue)
	for at > 0 && c.queue[at-1].Priority < d.Priority {
		at--
	}
	c.queue = slices.Insert(c.queue, at, *d)
	c.notice(eff, actors.Queued, d)
}

func until(nowMs int64, d *actors.Delivery) int64 { return nowMs + int64(d.TimeoutMs) + overdueMs }

// Overdue forgets jobs that the node should have answered long ago, and has it forget
// them too, when others wait for the room.
func (c *Core) Overdue(nowMs int64, eff *Effects) {
	if c.desk != nil {
		c.overdue(nowMs, eff)
		c.close(eff)
	}
}

func (c *Core) overdue(nowMs int64, eff *Effects) {
	for i := len(c.inflight) - 1; i >= 0; i-- {
		if f := &c.inflight[i]; f.untilMs != 0 && f.untilMs <= nowMs {
			eff.Cancels = append(eff.Cancels, actors.Withdrawal{JobID: f.jobID, Attempt: f.attempt, Reason: "long overdue"})
			c.drop(i)
		}
	}
	c.release(nowMs, eff)
}

// Answered notes that the node sent a result; it reports whether the job was in
// flight here. A result that was not may be one held from an earlier session.
func (c *Core) Answered(nowMs int64, jobID []byte, eff *Effects) bool {
	if c.desk == nil {
		return false
	}
	for i := range c.inflight {
		if c.inflight[i].jobID == string(jobID) {
			c.drop(i)
			c.release(nowMs, eff)
			c.close(eff)
			return true
		}
	}
	return false
}

// Withdraw forgets a delivery. It reports whether the node has it, and so has to be
// told to cancel.
func (c *Core) Withdraw(nowMs int64, jobID string, attempt uint32, eff *Effects) bool {
	if c.desk == nil {
		return false
	}
	if i := c.findQueued(jobID); i >= 0 && c.queue[i].Attempt <= attempt {
		c.queue = slices.Delete(c.queue, i, i+1)
		c.close(eff)
		return false
	}
	if i := c.find(jobID); i >= 0 && c.inflight[i].attempt <= attempt {
		c.drop(i)
		c.release(nowMs, eff)
		c.close(eff)
		return true
	}
	return false
}

// Resume notes a job that the node runs from an earlier session, for how long is not
// known: the node reports its end. It reports false
// when the session has the job already, or as many as any node may have at once.
func (c *Core) Resume(jobID string, shard, attempt uint32, eff *Effects) bool {
	if c.InFlight() >= protocol.MaxCredit || c.desk != nil && c.find(jobID) >= 0 {
		return false
	}
	c.open(eff)
	c.inflight = append(c.inflight, inflight{jobID: jobID, shard: shard, attempt: attempt})
	return true
}

// SetCredit changes how many jobs the node takes at once.
func (c *Core) SetCredit(nowMs int64, credit uint32, eff *Effects) {
	c.credit = uint16(min(credit, protocol.MaxCredit))
	if c.desk != nil {
		c.release(nowMs, eff)
		c.close(eff)
	}
}

// End reports everything that was in flight or queued as lost or undelivered.
func (c *Core) End(eff *Effects) {
	if c.desk == nil {
		return
	}
	for _, f := range c.inflight {
		eff.Notices = append(eff.Notices, ShardNotice{f.shard, actors.Notice{
			Kind: actors.Lost, Node: c.node, JobID: f.jobID, Attempt: f.attempt, Incarnation: c.incarnation}})
	}
	for i := range c.queue {
		c.notice(eff, actors.Undelivered, &c.queue[i])
	}
	clear(c.inflight)
	c.inflight, c.queue = c.inflight[:0], nil
	c.close(eff)
}

// Has calls fn for each job that the node has of some shards, which due has by their numbers.
func (c *Core) Has(due []bool, fn func(shard uint32, jobID string, attempt uint32)) {
	for i := range c.InFlight() {
		if f := &c.inflight[i]; f.shard < uint32(len(due)) && due[f.shard] {
			fn(f.shard, f.jobID, f.attempt)
		}
	}
}

// InFlight returns how many jobs the node has, and Queued how many wait for it.
func (c *Core) InFlight() int {
	if c.desk == nil {
		return 0
	}
	return len(c.inflight)
}

// Queued returns how many deliveries wait for the node's credit.
func (c *Core) Queued() int {
	if c.desk == nil {
		return 0
	}
	return len(c.queue)
}

func (c *Core) send(nowMs int64, d *actors.Delivery, eff *Effects) {
	c.inflight = append(c.inflight, inflight{jobID: d.JobID, untilMs: until(nowMs, d), shard: d.Shard, attempt: d.Attempt})
	eff.Jobs = append(eff.Jobs, *d)
}

// release sends what waits, as far as the credit goes.
func (c *Core) release(nowMs int64, eff *Effects) {
	for len(c.queue) > 0 && len(c.inflight) < int(c.credit) {
		d := c.queue[0]
		c.queue = slices.Delete(c.queue, 0, 1)
		c.send(nowMs, &d, eff)
		c.notice(eff, actors.Sent, &d)
	}
	if len(c.queue) == 0 {
		c.queue = nil
	}
}

func (c *Core) drop(i int) {
	last := len(c.inflight) - 1
	c.inflight[i] = c.inflight[last]
	c.inflight[last] = inflight{}
	c.inflight = c.inflight[:last]
}

func (c *Core) find(jobID string) int {
	for i := range c.inflight {
		if c.inflight[i].jobID == jobID {
			return i
		}
	}
	return -1
}

func (c *Core) findQueued(jobID string) int {
	for i := range c.queue {
		if c.queue[i].JobID == jobID {
			return i
		}
	}
	return -1
}

func (c *Core) notice(eff *Effects, kind actors.NoticeKind, d *actors.Delivery) {
	eff.Notices = append(eff.Notices, ShardNotice{d.Shard, actors.Notice{
		Kind: kind, Node: c.node, JobID: d.JobID, Attempt: d.Attempt, Incarnation: c.incarnation}})
}
