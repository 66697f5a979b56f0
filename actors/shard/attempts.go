package shard

import (
	"fmt"
	"strings"
	"time"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// place delivers an assignment, or lets it wait for its node.
func (c *Core) place(a *assignment) {
	j := a.job
	switch {
	case a.state >= ending:
		return
	case a.attempt >= j.attempts:
		c.end(a, a.cause, "all attempts are used up", nil)
		return
	case j.deadlineMs <= c.nowMs:
		c.expire(a)
		return
	case a.is(over) && j.selector() != nil:
		c.replace(a)
		return
	}
	if home := c.home(a.node); home != c.cfg.Partition {
		c.wait(a, true)
		c.locate(a, home)
		return
	}
	if loc, ok := c.dir.Find(a.node); ok {
		c.deliver(a, &loc)
		return
	}
	c.wait(a, false)
}

// home returns the shard that knows where a node is.
func (c *Core) home(node string) uint32 {
	return uint32(record.Partition(node, int32(c.cfg.Partitions)))
}

// setState moves an assignment on, and counts jobs on nodes.
func (c *Core) setState(a *assignment, s state) {
	j := a.job
	if a.state == sent {
		if j.sent--; j.sent == 0 {
			c.onNode--
		}
	}
	if s == sent {
		if j.sent++; j.sent == 1 {
			c.onNode++
		}
	}
	a.state = s
}

// wait parks an assignment until its node registers or its time is over.
func (c *Core) wait(a *assignment, elsewhere bool) {
	if !a.is(parked) {
		a.mark(afar, elsewhere)
		c.crowd(a).add(a)
	}
	c.setState(a, waiting)
	c.timers.set(a, a.patience())
}

// crowd returns those among whom an assignment waits for its node.
func (c *Core) crowd(a *assignment) *crowd {
	if a.is(afar) {
		return &c.afar
	}
	return &c.away
}

// unpark takes an assignment out of those that wait for the node.
func (c *Core) unpark(a *assignment) {
	if a.is(parked) {
		c.crowd(a).remove(a)
	}
}

// patience returns until when an assignment waits for its node: a selector's for one
// that it was on before a restart no longer than the attempt may take.
func (a *assignment) patience() int64 {
	if a.is(again) && a.job.selector() != nil {
		return min(a.overMs, a.job.deadlineMs)
	}
	return a.job.deadlineMs
}

// locate asks a node's home shard where it is, once for all that wait for it.
func (c *Core) locate(a *assignment, home uint32) {
	pause := min(c.cfg.LocateMs<<min(a.asks, 20), c.cfg.MaxLocateMs)
	a.asks = min(a.asks+1, 20)
	c.timers.set(a, min(c.nowMs+pause, a.patience()))
	if c.afar.byNode[a.node] == a {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: home, Message: &Locate{From: c.cfg.Partition, Node: a.node, WaitMs: pause}})
	}
}

// deliver sends the next attempt to where the node is.
func (c *Core) deliver(a *assignment, loc *Location) {
	c.unpark(a)
	j := a.job
	if !loc.Profile.Offers(j.kind) {
		reason := fmt.Sprintf("node %s does not offer kind %q; it offers: %s", a.node, j.kind, strings.Join(loc.Profile.Kinds, ", "))
		if j.selector() != nil && a.attempt+1 < j.attempts {
			a.attempt++
			c.retry(a, protocol.OutcomeRefused, reason)
			return
		}
		c.end(a, protocol.OutcomeRefused, reason, nil)
		return
	}
	a.attempt++
	if a.attempt > 1 {
		c.stats.Retries++
	}
	if !a.is(again) && (a.attempt > 1 || j.selector() != nil) {
		c.touch(a) // a first delivery to a node that the job names need not be remembered
	}
	a.flags &^= over | again
	a.asks, a.gate, a.incarnation = 0, loc.Gate, loc.Incarnation
	c.setState(a, sent)
	c.run(a)
	c.stats.Deliveries++
	c.eff.Deliveries = append(c.eff.Deliveries, GateDelivery{Gate: loc.Gate, Delivery: actors.Delivery{
		Node: a.node, JobID: j.id, Kind: j.kind, Args: j.args(), Shard: c.cfg.Partition,
		Attempt: uint32(a.attempt), TimeoutMs: j.timeoutMs, Priority: j.priority,
	}})
}

// run gives the attempt its time from now on.
func (c *Core) run(a *assignment) {
	a.overMs = c.nowMs + int64(a.job.timeoutMs) + c.cfg.GraceMs
	c.timers.set(a, a.overMs)
}

