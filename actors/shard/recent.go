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

// recent is a ring of the jobs that finished last, bounded in number and bytes. Every job
// passes through it, and few are asked for: so its memory is used again, and it is
// searched from end to end.
type recent struct {
	ring  []*[recentChunk]finished // as far as it was ever needed
	head  int                      // the oldest
	count int
	bytes int
	texts arena // of the summaries
}

// finished is a job in recent, with the first half of its id's hash.
type finished struct {
	hash uint64
	job  Summary
}

const recentChunk = 64 // divides recentJobs

// slot returns the i-th place after the oldest job's.
func (r *recent) slot(i int) *finished {
	at := (r.head + i) % recentJobs
	for at/recentChunk >= len(r.ring) {
		r.ring = append(r.ring, new([recentChunk]finished))
	}
	return &r.ring[at/recentChunk][at%recentChunk]
}

// next returns where the next job's summary goes; keep follows.
func (r *recent) next() *Summary {
	if r.count == recentJobs {
		r.drop()
	}
	return &r.slot(r.count).job
}

// keep takes in the summary that was written where next said.
func (r *recent) keep() {
	x := r.slot(r.count)
	x.job.own(&r.texts)
	x.job.trim(recentBytes / 4)
	x.hash = hashID(x.job.ID).lo
	size := x.job.size()
	for r.count > 0 && r.bytes+size > recentBytes {
		r.drop()
	}
	r.count++
	r.bytes += size
}

// drop forgets the oldest job.
func (r *recent) drop() {
	x := r.slot(0)
	r.bytes -= x.job.size()
	*x = finished{}
	r.head = (r.head + 1) % recentJobs
	r.count--
}

// find returns the newest job with an id, or nil. It is changed by the next step.
func (r *recent) find(id string) *Summary {
	hash := hashID(id).lo
	for i := r.count - 1; i >= 0; i-- {
		if x := r.slot(i); x.hash == hash && x.job.ID == id {
			return &x.job
		}
	}
	return nil
}

// each calls fn from the newest to the oldest until it returns false.
func (r *recent) each(fn func(*Summary) bool) {
	for i := r.count - 1; i >= 0; i-- {
		if !fn(&r.slot(i).job) {
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

// summary returns a job as queries see it.
func (j *job) summary(partition uint32) *Summary {
	s := new(Summary)
	j.summarize(s, partition, nil)
	return s
}

// summarize writes a job as queries see it. last is a result that the job does not hold,
// if not nil.
func (j *job) summarize(s *Summary, partition uint32, last []byte) {
	all := j.all()
	*s = Summary{
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
}

// copy returns a summary that nobody changes.
func (s *Summary) copy() *Summary {
	c := *s
	c.Results = append([][]byte(nil), s.Results...)
	return &c
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
