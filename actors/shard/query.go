package shard

import (
	"slices"
	"strings"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
)

// The questions that a shard answers. Reply has room for one answer, so the shard
// never waits for who asked.
type (
	// QueryJob asks for a job; the answer is nil when the shard does not know it.
	QueryJob struct {
		ID    string
		Reply chan<- *Summary
	}
	// QueryJobs asks for the newest jobs that match, at most Limit.
	QueryJobs struct {
		State, Tenant, Node string // empty: any
		Limit               int
		Reply               chan<- []*Summary
	}
	// QueryNodes asks for the nodes that match, in order of their ids, at most Limit
	// after the id After.
	QueryNodes struct {
		Selector     record.Selector
		Kind, Prefix string
		After        string
		Limit        int
		Reply        chan<- NodePage
	}
	// QueryStatus asks how the shard is.
	QueryStatus struct{ Reply chan<- Status }
	// Follow subscribes to a job, known or not yet.
	Follow struct {
		ID       string
		Follower *Follower
	}
	// Unfollow ends it.
	Unfollow struct {
		ID       string
		Follower *Follower
	}
)

// NodePage is the answer to QueryNodes; Total counts all that match.
type NodePage struct {
	Shard uint32
	Nodes []Location
	Total int
}

// Status is how a shard is.
type Status struct {
	Partition uint32
	Pending   int   // jobs without all their outcomes recorded
	Open      int   // records past the watermark
	Next      int64 // the offset that may be committed; -1 before the first
	Read      int64 // the offset that is read next; 0 before the first
	Nodes     int   // in the directory
	OnNodes   int   // pending jobs of which at least one assignment is on its node
	Paused    bool
	Unsent    int // records that the producer did not take yet
	Stats     Stats
}

// Follower hears what happens to a job. Fn is called on the shard's goroutine and
// must not block.
type Follower struct{ Fn func(FollowEvent) }

// FollowEvent is one thing that happened; exactly one of the first three is set, or
// none with Done or Gone.
type FollowEvent struct {
	Summary  *Summary // what is known at the start
	Value    []byte   // a result record
	Progress *actors.Progress
	Done     bool // the job has ended
	Gone     bool // the shard stops: follow again
}

func (a *Actor) query(m any) {
	switch q := m.(type) {
	case *QueryJob:
		q.Reply <- a.core.Job(q.ID)
	case *QueryJobs:
		q.Reply <- a.core.Jobs(q)
	case *QueryNodes:
		q.Reply <- a.core.Nodes(q)
	case *QueryStatus:
		q.Reply <- a.core.status(a.paused, len(a.backlog))
	case *Follow:
		a.follow(q)
	case *Unfollow:
		fs := slices.DeleteFunc(a.followers[q.ID], func(f *Follower) bool { return f == q.Follower })
		if len(fs) == 0 {
			delete(a.followers, q.ID)
		} else {
			a.followers[q.ID] = fs
		}
	}
}

func (a *Actor) follow(q *Follow) {
	s := a.core.Job(q.ID)
	if s != nil {
		q.Follower.Fn(FollowEvent{Summary: s})
		if s.State == StateDone {
			q.Follower.Fn(FollowEvent{Done: true})
			return
		}
	}
	a.followers[q.ID] = append(a.followers[q.ID], q.Follower)
}

func (a *Actor) notify(e *Event) {
	fs := a.followers[e.JobID]
	if fs == nil {
		return
	}
	for _, f := range fs {
		switch {
		case e.Progress != nil:
			p := *e.Progress
			p.Data = slices.Clone(p.Data)
			f.Fn(FollowEvent{Progress: &p})
		default:
			f.Fn(FollowEvent{Value: e.Value})
		}
		if e.Done {
			f.Fn(FollowEvent{Done: true})
		}
	}
	if e.Done {
		delete(a.followers, e.JobID)
	}
}

// Job returns what is known of a job, or nil.
func (c *Core) Job(id string) *Summary {
	if j := c.jobs[id]; j != nil {
		return j.summary(c.cfg.Partition)
	}
	return c.recent.byID[id]
}

// Jobs returns the newest jobs that match: pending ones, then finished ones.
func (c *Core) Jobs(q *QueryJobs) []*Summary {
	var out []*Summary
	limit := max(0, q.Limit)
	if q.State != StateDone {
		for _, j := range c.jobs {
			if q.Node != "" && j.find(q.Node) == nil || q.Tenant != "" && j.rec.Tenant != q.Tenant {
				continue
			}
			if s := j.summary(c.cfg.Partition); q.State == "" || s.State == q.State {
				out = append(out, s)
			}
		}
	}
	if q.State == "" || q.State == StateDone {
		n := len(out)
		c.recent.each(func(s *Summary) bool {
			if (q.Tenant == "" || s.Tenant == q.Tenant) && (q.Node == "" || s.ranOn(q.Node)) {
				out = append(out, s)
			}
			return len(out)-n < limit
		})
	}
	slices.SortFunc(out, func(x, y *Summary) int { return int(y.Offset - x.Offset) })
	return out[:min(len(out), limit)]
}

// Nodes returns the connected nodes that match.
func (c *Core) Nodes(q *QueryNodes) NodePage {
	page := NodePage{Shard: c.cfg.Partition}
	for node, p := range c.dir.nodes {
		if !q.Selector.Matches(&p.profile.Attributes) || q.Kind != "" && !p.profile.Offers(q.Kind) ||
			!strings.HasPrefix(node, q.Prefix) {
			continue
		}
		page.Total++
		if node > q.After {
			page.Nodes = append(page.Nodes, Location{Node: node, Gate: p.gate, Incarnation: p.incarnation, Profile: p.profile})
		}
	}
	slices.SortFunc(page.Nodes, func(x, y Location) int { return strings.Compare(x.Node, y.Node) })
	page.Nodes = page.Nodes[:min(len(page.Nodes), max(0, q.Limit))]
	return page
}

func (c *Core) status(paused bool, unsent int) Status {
	onNodes := 0
	for _, j := range c.jobs {
		for i := range j.assignments {
			if j.assignments[i].state == sent {
				onNodes++
				break
			}
		}
	}
	return Status{
		Partition: c.cfg.Partition, Pending: len(c.jobs), Open: c.mark.Open(), Next: c.mark.Next(),
		Read: c.nextOffset, Nodes: len(c.dir.nodes), OnNodes: onNodes, Paused: paused, Unsent: unsent, Stats: c.stats,
	}
}

func (s *Summary) ranOn(node string) bool {
	for _, v := range s.Results {
		if r, err := record.ParseResult("", v); err == nil && r.Node == node {
			return true
		}
	}
	return false
}
