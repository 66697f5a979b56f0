package shard

import (
	"fmt"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/session"
	"github.com/roost-server/roost/protocol"
)

// FromGate takes a gate's batch.
func (c *Core) FromGate(nowMs int64, b *actors.FromGate, eff *Effects) {
	c.begin(nowMs, eff)
	for i := range b.Results {
		c.result(b.Gate, &b.Results[i])
	}
	for i := range b.Progress {
		p := &b.Progress[i]
		c.answered(p.Node, false)
		if c.pending.byID[p.JobID] != nil {
			c.eff.Events = append(c.eff.Events, Event{JobID: p.JobID, Progress: p})
		}
	}
	// What a node brings along comes before its registration, which would deliver
	// again what it still runs; and departures before the losses, which would be
	// delivered again to a session that has ended.
	for i := range b.Notices {
		if n := &b.Notices[i]; n.Kind == actors.Running || n.Kind == actors.Held {
			c.notice(b.Gate, n)
		}
	}
	for i := range b.Registrations {
		c.register(b.Gate, &b.Registrations[i])
	}
	for i := range b.Departures {
		c.dir.DepartFrom(b.Gate, b.Departures[i].Node, b.Departures[i].Incarnation)
	}
	for i := range b.Notices {
		if n := &b.Notices[i]; n.Kind != actors.Running && n.Kind != actors.Held {
			c.notice(b.Gate, n)
		}
	}
}

// result takes what a node says came of a job.
func (c *Core) result(gate uint32, r *actors.Result) {
	j := c.pending.byID[string(r.JobID)]
	if j == nil || c.rebuild != nil {
		c.unknown(gate, r)
		return
	}
	a := j.find(r.Node)
	switch {
	case a == nil && !j.hasTried(r.Node):
		c.stats.Unknown++
		c.ack(gate, r.Node, j.id, r.Attempt)
	case a == nil || a.state == recorded:
		c.late(gate, r)
	case a.state == ending: // acknowledged when it is committed
		c.stats.Late++
		a.flags |= ackDue
		a.gate, a.ackAttempt = gate, max(a.ackAttempt, attemptOf(r.Attempt))
	default:
		c.answer(gate, a, r)
	}
}

// late takes a result that changes nothing any more.
func (c *Core) late(gate uint32, r *actors.Result) {
	c.stats.Late++
	c.answered(r.Node, true)
	c.ack(gate, r.Node, string(r.JobID), r.Attempt)
}

// answer takes a result for an assignment that has none. The first one that tells what
// came of the job stands, of whichever attempt it is: they are of the same job on the
// same node. That an attempt was given up, with others left, is not what came of it.
func (c *Core) answer(gate uint32, a *assignment, r *actors.Result) {
	j := a.job
	attempt, current := min(attemptOf(r.Attempt), j.attempts), a.attempt
	if a.is(again) {
		current++
	}
	stale := attempt < current || a.is(over)
	replaceable := j.selector() != nil
	switch {
	case stale && (r.Outcome == protocol.OutcomeTimeout || r.Outcome == protocol.OutcomeCancelled ||
		r.Outcome == protocol.OutcomeRefused && replaceable):
		c.late(gate, r)
		return
	case attempt > a.attempt:
		a.attempt = attempt
		a.flags &^= again
	}
	c.answered(r.Node, a.is(over))
	a.gate = gate
	outcome := r.Outcome
	if outcome == protocol.OutcomeCancelled {
		// Jobs that somebody cancelled have ended. This attempt was withdrawn because its
		// time was over, and that was forgotten in a restart.
		outcome = protocol.OutcomeTimeout
	}
	another := outcome == protocol.OutcomeTimeout || outcome == protocol.OutcomeRefused && replaceable
	if !another || a.attempt >= j.attempts {
		c.end(a, outcome, "", r)
		return
	}
	c.ack(gate, r.Node, j.id, r.Attempt)
	c.retry(a, outcome, fmt.Sprintf("node %s: %s", a.node, saidWhy(r)))
}

func saidWhy(r *actors.Result) string {
	if len(r.Error) > 0 {
		return string(r.Error)
	}
	return r.Outcome.String()
}

