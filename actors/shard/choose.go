package shard

import (
	"fmt"
	"slices"

	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/protocol"
)

// search is the search for nodes of a selector, in rounds: every shard is asked for
// candidates, the best spread of all is taken, and while some assignments have no node
// it is repeated. It begins anew when an attempt fails and its node is replaced.
type search struct {
	remaining []*assignment // that look for a node; also some that have ended meanwhile
	found     []Location
	funnel    directory.Funnel // of the round
	known     directory.Funnel // of the last round that all answered, or most
	round     uint32
	expect    int   // shards that have not answered
	askedMs   int64 // when the last round began
	asking    bool
}

// join adds an assignment to its job's search.
func (c *Core) join(a *assignment) {
	a.overMs = min(c.nowMs+c.cfg.ChooseMs, a.job.deadlineMs)
	s := &a.job.extra.search
	s.remaining = append(s.remaining, a)
}

// seek has the search of a job go on for those that joined.
func (c *Core) seek(j *job) {
	s := &j.extra.search
	switch {
	case s.asking || len(s.remaining) == 0:
	case j.deadlineMs <= c.nowMs:
		c.giveUp(j)
	case s.round == 0 || len(j.all()) <= eagerSize || s.askedMs+c.cfg.RetryMs <= c.nowMs:
		c.ask(j)
	default:
		c.timers.set(&j.extra.alarm, s.askedMs+c.cfg.RetryMs)
	}
}

// eagerSize is up to how many assignments a job's search goes on at once when an
// attempt fails. Of larger ones many may fail one after the other, and a round has to
// name all nodes that are not wanted.
const eagerSize = 64

// blame notes why a selector's attempt failed, until another node is found.
func (c *Core) blame(a *assignment, why string) {
	e := a.job.extra
	if e.why == nil {
		e.why = map[int32]string{}
	}
	e.why[int32(a.index)] = why[:min(len(why), maxWhyBytes)]
}

// replace takes an assignment off a node that failed it, and looks for another.
func (c *Core) replace(a *assignment) {
	j := a.job
	j.extra.try(a)
	c.pending.charge(triedBytes)
	c.search(a)
}

// search takes an assignment off its node, and looks for another.
func (c *Core) search(a *assignment) {
	c.unpark(a)
	c.timers.stop(a)
	a.job.unsetNode(a)
	a.flags &^= over
	c.touch(a)
	if a.job.is(launched) { // else its search begins then
		c.join(a)
		c.seek(a.job)
	}
}

// ask begins a round.
func (c *Core) ask(j *job) {
	s := &j.extra.search
	shards := c.shards()
	s.round++
	s.asking, s.expect, s.found, s.funnel, s.askedMs = true, len(shards), nil, directory.Funnel{}, c.nowMs
	exclude := c.exclude(j)
	for _, to := range shards {
		c.eff.Asks = append(c.eff.Asks, Ask{Shard: to, Message: &Select{
			From: c.cfg.Partition, JobID: j.id, Round: s.round,
			Selector: j.extra.selector, Kind: j.kind, Count: len(s.remaining), Exclude: exclude[to],
		}})
	}
	c.timers.set(&j.extra.alarm, c.nowMs+c.cfg.SelectMs)
}

// exclude returns the nodes that a job has or had, by the shard that they belong to.
func (c *Core) exclude(j *job) map[uint32][]string {
	var out map[uint32][]string
	add := func(node string) {
		if out == nil {
			out = map[uint32][]string{}
		}
		home := c.home(node)
		out[home] = append(out[home], node)
	}
	all := j.all()
	for i := range all {
		if node := all[i].node; node != "" && !j.hasTried(node) {
			add(node)
		}
	}
	for node := range j.extra.used {
		add(node)
	}
	return out
}

// Select answers another shard's search.
func (c *Core) Select(nowMs int64, q *Select, eff *Effects) {
	c.begin(nowMs, eff)
	query := directory.Query{Selector: q.Selector, Kind: q.Kind, Count: q.Count}
	if len(q.Exclude) > 0 {
		excluded := make(map[string]struct{}, len(q.Exclude))
		for _, node := range q.Exclude {
			excluded[node] = struct{}{}
		}
		query.Exclude = func(node string) bool { _, ok := excluded[node]; return ok }
	}
	found := c.dir.Match(&query, nowMs)
	c.eff.Asks = append(c.eff.Asks, Ask{Shard: q.From, Message: &Candidates{
		JobID: q.JobID, Round: q.Round, Nodes: found.Nodes, Funnel: found.Funnel,
	}})
}

