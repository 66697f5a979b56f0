package shard

import (
	"fmt"
	"strings"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Config is what a shard's core goes by.
type Config struct {
	Partition  uint32
	Partitions uint32
	Member     string // written into results

	// GraceMs is how long past an attempt's timeout the shard still waits for the
	// result: the node says timeout itself, so this covers the way there and back.
	GraceMs int64
	// RetryMs is the pause before a delivery is tried again that a busy session or a
	// missing one turned away.
	RetryMs int64
	// SelectMs is how long the other shards may take to name candidates; ChooseMs how
	// long a selector that finds too few nodes keeps looking, once every RetryMs.
	SelectMs, ChooseMs int64
	// LocateMs is how long the shard waits for another to say where a node is before it
	// asks again: questions and answers are lost when a shard restarts or moves.
	LocateMs int64
	// EarlyMs is how long a result whose job is not known is kept for a job record
	// that may still come: after a restart nodes are faster than Kafka.
	EarlyMs int64
	// MaxPending is the number of records past the watermark, and MaxPendingBytes the
	// memory of the jobs among them, above which the shard asks to be fed no more.
	MaxPending      int
	MaxPendingBytes int
}

// DefaultConfig returns the values that fit a network of nodes around the world.
func DefaultConfig() Config {
	return Config{
		GraceMs: 2_000, RetryMs: 500, SelectMs: 250, ChooseMs: 5_000, LocateMs: 10_000, EarlyMs: 30_000,
		MaxPending: 10_000, MaxPendingBytes: 32 << 20,
	}
}

// Stats counts what a core did. It is read through the actor.
type Stats struct {
	Jobs       uint64 // records taken
	Duplicates uint64 // records whose job id is pending or was finished lately
	Invalid    uint64
	Outcomes   [protocol.OutcomeInvalid + 1]uint64
	Deliveries uint64
	Unknown    uint64 // results for a job that is not known
	Late       uint64 // results for an assignment that had its outcome already
}

// Core is the ledger and directory of one partition: a plain state machine. Events
// and the time go in, effects come out; nothing in it knows Kafka, sockets, actors
// or the clock. It belongs to one goroutine at a time.
//
// Invariants: a job is in jobs from its record until its last outcome is recorded in
// Kafka; an assignment gets exactly one outcome; the watermark never passes a record
// whose outcomes are not all recorded.
type Core struct {
	cfg    Config
	shards func() []uint32 // the shards to be asked for candidates, this one included
	jobs   map[string]*job
	away   map[string][]*assignment // by node; those in state waiting
	timers timers
	dir    directory
	mark   *Watermark
	recent recent
	early  early
	stats  Stats

	nextOffset int64 // every record before it was taken
	bytes      int   // of the pending jobs, about

	nowMs int64 // of the step under way
	eff   *Effects
}

// NewCore returns an empty core. shards tells which shards exist at the moment.
func NewCore(cfg Config, shards func() []uint32) *Core {
	for _, pause := range []*int64{&cfg.RetryMs, &cfg.SelectMs, &cfg.LocateMs} {
		*pause = max(1, *pause) // without a pause one tick would never end
	}
	return &Core{
		cfg: cfg, shards: shards, jobs: map[string]*job{}, away: map[string][]*assignment{},
		dir: newDirectory(), mark: NewWatermark(), recent: newRecent(), early: newEarly(),
	}
}

// begin starts a step.
func (c *Core) begin(nowMs int64, eff *Effects) { c.nowMs, c.eff = nowMs, eff }

// Records takes records of the partition, in order.
func (c *Core) Records(nowMs int64, records []actors.Record, eff *Effects) {
	c.begin(nowMs, eff)
	for i := range records {
		c.record(&records[i])
	}
}

func (c *Core) record(r *actors.Record) {
	if r.Offset < c.nextOffset {
		return // fed again; it is in the ledger already
	}
	c.nextOffset = r.Offset + 1
	c.stats.Jobs++
	seq := c.mark.Add(r.Offset)
	rec, err := record.ParseJob(r.ContentType, r.Value)
	if err != nil {
		c.stats.Invalid++
		c.stats.Outcomes[protocol.OutcomeInvalid]++
		c.eff.Dead = append(c.eff.Dead, Dead{Record: *r, Reason: err.Error(), Token: &Token{seq: seq, owner: c, Shard: c.cfg.Partition}})
		return
	}
	if c.jobs[rec.ID] != nil || c.recent.byID[rec.ID] != nil {
		c.stats.Duplicates++ // the first one stands
		c.done(seq)
		return
	}
	j := c.newJob(rec, r, seq)
	c.jobs[rec.ID] = j
	c.charge(j, jobBytes+len(r.Value)+len(j.assignments)*assignmentBytes)
	c.claim(j)
	if rec.NotBeforeMs > c.nowMs {
		c.timers.set(&j.timer, min(rec.NotBeforeMs, j.deadlineMs))
		return
	}
	c.start(j)
}

// claim takes the results that were faster than Kafka.
func (c *Core) claim(j *job) {
	for i := range j.assignments {
		if a := &j.assignments[i]; a.node != "" {
			if er := c.early.take(j.rec.ID, a.node); er != nil {
				c.result(er.gate, &er.result)
			}
		}
	}
}

// start looks for the job's nodes.
func (c *Core) start(j *job) {
	if j.rec.Target.Select != nil {
		c.choose(j)
		return
	}
	for i := range j.assignments {
		if a := &j.assignments[i]; a.state == waiting { // else it was under way before a restart
			c.place(a)
		}
	}
}

// place delivers an assignment, or lets it wait for its node.
func (c *Core) place(a *assignment) {
	if a.state >= ending {
		return
	}
	if a.attempt >= a.job.rec.Attempts {
		c.end(a, a.cause, "all attempts are used up", nil)
		return
	}
	if a.job.deadlineMs <= c.nowMs {
		c.expire(a)
		return
	}
	home := uint32(record.Partition(a.node, int32(c.cfg.Partitions)))
	if home == c.cfg.Partition {
		if loc, ok := c.dir.find(a.node); ok {
			c.deliver(a, &loc)
			return
		}
		c.wait(a)
		return
	}
	c.wait(a)
	c.timers.set(&a.timer, min(c.nowMs+c.cfg.LocateMs, a.job.deadlineMs))
	c.eff.Asks = append(c.eff.Asks, Ask{Shard: home, Message: &Locate{From: c.cfg.Partition, Node: a.node}})
}

// run gives the attempt its time from now on.
func (c *Core) run(a *assignment) {
	a.overMs = c.nowMs + a.job.rec.Timeout.Milliseconds() + c.cfg.GraceMs
	c.timers.set(&a.timer, a.overMs)
}

// wait parks an assignment until its node registers or the deadline passes.
func (c *Core) wait(a *assignment) {
	if a.state != waiting || !a.parked {
		a.state, a.parked = waiting, true
		c.away[a.node] = append(c.away[a.node], a)
	}
	c.timers.set(&a.timer, a.job.deadlineMs)
}

// unpark takes an assignment out of those that wait for the node.
func (c *Core) unpark(a *assignment) {
	if !a.parked {
		return
	}
	a.parked = false
	list := c.away[a.node]
	for i := range list {
		if list[i] == a {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if len(list) == 0 {
		delete(c.away, a.node)
	} else {
		c.away[a.node] = list
	}
}

// deliver sends the next attempt to where the node is.
func (c *Core) deliver(a *assignment, loc *Location) {
	c.unpark(a)
	if !loc.Profile.Offers(a.job.rec.Kind) {
		c.end(a, protocol.OutcomeRefused, fmt.Sprintf("node %s does not offer kind %q; it offers: %s",
			a.node, a.job.rec.Kind, strings.Join(loc.Profile.Kinds, ", ")), nil)
		return
	}
	a.attempt++
	a.state, a.gate, a.incarnation = sent, loc.Gate, loc.Incarnation
	c.run(a)
	c.stats.Deliveries++
	c.eff.Deliveries = append(c.eff.Deliveries, GateDelivery{Gate: loc.Gate, Delivery: actors.Delivery{
		Node: a.node, JobID: a.job.rec.ID, Kind: a.job.rec.Kind, Args: a.job.rec.Args, Shard: c.cfg.Partition,
		Attempt: a.attempt, TimeoutMs: uint32(a.job.rec.Timeout.Milliseconds()), Priority: a.job.rec.Priority,
	}})
}

// end gives the assignment its outcome and has it recorded.
func (c *Core) end(a *assignment, o protocol.Outcome, reason string, r *actors.Result) {
	c.unpark(a)
	c.timers.stop(&a.timer)
	a.state, a.outcome = ending, o
	c.stats.Outcomes[o]++
	j := a.job
	res := record.Result{
		Job: j.rec.ID, Node: a.node, Index: a.index, Outcome: o, Attempt: a.attempt, Kind: j.rec.Kind,
		Tenant: j.rec.Tenant, Error: reason, JobMs: j.timestampMs, TimeMs: c.nowMs,
		Member: c.cfg.Member, Partition: int32(c.cfg.Partition), Offset: j.offset,
	}
	if r != nil {
		res.Attempt, res.DurationUs, res.Error, res.Output = r.Attempt, r.DurationUs, string(r.Error), r.Output
		a.ackAttempt, a.ack = r.Attempt, true
	}
	a.token.a, a.token.owner, a.token.Shard = a, c, c.cfg.Partition
	c.eff.Outcomes = append(c.eff.Outcomes, Outcome{Result: res, Encoding: j.rec.Encoding, Token: &a.token})
}

// expire ends an assignment at the job's deadline: as expired when no attempt ever
// reached the node, else for the reason that the last attempt ended.
func (c *Core) expire(a *assignment) {
	switch {
	case a.node == "":
		c.end(a, protocol.OutcomeExpired, "the deadline passed before a node was chosen", nil)
	case a.attempt > 1 || a.attempt > 0 && a.state != queued:
		c.end(a, a.cause, "the deadline passed before it could be tried again on node "+a.node, nil)
	case a.state == queued:
		c.end(a, protocol.OutcomeExpired, "the deadline passed while the job waited for node "+a.node+" to finish others", nil)
	case a.parked:
		c.end(a, protocol.OutcomeExpired, "the deadline passed while node "+a.node+" was not connected", nil)
	default:
		c.end(a, protocol.OutcomeExpired, "the deadline passed before it could be delivered to node "+a.node, nil)
	}
}

// Recorded notes that Kafka has what a token stands for.
func (c *Core) Recorded(nowMs int64, t *Token, eff *Effects) {
	if t.owner != c {
		return // of this shard's life before a restart
	}
	c.begin(nowMs, eff)
	t.owner = nil
	if t.a == nil {
		c.done(t.seq)
		return
	}
	a := t.a
	a.state = recorded
	if a.ack {
		c.ack(a.gate, a.node, a.job.rec.ID, a.ackAttempt)
	}
	j := a.job
	j.open--
	c.eff.Events = append(c.eff.Events, Event{JobID: j.rec.ID, Value: t.Value, Done: j.open == 0})
	if j.kept+len(t.Value) > keptBytes {
		t.Value = nil // it is in the results topic
	}
	j.kept += len(t.Value)
	c.charge(j, len(t.Value))
	if j.open == 0 {
		c.finish(j)
	}
}

func (c *Core) finish(j *job) {
	c.timers.stop(&j.timer)
	delete(c.jobs, j.rec.ID)
	c.charge(j, -j.bytes)
	c.recent.add(j.summary(c.cfg.Partition))
	c.done(j.seq)
}

// charge counts memory of a pending job.
func (c *Core) charge(j *job, bytes int) {
	j.bytes += bytes
	c.bytes += bytes
}

func (c *Core) done(seq uint64) {
	if next, moved := c.mark.Done(seq); moved {
		c.eff.Commit = next
	}
}

func (c *Core) ack(gate uint32, node, jobID string, attempt uint32) {
	c.eff.Acks = append(c.eff.Acks, GateAck{Gate: gate, Ack: actors.Ack{Node: node, JobID: jobID, Attempt: attempt}})
}

// Tick lets everything happen that is due at nowMs.
func (c *Core) Tick(nowMs int64, eff *Effects) {
	c.begin(nowMs, eff)
	for t := c.timers.due(nowMs); t != nil; t = c.timers.due(nowMs) {
		if t.j != nil {
			c.jobDue(t.j)
		} else {
			c.assignmentDue(t.a)
		}
	}
	c.expireEarly()
	c.dir.forget(nowMs)
}

func (c *Core) assignmentDue(a *assignment) {
	switch a.state {
	case sent:
		c.withdraw(a, "timed out")
		c.retry(a, protocol.OutcomeTimeout, fmt.Sprintf("node %s said nothing within %v", a.node, a.job.rec.Timeout))
	case detached:
		c.retry(a, protocol.OutcomeLost, "node "+a.node+" went away and did not come back in time")
	case queued:
		c.withdraw(a, "the deadline passed")
		c.expire(a)
	case waiting:
		if a.job.deadlineMs <= c.nowMs {
			c.expire(a)
			return
		}
		c.place(a)
	}
}

func (c *Core) withdraw(a *assignment, reason string) {
	c.eff.Withdrawals = append(c.eff.Withdrawals, GateWithdrawal{Gate: a.gate, Withdrawal: actors.Withdrawal{
		Node: a.node, JobID: a.job.rec.ID, Attempt: a.attempt, Reason: reason}})
}

// retry ends an attempt without a result: with another one when there are any left.
func (c *Core) retry(a *assignment, cause protocol.Outcome, reason string) {
	if a.attempt >= a.job.rec.Attempts {
		c.end(a, cause, reason, nil)
		return
	}
	a.cause = cause
	c.place(a)
}

// Next returns when Tick is due next, and false when nothing waits.
func (c *Core) Next() (dueMs int64, ok bool) {
	if len(c.timers) > 0 {
		dueMs, ok = c.timers[0].dueMs, true
	}
	if due, some := c.early.next(); some && (!ok || due < dueMs) {
		dueMs, ok = due, true
	}
	return dueMs, ok
}

// Pending returns how many jobs have not got all their outcomes recorded.
func (c *Core) Pending() int { return len(c.jobs) }

// Overfull reports whether the shard should be fed no more for now.
func (c *Core) Overfull() bool {
	return c.mark.Open() >= c.cfg.MaxPending || c.bytes >= c.cfg.MaxPendingBytes
}

// Hungry reports whether an overfull shard may be fed again.
func (c *Core) Hungry() bool {
	return c.mark.Open() <= c.cfg.MaxPending*3/4 && c.bytes <= c.cfg.MaxPendingBytes/4*3
}

// Stats returns what the core counted.
func (c *Core) Stats() Stats { return c.stats }
