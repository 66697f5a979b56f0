package shard

import (
	"slices"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/protocol/record"
)

// The questions that a shard answers. Reply has room for one answer, so the shard
// never waits for who asked.
type (
	// QueryJob asks for a job.
	QueryJob struct {
		ID    string
		Reply chan<- JobAnswer
	}
	// JobAnswer is the answer to QueryJob.
	JobAnswer struct {
		Summary    *Summary // nil when the shard does not know the job
		Rebuilding bool     // it knows no job yet
		Ended      bool     // the job has ended, and what came of it is forgotten here
	}
	// QueryJobs asks for the newest jobs that match, at most Limit.
	QueryJobs struct {
		State, Tenant, Node string // empty: any
		Limit               int
		Reply               chan<- JobsAnswer
	}
	// JobsAnswer is the answer to QueryJobs; it is empty while the shard rebuilds itself.
	JobsAnswer struct {
		Summaries  []*Summary
		Rebuilding bool
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
	Partition   uint32
	Pending     int   // jobs without all their outcomes recorded
	Next        int64 // the offset that was committed last; -1 before the first
	Read        int64 // the offset that is read next; 0 before the first
	Nodes       int   // in the directory
	OnNodes     int   // pending jobs of which at least one assignment is on its node
	Paused      bool
	Uncommitted int   // outcomes that Kafka does not have yet
	Rebuilding  bool  // the committed state is being read
	Restored    int   // jobs that were in it, so far
	Missing     int   // jobs that should have been in it, and were not
	Watermark   int64 // every job before this offset has its outcomes committed
	WatermarkMs int64 // timestamp of the job record at the watermark, or of the newest taken
	Stats       Stats
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
		q.Reply <- a.core.Query(q.ID)
	case *QueryJobs:
		q.Reply <- JobsAnswer{Summaries: a.core.Jobs(q), Rebuilding: a.core.Rebuilding()}
	case *QueryNodes:
		q.Reply <- a.core.Nodes(q)
	case *QueryStatus:
		s := a.core.Status()
		s.Paused = a.paused
		q.Reply <- s
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

// follow tells a follower what is known, and keeps it unless that is all.
func (a *Actor) follow(q *Follow) {
	if a.introduce(q.ID, q.Follower) {
		a.followers[q.ID] = append(a.followers[q.ID], q.Follower)
	}
}

// introduce tells a follower what is known of its job; false when it has ended.
func (a *Actor) introduce(id string, f *Follower) bool {
	s := a.core.Job(id)
	if s == nil {
		return true
	}
	f.Fn(FollowEvent{Summary: s})
	if s.State == StateDone {
		f.Fn(FollowEvent{Done: true})
		return false
	}
	return true
}

// introduceAll is introduce for those that followed while the shard knew no job.
func (a *Actor) introduceAll() {
	for id, fs := range a.followers {
		fs = slices.DeleteFunc(fs, func(f *Follower) bool { return !a.introduce(id, f) })
		if a.followers[id] = fs; len(fs) == 0 {
			delete(a.followers, id)
		}
	}
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

// Rebuilding reports whether the core still reads its state.
func (c *Core) Rebuilding() bool { return c.rebuild != nil }

// Job returns what is known of a job, or nil.
func (c *Core) Job(id string) *Summary {
	if c.rebuild != nil {
		return nil
	}
	if j := c.pending.byID[id]; j != nil {
		return j.summary(c.cfg.Partition)
	}
	if s := c.recent.find(id); s != nil {
		return s.copy()
	}
	return nil
}

// Query answers [QueryJob].
func (c *Core) Query(id string) JobAnswer {
	s := c.Job(id)
	if s == nil {
		_, ended := c.ended.find(hashID(id))
		return JobAnswer{Rebuilding: c.rebuild != nil, Ended: ended}
	}
	if j := c.pending.byID[id]; j != nil {
		s.detail(j)
	}
	return JobAnswer{Summary: s}
}

// Jobs returns the newest jobs that match: pending ones, then finished ones. It makes
// no more summaries than it returns.
func (c *Core) Jobs(q *QueryJobs) []*Summary {
	var out []*Summary
	limit := max(0, q.Limit)
	if c.rebuild != nil || limit == 0 {
		return nil
	}
	if q.State != StateDone {
		for j := c.pending.last; j != nil && len(out) < limit; j = j.prev {
			if q.fits(j) {
				out = append(out, j.summary(c.cfg.Partition))
			}
		}
	}
	if q.State == "" || q.State == StateDone {
		n := len(out)
		c.recent.each(func(s *Summary) bool {
			if (q.Tenant == "" || s.Tenant == q.Tenant) && (q.Node == "" || s.ranOn(q.Node)) {
				out = append(out, s.copy())
			}
			return len(out)-n < limit
		})
	}
	slices.SortFunc(out, func(x, y *Summary) int { return compare(y.Offset, x.Offset) })
	return out[:min(len(out), limit)]
}

// fits reports whether a pending job matches.
func (q *QueryJobs) fits(j *job) bool {
	return (q.Tenant == "" || j.tenant == q.Tenant) && (q.Node == "" || j.find(q.Node) != nil) &&
		(q.State == "" || j.state() == q.State)
}

// Nodes returns the connected nodes that match.
func (c *Core) Nodes(q *QueryNodes) NodePage {
	page := NodePage{Shard: c.cfg.Partition}
	page.Nodes, page.Total = c.dir.Page(&directory.Filter{Selector: &q.Selector, Kind: q.Kind, Prefix: q.Prefix}, q.After, q.Limit)
	return page
}

// Status answers [QueryStatus], but for what the actor knows.
func (c *Core) Status() Status {
	s := Status{
		Partition: c.cfg.Partition, Pending: len(c.pending.byID), Next: c.books.committed.next, Read: c.nextOffset,
		Nodes: c.dir.Len(), OnNodes: c.onNode, Uncommitted: c.books.uncommitted,
		Restored: c.restored, Missing: c.missing,
		Watermark: c.books.committed.watermark, WatermarkMs: c.books.committed.jobMs, Stats: c.stats,
	}
	if c.rebuild != nil {
		s.Rebuilding, s.Restored, s.Pending = true, s.Pending, 0
	}
	return s
}

func (s *Summary) ranOn(node string) bool {
	for _, v := range s.Results {
		if r, err := record.ParseResult("", v); err == nil && r.Node == node {
			return true
		}
	}
	return false
}
