package roost

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Entry is one result in an [Outbox].
type Entry struct {
	JobID    string
	Shard    uint32
	Attempt  uint32
	Outcome  protocol.Outcome
	Duration time.Duration
	Error    string
	Output   []byte // one encoded msgpack value; never changed after Put
}

// size is what the entry counts against limits in bytes; 64 stands for the fields
// of fixed size.
func (e *Entry) size() int { return len(e.JobID) + len(e.Error) + len(e.Output) + 64 }

func (e *Entry) frame() protocol.Result {
	return protocol.Result{
		JobID: []byte(e.JobID), Shard: e.Shard, Attempt: e.Attempt, Outcome: e.Outcome,
		DurationUs: uint64(max(0, e.Duration.Microseconds())), Error: []byte(e.Error), Output: e.Output,
	}
}

// Outbox keeps results until they are acknowledged. Its methods are called from
// several goroutines at once. It holds one entry for each job.
//
// An outbox may also have a method Full() error; while it returns an error, jobs
// that come are refused with it. Put has to take results of jobs that were accepted
// before, so Full should leave room.
type Outbox interface {
	// Put stores e in place of any entry of the same job, and returns when it is as
	// safe as this outbox makes it. It may block; only a job's end waits for it.
	Put(e Entry) error

	// Remove forgets the job's entry unless its attempt is higher than the one
	// given. It should not block for long: the connection's reader calls it.
	Remove(jobID string, attempt uint32) error

	// All returns the entries, oldest first. Called once, by [New].
	All() ([]Entry, error)

	// Close releases what the outbox holds. For its owner; the client never does.
	Close() error
}

// Defaults of both outboxes.
const (
	DefaultOutboxEntries = 8192
	DefaultOutboxBytes   = 64 << 20
)

// entries is the bounded, ordered set behind both outboxes.
type entries struct {
	maxEntries, maxBytes int
	byJob                map[string]*stored
	bytes                int
	seq                  uint64
}

type stored struct {
	Entry
	seq  uint64
	disk int64 // size of its record in a FileOutbox
}

func newEntries(maxEntries, maxBytes int) entries {
	if maxEntries <= 0 {
		maxEntries = DefaultOutboxEntries
	}
	if maxBytes <= 0 {
		maxBytes = DefaultOutboxBytes
	}
	return entries{maxEntries: maxEntries, maxBytes: maxBytes, byJob: make(map[string]*stored)}
}

func (s *entries) put(e Entry, disk int64) {
	if old := s.byJob[e.JobID]; old != nil {
		s.bytes -= old.size()
	}
	s.seq++
	s.byJob[e.JobID] = &stored{e, s.seq, disk}
	s.bytes += e.size()
}

// remove returns false when there is nothing to remove.
func (s *entries) remove(jobID string, attempt uint32) bool {
	old := s.byJob[jobID]
	if old == nil || old.Attempt > attempt {
		return false
	}
	s.bytes -= old.size()
	delete(s.byJob, jobID)
	return true
}

func (s *entries) all() []Entry {
	list := make([]*stored, 0, len(s.byJob))
	for _, e := range s.byJob {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *stored) int { return int(int64(a.seq) - int64(b.seq)) })
	out := make([]Entry, len(list))
	for i, e := range list {
		out[i] = e.Entry
	}
	return out
}

func (s *entries) full() error {
	if len(s.byJob) >= s.maxEntries || s.bytes >= s.maxBytes {
		return fmt.Errorf("outbox holds %d results of %d bytes unacknowledged; at most %d of %d bytes are allowed",
			len(s.byJob), s.bytes, s.maxEntries, s.maxBytes)
	}
	return nil
}

// MemoryOutbox is an [Outbox] that ends with the process. A result that was not
// acknowledged then is lost, and its job is run again by whoever gets it next.
type MemoryOutbox struct {
	mu  sync.Mutex
	set entries
}

// NewMemoryOutbox returns an outbox that reports itself full from maxEntries results
// or maxBytes on; 0 means [DefaultOutboxEntries] and [DefaultOutboxBytes]. Results
// of jobs that already run are taken even then.
func NewMemoryOutbox(maxEntries, maxBytes int) *MemoryOutbox {
	return &MemoryOutbox{set: newEntries(maxEntries, maxBytes)}
}

// Put implements [Outbox]; it never fails.
func (o *MemoryOutbox) Put(e Entry) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.set.put(e, 0)
	return nil
}

// Remove implements [Outbox]; it never fails.
func (o *MemoryOutbox) Remove(jobID string, attempt uint32) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.set.remove(jobID, attempt)
	return nil
}

// All implements [Outbox].
func (o *MemoryOutbox) All() ([]Entry, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.set.all(), nil
}

// Full returns an error while the outbox is over its limits.
func (o *MemoryOutbox) Full() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.set.full()
}

// Close implements [Outbox]; it does nothing.
func (o *MemoryOutbox) Close() error { return nil }