// unknown takes a result whose job is not pending. One of a job that ended lately is
// acknowledged; any other may be ahead of its record and is kept for a while.
func (c *Core) unknown(gate uint32, r *actors.Result) {
	if c.rebuild == nil {
		if _, ok := c.ended.find(hashID(string(r.JobID))); ok {
			c.late(gate, r)
			return
		}
	}
	c.stats.Unknown++
	c.early.add(gate, r, c.nowMs+c.cfg.EarlyMs)
}

func (c *Core) expireEarly() {
	for e := c.early.expired(c.nowMs); e != nil; e = c.early.expired(c.nowMs) {
		c.ack(e.gate, e.result.Node, string(e.result.JobID), e.result.Attempt)
	}
}

// register notes a session, delivers what waits for its node, and tells the shards
// that asked for it.
func (c *Core) register(gate uint32, r *actors.Registration) {
	older, current := c.dir.Register(gate, r)
	if !current { // two sockets at once: the older session's news came last
		newer, _ := c.dir.Find(r.Node)
		c.evict(gate, r.Node, r.Incarnation, &newer)
		return
	}
	if older != nil {
		c.evict(older.Gate, r.Node, older.Incarnation, &Location{Gate: gate, Incarnation: r.Incarnation})
	}
	loc := Location{Node: r.Node, Gate: gate, Incarnation: r.Incarnation, Profile: r.Profile}
	for _, shard := range c.dir.Awaited(r.Node) {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: shard, Message: &Located{Location: loc}})
	}
	c.arrived(&loc)
}

// evict ends a session that a newer one has replaced. When they are of two members, and
// began so close to each other that the clocks do not tell, it may be the other way round.
func (c *Core) evict(gate uint32, node string, incarnation uint64, newer *Location) {
	apart := session.StartedMs(newer.Incarnation) - session.StartedMs(incarnation)
	c.eff.Evictions = append(c.eff.Evictions, GateEviction{Gate: gate, Eviction: actors.Eviction{
		Node: node, Incarnation: incarnation,
		Contested: actors.SlotOf(gate) != actors.SlotOf(newer.Gate) && apart < c.cfg.ContestMs,
	}})
}

// arrived delivers everything that waits for a node.
func (c *Core) arrived(loc *Location) {
	for _, crowd := range []*crowd{&c.away, &c.afar} {
		for a := crowd.byNode[loc.Node]; a != nil; {
			next := a.next
			if a.job.deadlineMs <= c.nowMs {
				c.expire(a)
			} else if a.attempt >= a.job.attempts {
				c.end(a, a.cause, "all attempts are used up", nil)
			} else {
				c.deliver(a, loc)
			}
			a = next
		}
	}
}

// Locate answers another shard's question, now or when the node registers.
func (c *Core) Locate(nowMs int64, q *Locate, eff *Effects) {
	c.begin(nowMs, eff)
	c.dir.Forget(nowMs)
	if loc, ok := c.dir.Find(q.Node); ok {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: q.From, Message: &Located{Location: loc}})
		return
	}
	c.dir.Await(q.Node, q.From, nowMs+3*max(q.WaitMs, c.cfg.LocateMs))
}

// Located takes the answer to Locate.
func (c *Core) Located(nowMs int64, loc *Location, eff *Effects) {
	c.begin(nowMs, eff)
	if c.rebuild == nil {
		c.arrived(loc)
	}
}

// Rebuilt asks a shard again where nodes are that has begun a new life, here or on another
// member.
func (c *Core) Rebuilt(nowMs int64, m *Rebuilt, eff *Effects) {
	c.begin(nowMs, eff)
	for node, first := range c.afar.byNode {
		if c.home(node) != m.Shard {
			continue
		}
		for a := first; a != nil; a = a.next {
			a.asks = 0
			c.locate(a, m.Shard)
		}
	}
}