// assignmentDue handles an assignment's timer.
func (c *Core) assignmentDue(a *assignment) {
	switch a.state {
	case sent:
		c.withdraw(a, "timed out")
		c.silent(a.node)
		c.retry(a, protocol.OutcomeTimeout, fmt.Sprintf("node %s said nothing within %v", a.node, time.Duration(a.job.timeoutMs)*time.Millisecond))
	case detached:
		c.retry(a, protocol.OutcomeLost, "node "+a.node+" went away and did not come back in time")
	case queued:
		c.withdraw(a, "the deadline passed")
		c.expire(a)
	case waiting:
		switch {
		case a.job.deadlineMs <= c.nowMs:
			c.expire(a)
		case a.is(again) && a.patience() <= c.nowMs:
			a.attempt++
			c.retry(a, protocol.OutcomeLost, "node "+a.node+" did not come back in time after a restart")
		default:
			c.place(a)
		}
	}
}

func (c *Core) withdraw(a *assignment, reason string) {
	c.eff.Withdrawals = append(c.eff.Withdrawals, GateWithdrawal{Gate: a.gate, Withdrawal: actors.Withdrawal{
		Node: a.node, JobID: a.job.id, Attempt: uint32(a.attempt), Reason: reason}})
}

// retry ends an attempt: with another one, after a pause, when there are any left.
func (c *Core) retry(a *assignment, cause protocol.Outcome, reason string) {
	j := a.job
	if a.attempt >= j.attempts {
		c.end(a, cause, reason, nil)
		return
	}
	c.unpark(a)
	a.flags = a.flags&^again | over
	a.cause = cause
	c.setState(a, waiting)
	c.touch(a)
	if j.selector() != nil {
		c.blame(a, reason)
	}
	if cause != protocol.OutcomeRefused {
		if pause := j.pause(a, c.cfg.MaxBackoffMs); pause > 0 {
			c.timers.set(a, min(c.nowMs+pause, j.deadlineMs))
			return
		}
	}
	c.timers.stop(a)
	c.place(a)
}

// silent leaves a node out of selections for a while.
func (c *Core) silent(node string) {
	until := c.nowMs + c.cfg.SilentMs
	if home := c.home(node); home != c.cfg.Partition {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: home, Message: &Silent{Node: node, UntilMs: until}})
		return
	}
	c.hush(node, until)
}

func (c *Core) hush(node string, untilMs int64) {
	c.hushMs = max(c.hushMs, untilMs)
	c.dir.Silent(node, untilMs)
}

// answered ends a node's silence; late says that it answered after it had been given up.
func (c *Core) answered(node string, late bool) {
	if c.hushMs > c.nowMs {
		c.dir.Answered(node)
	}
	if !late {
		return
	}
	if home := c.home(node); home != c.cfg.Partition {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: home, Message: &Answered{Node: node}})
	}
}

// Silent takes another shard's word that a node does not answer.
func (c *Core) Silent(nowMs int64, m *Silent, eff *Effects) {
	c.begin(nowMs, eff)
	c.hush(m.Node, min(m.UntilMs, nowMs+c.cfg.SilentMs))
}

// Answered takes another shard's word that a node answers again.
func (c *Core) Answered(m *Answered) { c.dir.Answered(m.Node) }

// expire ends an assignment at the job's deadline: as expired when no attempt ever
// reached the node, else for the reason that the last attempt ended.
func (c *Core) expire(a *assignment) {
	if a.is(again) {
		a.attempt++
	}
	onNode := a.attempt > 1 || a.attempt > 0 && a.state != queued
	switch {
	case a.node == "" && onNode:
		c.end(a, a.cause, "the deadline passed before another node was chosen", nil)
	case a.node == "":
		c.end(a, protocol.OutcomeExpired, "the deadline passed before a node was chosen", nil)
	case onNode:
		c.end(a, a.cause, "the deadline passed before it could be tried again on node "+a.node, nil)
	case a.state == queued:
		c.end(a, protocol.OutcomeExpired, "the deadline passed while the job waited for node "+a.node+" to finish others", nil)
	case a.is(parked):
		c.end(a, protocol.OutcomeExpired, "the deadline passed while node "+a.node+" was not connected", nil)
	default:
		c.end(a, protocol.OutcomeExpired, "the deadline passed before it could be delivered to node "+a.node, nil)
	}
}
