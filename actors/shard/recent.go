package shard

import (
	"unsafe"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Bounds of what a shard remembers of finished jobs, for queries and for results
// that come twice.
const (
	recentJobs  = 4096
	recentBytes = 4 << 20
)

// recent is a ring of the jobs that finished last, bounded in number and bytes.
type recent struct {
	byID  map[string]*Summary
	ring  []*Summary
	head  int // the oldest
	count int
	bytes int
	texts arena // of the summaries
}

func newRecent() recent {
	return recent{byID: map[string]*Summary{}, ring: make([]*Summary, recentJobs)}
}

func (r *recent) add(s *Summary) {
	s.own(&r.texts)
	s.trim(recentBytes / 4)
	for r.count > 0 && (r.count == recentJobs || r.bytes+s.size() > recentBytes) {
		old := r.ring[r.head]
		r.ring[r.head] = nil
		r.head = (r.head + 1) % recentJobs
		r.count--
		r.bytes -= old.size()
		if r.byID[old.ID] == old {
			delete(r.byID, old.ID)
		}
	}
	r.ring[(r.head+r.count)%recentJobs] = s
	r.count++
	r.bytes += s.size()
	r.byID[s.ID] = s
}

// each calls fn from the newest to the oldest until it returns false.
func (r *recent) each(fn func(*Summary) bool) {
	for i := r.count - 1; i >= 0; i-- {
		if !fn(r.ring[(r.head+i)%recentJobs]) {
			return
		}
	}
}

// Summary is a job as queries see it.
type Summary struct {
	ID, Kind, Tenant string
	State            string // waiting, running or done
	Targets          int
	Outcomes         [protocol.OutcomeInvalid + 1]uint16
	Results          [][]byte // record values of the outcomes so far; of a huge job only the first
	SubmittedMs      int64
	DeadlineMs       int64
	NotBeforeMs      int64  // 0: at once
	Attempts         uint32 // that may be made for each target
	Priority         uint8
	Assignments      []Assignment // of a job that has not ended, answering QueryJob: the first ones
	Truncated        bool         // Assignments are not all
	Partition        int32
	Offset           int64

	one [1][]byte // backs Results of the most usual job
}

// Assignment is one of a job's targets as queries see it.
type Assignment struct {
	Node    string           // empty while none is chosen
	State   string           // waiting, running or done
	Attempt uint32           // of those made, the last
	Outcome protocol.Outcome // when done
}

// MaxAssignments caps the assignments of a [Summary].
const MaxAssignments = 1000

// The states of a job.
const (
	StateWaiting = "waiting"
	StateRunning = "running"
	StateDone    = "done"
)

// summary returns a job as queries see it. last is a result that the job does not hold,
// if not nil.
func (j *job) summary(partition uint32, last []byte) *Summary {
	all := j.all()
	s := &Summary{
		ID: j.id, Kind: j.kind, Tenant: j.tenant, State: j.state(), Targets: len(all), SubmittedMs: j.timestampMs,
		DeadlineMs: j.deadlineMs, NotBeforeMs: j.notBeforeMs(), Attempts: uint32(j.attempts), Priority: j.priority,
		Partition: int32(partition), Offset: j.offset,
	}
	for i := range all {
		if all[i].state == recorded {
			s.Outcomes[all[i].outcome]++
		}
	}
	switch {
	case len(all) > 1:
		s.Results = append(s.Results, j.extra.results...)
	default:
		s.Results = s.one[:0]
	}
	if last != nil {
		s.Results = append(s.Results, last)
	}
	return s
}

// detail adds the job's assignments.
func (s *Summary) detail(j *job) {
	all := j.all()
	n := min(len(all), MaxAssignments)
	s.Assignments, s.Truncated = make([]Assignment, n), n < len(all)
	for i := range s.Assignments {
		a := &all[i]
		v := Assignment{Node: a.node, State: StateWaiting, Attempt: uint32(a.attempt)}
		switch {
		case a.state == recorded:
			v.State, v.Outcome = StateDone, a.outcome
		case a.state >= queued:
			v.State = StateRunning
		}
		s.Assignments[i] = v
	}
}

// own gives the summary strings of its own: those of a job lie in its record's value,
// which would stay in memory with them.
func (s *Summary) own(texts *arena) {
	var buf [protocol.MaxJobIDBytes + protocol.MaxKindBytes + record.MaxTenantBytes]byte
	b := append(append(append(buf[:0], s.ID...), s.Kind...), s.Tenant...)
	if len(b) == 0 {
		return
	}
	kept := texts.keep(b)
	all := unsafe.String(&kept[0], len(kept)) // it is never changed
	i, k := len(s.ID), len(s.ID)+len(s.Kind)
	s.ID, s.Kind, s.Tenant = all[:i], all[i:k], all[k:]
}

// trim drops results that are over limit bytes together: they are in the results
// topic, and one huge job shall not push out all others.
func (s *Summary) trim(limit int) {
	n := 0
	for i, r := range s.Results {
		if n += len(r); n > limit {
			s.Results = append([][]byte(nil), s.Results[:i]...)
			return
		}
	}
}

// summaryBytes is what a summary takes besides its strings and results, its place in
// the map and ring of recent included.
const summaryBytes = int(unsafe.Sizeof(Summary{})) + 64

// size is about the memory that the summary takes.
func (s *Summary) size() int {
	n := summaryBytes + len(s.ID) + len(s.Kind) + len(s.Tenant) + 24*len(s.Results)
	for _, r := range s.Results {
		n += len(r)
	}
	return n
}
