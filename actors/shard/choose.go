package shard

import (
	"fmt"

	"github.com/roost-server/roost/protocol"
)

// choice is the search for the nodes of a selector, in rounds: every shard is asked
// for candidates, the best spread of all is taken, and while too few were found the
// search is repeated.
type choice struct {
	round     uint32
	expect    int // shards that have not answered
	untilMs   int64
	found     []Location
	asking    bool
	remaining []*assignment // without a node
}

// choose starts the first round of a job's search.
func (c *Core) choose(j *job) {
	if j.deadlineMs <= c.nowMs {
		c.expireChoice(j, j.unchosen())
		return
	}
	j.choice = &choice{untilMs: min(c.nowMs+c.cfg.ChooseMs, j.deadlineMs), remaining: j.unchosen()}
	c.ask(j)
}

// expireChoice ends assignments that have no node when the deadline passes.
func (c *Core) expireChoice(j *job, unchosen []*assignment) {
	j.choice = nil
	c.timers.stop(&j.timer)
	for _, a := range unchosen {
		c.expire(a)
	}
}

// unchosen returns the assignments of a selector's job.
func (j *job) unchosen() []*assignment {
	all := make([]*assignment, len(j.assignments))
	for i := range j.assignments {
		all[i] = &j.assignments[i]
	}
	return all
}

func (c *Core) ask(j *job) {
	ch := j.choice
	shards := c.shards()
	ch.round++
	ch.asking, ch.expect, ch.found = true, len(shards), nil
	want := len(j.assignments) // some candidates may be taken already
	for _, s := range shards {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: s, Message: &Select{
			From: c.cfg.Partition, JobID: j.rec.ID, Round: ch.round,
			Selector: j.rec.Target.Select, Kind: j.rec.Kind, Count: want,
		}})
	}
	c.timers.set(&j.timer, c.nowMs+c.cfg.SelectMs)
}

// Select answers another shard's search.
func (c *Core) Select(nowMs int64, q *Select, eff *Effects) {
	c.begin(nowMs, eff)
	c.eff.Asks = append(c.eff.Asks, Ask{Shard: q.From, Message: &Candidates{
		JobID: q.JobID, Round: q.Round, Nodes: c.dir.match(q.Selector, q.Kind, q.Count),
	}})
}

// Candidates takes a shard's answer.
func (c *Core) Candidates(nowMs int64, m *Candidates, eff *Effects) {
	c.begin(nowMs, eff)
	j := c.jobs[m.JobID]
	if j == nil || j.choice == nil || !j.choice.asking || m.Round != j.choice.round {
		return
	}
	j.choice.found = append(j.choice.found, m.Nodes...)
	if j.choice.expect--; j.choice.expect <= 0 {
		c.conclude(j)
	}
}

// conclude ends a round with the candidates that came.
func (c *Core) conclude(j *job) {
	ch := j.choice
	ch.asking = false
	if j.deadlineMs <= c.nowMs && len(ch.found) > 0 {
		c.expireChoice(j, ch.remaining) // it is not that there are none
		return
	}
	fresh := ch.found[:0]
	for _, loc := range ch.found {
		if j.find(loc.Node) == nil {
			fresh = append(fresh, loc)
		}
	}
	for _, loc := range spread(fresh, len(ch.remaining)) {
		if j.find(loc.Node) != nil {
			continue // named twice
		}
		a := ch.remaining[0]
		ch.remaining = ch.remaining[1:]
		j.setNode(a, loc.Node)
		if er := c.early.take(j.rec.ID, loc.Node); er != nil {
			c.result(er.gate, &er.result)
			continue
		}
		c.deliver(a, &loc)
	}
	ch.found = nil
	if len(ch.remaining) == 0 {
		j.choice = nil
		c.timers.stop(&j.timer)
		return
	}
	if ch.untilMs <= c.nowMs {
		c.unmatched(j)
		return
	}
	c.timers.set(&j.timer, min(c.nowMs+c.cfg.RetryMs, ch.untilMs))
}

// jobDue handles a job's own timer: its start, a round's end, or the next round.
func (c *Core) jobDue(j *job) {
	switch {
	case j.choice == nil:
		c.start(j)
	case j.choice.asking:
		c.conclude(j)
	case j.choice.untilMs <= c.nowMs:
		c.unmatched(j)
	default:
		c.ask(j)
	}
}

// unmatched ends the assignments that found no node.
func (c *Core) unmatched(j *job) {
	missing := j.choice.remaining
	reason := fmt.Sprintf("%d of %d nodes missing: no other connected node offers kind %q and fits %s",
		len(missing), len(j.assignments), j.rec.Kind, j.rec.Target.Select)
	j.choice = nil
	c.timers.stop(&j.timer)
	for _, a := range missing {
		c.end(a, protocol.OutcomeUnmatched, reason, nil)
	}
}
