package shard

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
}

func newRecent() recent {
	return recent{byID: map[string]*Summary{}, ring: make([]*Summary, recentJobs)}
}

func (r *recent) add(s *Summary) {
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
	Results          [][]byte // record values of the outcomes so far, in their record's encoding
	SubmittedMs      int64
	Partition        int32
	Offset           int64
}

// The states of a job.
const (
	StateWaiting = "waiting"
	StateRunning = "running"
	StateDone    = "done"
)

func (s *Summary) size() int {
	n := 256 + len(s.ID)
	for _, r := range s.Results {
		n += len(r)
	}
	return n
}