// Candidates takes a shard's answer.
func (c *Core) Candidates(nowMs int64, m *Candidates, eff *Effects) {
	c.begin(nowMs, eff)
	j := c.pending.byID[m.JobID]
	if c.rebuild != nil || j == nil || j.selector() == nil {
		return
	}
	s := &j.extra.search
	if !s.asking || m.Round != s.round {
		return
	}
	s.found = append(s.found, m.Nodes...)
	if m.More {
		return
	}
	s.funnel.Add(m.Funnel)
	if s.expect--; s.expect <= 0 {
		c.conclude(j)
	}
}

// conclude ends a round with the candidates that came.
func (c *Core) conclude(j *job) {
	s := &j.extra.search
	s.asking = false
	if s.expect <= 0 || s.funnel[directory.Connected] > s.known[directory.Connected] {
		s.known = s.funnel
	}
	s.remaining = slices.DeleteFunc(s.remaining, func(a *assignment) bool { return a.state != choosing })
	found := slices.DeleteFunc(s.found, func(l Location) bool { return j.find(l.Node) != nil || j.hasTried(l.Node) })
	s.found = nil
	if j.deadlineMs <= c.nowMs && len(found) > 0 { // it is not that there are none
		c.giveUp(j)
		return
	}
	for _, loc := range directory.Spread(found, len(s.remaining)) {
		if j.find(loc.Node) != nil || j.hasTried(loc.Node) {
			continue // named twice
		}
		a := s.remaining[0]
		s.remaining = s.remaining[1:]
		c.settle(a, &loc)
	}
	c.unmatched(j)
}

// giveUp ends what looks for a node when the deadline has passed.
func (c *Core) giveUp(j *job) {
	s := &j.extra.search
	left := s.remaining
	s.remaining = nil
	c.timers.stop(&j.extra.alarm)
	for _, a := range left {
		c.expire(a)
	}
}

// settle gives an assignment the node that was found for it.
func (c *Core) settle(a *assignment, loc *Location) {
	j := a.job
	j.setNode(a, loc.Node)
	delete(j.extra.why, int32(a.index))
	c.touch(a)
	if er := c.early.take(j.id, loc.Node); er != nil {
		c.result(er.gate, &er.result)
		if a.state != waiting || a.slot > 0 || a.node != loc.Node {
			return // else it was of an attempt that does not count
		}
	}
	c.deliver(a, loc)
}

// unmatched ends the assignments whose time for finding a node is over, and sees to
// the next round for the others.
func (c *Core) unmatched(j *job) {
	s := &j.extra.search
	var missing []*assignment
	next := s.askedMs + c.cfg.RetryMs
	rest := s.remaining[:0]
	for _, a := range s.remaining {
		if a.overMs <= c.nowMs {
			missing = append(missing, a)
			continue
		}
		rest = append(rest, a)
		next = min(next, a.overMs)
	}
	if s.remaining = rest; len(rest) == 0 {
		s.remaining = nil
		c.timers.stop(&j.extra.alarm)
	} else {
		c.timers.set(&j.extra.alarm, max(next, c.nowMs+1))
	}
	if len(missing) == 0 {
		return
	}
	cause := s.known.Cause(j.extra.selector, j.kind, len(missing), len(j.all()))
	for _, a := range missing {
		if a.attempt == 0 {
			c.end(a, protocol.OutcomeUnmatched, cause, nil)
			continue
		}
		why := j.extra.why[int32(a.index)]
		if why == "" {
			why = "the attempt before failed"
		}
		if tried := j.extra.tried[int32(a.index)]; len(tried) > 0 {
			a.node = tried[len(tried)-1] // the result tells where
		}
		c.end(a, a.cause, fmt.Sprintf("%s; no other node was found: %s", why, cause), nil)
	}
}

// jobDue handles a job's own timer: its start, a round's end, or the next round.
func (c *Core) jobDue(j *job) {
	s := &j.extra.search
	switch {
	case !j.is(launched):
		c.start(j)
	case len(s.remaining) == 0:
	case s.asking:
		c.conclude(j)
	default:
		c.unmatched(j)
		if len(s.remaining) > 0 && s.askedMs+c.cfg.RetryMs <= c.nowMs {
			c.ask(j)
		}
	}
}
