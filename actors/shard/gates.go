package shard

import (
	"github.com/roost-server/roost/actors"
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
		if c.jobs[p.JobID] != nil {
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
		c.dir.depart(b.Departures[i].Node, b.Departures[i].Incarnation)
	}
	for i := range b.Notices {
		if n := &b.Notices[i]; n.Kind != actors.Running && n.Kind != actors.Held {
			c.notice(b.Gate, n)
		}
	}
}

// result takes what a node says came of a job. The first result that arrives stands,
// of whichever attempt it is: they are results of the same job on the same node.
func (c *Core) result(gate uint32, r *actors.Result) {
	j := c.jobs[string(r.JobID)]
	if j == nil {
		c.unknown(gate, r)
		return
	}
	a := j.find(r.Node)
	switch {
	case a == nil:
		c.stats.Unknown++
		c.ack(gate, r.Node, string(r.JobID), r.Attempt)
	case a.state == recorded:
		c.stats.Late++
		c.ack(gate, r.Node, j.rec.ID, r.Attempt)
	case a.state == ending: // acknowledged when it is recorded
		c.stats.Late++
		a.ack, a.gate, a.ackAttempt = true, gate, max(a.ackAttempt, r.Attempt)
	default:
		a.gate = gate
		c.end(a, r.Outcome, "", r)
	}
}

// unknown takes a result whose job is not pending. One of a job that ended lately is
// acknowledged; any other may be ahead of its record and is kept for a while.
func (c *Core) unknown(gate uint32, r *actors.Result) {
	if c.recent.byID[string(r.JobID)] != nil {
		c.stats.Late++
		c.ack(gate, r.Node, string(r.JobID), r.Attempt)
		return
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
	older, current := c.dir.register(gate, r)
	if !current { // two sockets at once: the older session's news came last
		c.eff.Evictions = append(c.eff.Evictions, GateEviction{Gate: gate, Eviction: actors.Eviction{Node: r.Node, Incarnation: r.Incarnation}})
		return
	}
	if older != nil {
		c.eff.Evictions = append(c.eff.Evictions, GateEviction{Gate: older.Gate, Eviction: actors.Eviction{Node: r.Node, Incarnation: older.Incarnation}})
	}
	loc := Location{Node: r.Node, Gate: gate, Incarnation: r.Incarnation, Profile: r.Profile}
	for _, shard := range c.dir.awaited(r.Node) {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: shard, Message: &Located{Location: loc}})
	}
	c.arrived(&loc)
}

// arrived delivers everything that waits for a node.
func (c *Core) arrived(loc *Location) {
	list := c.away[loc.Node]
	delete(c.away, loc.Node)
	for _, a := range list {
		if a.job.deadlineMs <= c.nowMs {
			c.expire(a)
			continue
		}
		a.parked = false
		switch {
		case a.attempt >= a.job.rec.Attempts:
			c.end(a, a.cause, "all attempts are used up", nil)
		default:
			c.deliver(a, loc)
		}
	}
}

// Locate answers another shard's question, now or when the node registers.
func (c *Core) Locate(nowMs int64, q *Locate, eff *Effects) {
	c.begin(nowMs, eff)
	c.dir.forget(nowMs)
	if loc, ok := c.dir.find(q.Node); ok {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: q.From, Message: &Located{Location: loc}})
		return
	}
	c.dir.await(q.Node, q.From, nowMs+3*c.cfg.LocateMs)
}

// Located takes the answer to Locate.
func (c *Core) Located(nowMs int64, loc *Location, eff *Effects) {
	c.begin(nowMs, eff)
	c.arrived(loc)
}

// notice takes what became of a delivery.
func (c *Core) notice(gate uint32, n *actors.Notice) {
	j := c.jobs[n.JobID]
	if j == nil {
		return
	}
	a := j.find(n.Node)
	if a == nil || a.state >= ending {
		return
	}
	switch n.Kind {
	case actors.Running, actors.Held:
		c.reattach(gate, a, n)
	case actors.Accepted: // the attempt is under way; its timer stands
	default:
		old := n.Incarnation != 0 && n.Incarnation < a.incarnation // of a session before the one that has it
		if n.Attempt == a.attempt && !old {
			c.undone(a, n)
		}
	}
}

// undone handles the notices about the attempt that is under way.
func (c *Core) undone(a *assignment, n *actors.Notice) {
	switch n.Kind {
	case actors.Queued:
		if a.state == sent {
			a.state = queued
			c.timers.set(&a.timer, a.job.deadlineMs)
		}
	case actors.Sent:
		if a.state == queued {
			a.state = sent
			c.run(a)
		}
	case actors.Undelivered, actors.Busy:
		if a.state == sent || a.state == queued {
			a.attempt-- // it never was on the node
			a.state, a.parked = waiting, false
			c.timers.set(&a.timer, min(c.nowMs+c.cfg.RetryMs, a.job.deadlineMs))
		}
	case actors.Lost:
		// A newer session than the shard knew of may have taken the delivery.
		if a.state == sent || a.state == queued {
			c.detach(a)
		}
	}
}

// detach handles the end of the session that had the assignment. The node may still
// run it: when it returns and says so, the attempt goes on; otherwise the next
// attempt goes out then. When it has no attempts left and does not return within
// what is left of the timeout, the assignment is lost.
func (c *Core) detach(a *assignment) {
	a.cause = protocol.OutcomeLost
	if a.attempt >= a.job.rec.Attempts {
		a.state = detached // its timer stands
		return
	}
	c.place(a)
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
	again := c.nowMs >= a.overMs || n.Attempt < a.attempt
	if again && a.resumes == maxResumes {
		return
	}
	c.unpark(a)
	// The node repeats the newest attempt that it was sent. A higher one than this
	// shard's is from its life before a restart; a lower one means that what was sent
	// since has not arrived.
	a.attempt = min(max(n.Attempt, 1), a.job.rec.Attempts)
	if a.attempt > 1 && a.cause == protocol.OutcomeExpired {
		a.cause = protocol.OutcomeLost // how those before ended was forgotten in a restart
	}
	a.state, a.gate, a.incarnation = sent, gate, n.Incarnation
	if again {
		a.resumes++
		c.run(a)
		return
	}
	c.timers.set(&a.timer, a.overMs)
}
