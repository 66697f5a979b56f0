package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/roost-server/roost/protocol/record"
)

// The classes of error that a [Backend] returns, wrapped with what happened. Any other error is
// answered with 500.
var (
	// ErrNotFound is answered with 404.
	ErrNotFound = errors.New("not found")
	// ErrInvalid is answered with 400: the same request would be refused again.
	ErrInvalid = errors.New("invalid")
	// ErrEnded is that of a job which has ended and whose details are gone, answered with 410: the error
	// around it names the topic that has its outcomes. And it is that of the cancellation of a job which
	// has ended, answered with 409.
	ErrEnded = errors.New("ended already")
	// ErrUnavailable is answered with 503 and Retry-After; see [Unavailable] to choose the delay.
	ErrUnavailable = errors.New("unavailable")
)

// Unavailable is an [ErrUnavailable] that says when to try again.
type Unavailable struct {
	Reason     string
	RetryAfter time.Duration // rounded up to whole seconds; 0 is the API's default
}

// Error implements error.
func (e *Unavailable) Error() string { return e.Reason }

// Is makes it an [ErrUnavailable].
func (e *Unavailable) Is(target error) bool { return target == ErrUnavailable }

// Rebuilding is an [ErrUnavailable]: what was asked for is not known, and it may be in partitions whose
// shards are not rebuilt from Kafka yet.
type Rebuilding struct {
	Shards     []RebuildingView
	RetryAfter time.Duration // rounded up to whole seconds; 0 is the API's default
}

// Error implements error.
func (e *Rebuilding) Error() string {
	n := 0
	for _, s := range e.Shards {
		n += s.Restored
	}
	if len(e.Shards) == 0 {
		return "not known yet: this member has no partitions at the moment"
	}
	if len(e.Shards) == 1 {
		return fmt.Sprintf("not known yet: partition %d is being rebuilt, %d jobs so far", e.Shards[0].Partition, n)
	}
	return fmt.Sprintf("not known yet: %d partitions are being rebuilt, %d jobs so far", len(e.Shards), n)
}

// Is makes it an [ErrUnavailable].
func (e *Rebuilding) Is(target error) bool { return target == ErrUnavailable }

// Duplicate is the error of a submission whose id is known already: nothing was submitted. It is
// answered with 200 and the first job. Of one whose details are gone, Job has ID and State.
type Duplicate struct{ Job JobView }

// Error implements error.
func (e *Duplicate) Error() string { return "job " + e.Job.ID + " was submitted before" }

// Backend is what the API needs of a member. Its methods are called from many goroutines at once and
// end early when their context does. The API keeps nothing that they return beyond the response, and
// changes none of it.
type Backend interface {
	// Submit hands the job to Kafka and returns when Kafka has acknowledged it. The job is valid and
	// the backend's from then on. One whose id is known is not submitted: [*Duplicate].
	Submit(ctx context.Context, job *record.Job) error
	// Cancel hands a cancel record for the job to Kafka, with the key of the job's own record, and
	// returns the job as it is when Kafka has acknowledged that: not cancelled yet, as a rule. The
	// reason may be empty, and has at most [record.MaxReasonBytes]. Errors are [ErrNotFound], [ErrEnded]
	// and [*Rebuilding].
	Cancel(ctx context.Context, id, reason string) (JobView, error)
	// Job returns one job with its results and assignments, of which the API shows [MaxAssignments].
	// When it is not known: [*Rebuilding] while any shard is rebuilt, [ErrEnded] when its id is known to
	// have ended, else [ErrNotFound].
	Job(ctx context.Context, id string) (JobView, error)
	// Jobs returns the most recent jobs first, at most filter.Limit; results and assignments may be left
	// out.
	Jobs(ctx context.Context, filter JobFilter) (JobList, error)
	// Follow sends what is known of a job and then what happens. An id not seen yet is waited for; of
	// one that is known to have ended and whose details are gone: [ErrEnded].
	// The channel is closed after the job's last outcome, when Job tells it as [StateDone], and soon
	// after ctx ended. The receiver takes events at once, however slow the client is.
	Follow(ctx context.Context, id string) (<-chan Event, error)
	// Nodes returns a page of the nodes connected to the cluster, ordered by id.
	Nodes(ctx context.Context, filter NodeFilter) (NodePage, error)
	// Node returns one connected node, or [*Rebuilding] or [ErrNotFound] as Job does.
	Node(ctx context.Context, id string) (NodeView, error)
	// Watermarks returns how far each partition of this member is done, ordered by partition.
	Watermarks(ctx context.Context) ([]WatermarkView, error)
	// Status returns the state of this member.
	Status(ctx context.Context) (StatusView, error)
	// Ready returns nil when the member can serve, else every reason why not (see [errors.Join]).
	Ready(ctx context.Context) error
	// Metrics serves the metrics in Prometheus' text format.
	Metrics() http.Handler
}

// The states of a job.
const (
	StateWaiting = "waiting" // no attempt has started
	StateRunning = "running" // at least one assignment has started, not all have ended
	StateDone    = "done"    // every assignment has its outcome
)

// JobFilter chooses jobs; zero values let everything pass.
type JobFilter struct {
	State  string // one of the states
	Tenant string
	Node   string // a node among its targets or results
	Limit  int    // 1 to MaxPage
}

// NodeFilter chooses nodes; zero values let everything pass.
type NodeFilter struct {
	Country  string
	City     string
	ASN      uint32
	Tag      string
	Kind     string
	Platform string
	Prefix   string // of the id
	Limit    int    // 1 to MaxPage
	Cursor   string // NodePage.Next of the page before
}

// Limits of lists.
const (
	// MaxPage caps a page of jobs or nodes: a response stays within a few MiB.
	MaxPage = 1000
	// DefaultPage is a page when no limit is given.
	DefaultPage = 100
	// MaxAssignments caps the assignments shown of one job.
	MaxAssignments = 1000
)

// EventType says which field of an [Event] is set.
type EventType string

// The types of event.
const (
	EventResult   EventType = "result"   // Result
	EventProgress EventType = "progress" // Progress
	EventState    EventType = "state"    // Job, without results
)

// Event is something that happened to a job that is followed.
type Event struct {
	Type     EventType
	Result   *ResultView
	Progress *ProgressView
	Job      *JobView
}