// notice takes what became of a delivery.
func (c *Core) notice(gate uint32, n *actors.Notice) {
	j := c.pending.byID[n.JobID]
	if c.rebuild != nil {
		return
	}
	if j == nil {
		if _, ended := c.ended.find(hashID(n.JobID)); ended && n.Kind == actors.Running {
			c.eff.Withdrawals = append(c.eff.Withdrawals, GateWithdrawal{Gate: gate, Withdrawal: actors.Withdrawal{
				Node: n.Node, JobID: n.JobID, Attempt: n.Attempt, Reason: "the job has ended"}})
		}
		return
	}
	a := j.find(n.Node)
	if a == nil && n.Kind == actors.Running && j.hasTried(n.Node) { // another node has it now
		c.eff.Withdrawals = append(c.eff.Withdrawals, GateWithdrawal{Gate: gate, Withdrawal: actors.Withdrawal{
			Node: n.Node, JobID: j.id, Attempt: n.Attempt, Reason: "another node runs it"}})
	}
	if a == nil || a.state >= ending {
		return
	}
	switch n.Kind {
	case actors.Running, actors.Held:
		c.reattach(gate, a, n)
	case actors.Accepted: // the attempt is under way; its timer stands
		c.answered(n.Node, false)
	default:
		old := n.Incarnation != 0 && n.Incarnation < a.incarnation // of a session before the one that has it
		if n.Attempt == uint32(a.attempt) && !old {
			c.undone(a, n)
		}
	}
}

// undone handles the notices about the attempt that is under way.
func (c *Core) undone(a *assignment, n *actors.Notice) {
	switch n.Kind {
	case actors.Queued:
		if a.state == sent {
			c.setState(a, queued)
			c.timers.set(a, a.job.deadlineMs)
		}
	case actors.Sent:
		if a.state == queued {
			c.setState(a, sent)
			c.run(a)
		}
	case actors.Undelivered, actors.Busy:
		if a.state == sent || a.state == queued {
			c.returned(a, n.Kind == actors.Undelivered)
		}
	case actors.Lost:
		// A newer session than the shard knew of may have taken the delivery.
		if a.state == sent || a.state == queued {
			c.detach(a)
		}
	}
}

// returned handles a delivery that never was on the node: it costs no attempt.
func (c *Core) returned(a *assignment, gone bool) {
	a.attempt--
	a.mark(over, a.attempt > 0 && a.job.selector() == nil)
	c.setState(a, waiting)
	if gone && a.job.selector() != nil && a.job.deadlineMs > c.nowMs {
		c.search(a) // the node is not needed: any other will do
		return
	}
	c.timers.set(a, min(c.nowMs+c.cfg.RetryMs, a.job.deadlineMs))
}

// detach handles the end of the session that had the assignment. The node may still
// run it: when it returns and says so, the attempt goes on; otherwise the next
// attempt goes out then. When it has no attempts left and does not return within
// what is left of the timeout, the assignment is lost. A selector's is given to another
// node when it does not return within the pause before the next attempt.
func (c *Core) detach(a *assignment) {
	a.cause = protocol.OutcomeLost
	switch {
	case a.attempt >= a.job.attempts:
		c.setState(a, detached) // its timer stands
	case a.job.selector() != nil:
		c.retry(a, protocol.OutcomeLost, "node "+a.node+" went away")
	default:
		c.setState(a, waiting)
		c.place(a)
	}
}

// maxResumes caps how often a node that says that it runs an assignment is given new
// time for it, so that one that keeps going away cannot hold a job for ever.
const maxResumes = 4

// reattach continues an attempt that outlived its session. Its time runs on; when it
// is over, which was no loss as the node was away, the run gets that much again.
func (c *Core) reattach(gate uint32, a *assignment, n *actors.Notice) {
	if (a.state == sent || a.state == queued) && n.Incarnation <= a.incarnation {
		return // delivered again meanwhile; the node tells duplicates apart
	}
	renew := c.nowMs >= a.overMs || n.Attempt < uint32(a.attempt)
	if renew && a.resumes == maxResumes {
		return
	}
	c.unpark(a)
	before := a.attempt
	if a.is(again) {
		before++
	}
	// The node repeats the newest attempt that it was sent. A higher one than this
	// shard's is from its life before a restart; a lower one means that what was sent
	// since has not arrived.
	a.attempt = min(max(attemptOf(n.Attempt), 1), a.job.attempts)
	if a.attempt > 1 && a.cause == protocol.OutcomeExpired {
		a.cause = protocol.OutcomeLost // how those before ended was forgotten in a restart
	}
	if a.attempt != before || a.is(over) {
		c.touch(a)
	}
	a.flags &^= over | again
	a.gate, a.incarnation = gate, n.Incarnation
	c.setState(a, sent)
	if renew {
		a.resumes++
		c.run(a)
		return
	}
	c.timers.set(a, a.overMs)
}
