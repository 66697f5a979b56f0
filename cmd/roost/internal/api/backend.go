package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
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
// shards are not rebuilt from Kafka yet, or that no member owns at the moment.
type Rebuilding struct {
	Shards     []RebuildingView
	RetryAfter time.Duration // rounded up to whole seconds; 0 is the API's default
}

// Error implements error.
func (e *Rebuilding) Error() string {
	if len(e.Shards) == 0 {
		return "not known yet: this member has no partitions at the moment"
	}
	jobs := 0
	var rebuilt, unowned []int32
	for _, s := range e.Shards {
		jobs += s.Restored
		if s.Unowned {
			unowned = append(unowned, s.Partition)
		} else {
			rebuilt = append(rebuilt, s.Partition)
		}
	}
	var parts []string
	switch len(rebuilt) {
	case 0:
	case 1:
		parts = append(parts, fmt.Sprintf("partition %d is being rebuilt, %d jobs so far", rebuilt[0], jobs))
	default:
		parts = append(parts, fmt.Sprintf("%d partitions are being rebuilt, %d jobs so far", len(rebuilt), jobs))
	}
	switch len(unowned) {
	case 0:
	case 1:
		parts = append(parts, fmt.Sprintf("partition %d has no owner at the moment", unowned[0]))
	default:
		parts = append(parts, fmt.Sprintf("%d partitions have no owner at the moment", len(unowned)))
	}
	return "not known yet: " + strings.Join(parts, ", ")
}

// Is makes it an [ErrUnavailable].
func (e *Rebuilding) Is(target error) bool { return target == ErrUnavailable }

// MissingMembers is an [ErrUnavailable]: what was asked for is not known to the members that answered,
// and may be known to those that did not.
type MissingMembers struct {
	Members    []string
	RetryAfter time.Duration // rounded up to whole seconds; 0 is the API's default
}

// Error implements error.
func (e *MissingMembers) Error() string {
	return "no other member knows it, and no answer came in time from " + strings.Join(e.Members, ", ")
}

// Is makes it an [ErrUnavailable].
func (e *MissingMembers) Is(target error) bool { return target == ErrUnavailable }

// Duplicate is the error of a submission whose id is known already: nothing was submitted. It is
// answered with 200 and the first job. Of one whose details are gone, Job has ID and State.
type Duplicate struct{ Job JobView }

// Error implements error.
func (e *Duplicate) Error() string { return "job " + e.Job.ID + " was submitted before" }

// Backend is what the API needs of a member, which answers for its whole cluster: an answer that some
// members have no part in says so in its [Missing]. Its methods are called from many goroutines at once and
// end early when their context does. The API keeps nothing that they return beyond the response, and
// changes none of it.
type Backend interface {
	// Submit hands the job to Kafka and returns when Kafka has acknowledged it. The job is valid and
	// the backend's from then on. One whose id is known is not submitted: [*Duplicate].
	Submit(ctx context.Context, job *record.Job) error
	// Cancel hands a cancel record for the job to Kafka, with the key of the job's own record, and
	// returns the job as it is when Kafka has acknowledged that: not cancelled yet, as a rule. The
	// reason may be empty, and has at most [record.MaxReasonBytes]. Errors are [ErrNotFound], [ErrEnded]
	// [*Rebuilding] and [*MissingMembers].
	Cancel(ctx context.Context, id, reason string) (JobView, error)
	// Job returns one job with its results and assignments, of which the API shows [MaxAssignments].
	// When it is not known: [*Rebuilding] while any shard is rebuilt, [ErrEnded] when its id is known to
	// have ended, [*MissingMembers] while any member does not answer, else [ErrNotFound].
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
	// Node returns one connected node, or [*Rebuilding], [*MissingMembers] or [ErrNotFound] as Job does.
	Node(ctx context.Context, id string) (NodeView, error)
	// Watermarks returns how far each partition is done, ordered by partition.
	Watermarks(ctx context.Context) (WatermarkList, error)
	// Status returns the state of this member and of the cluster.
	Status(ctx context.Context) (StatusView, error)
	// Tree returns the supervision tree of a member, or with an empty name of all, ordered by name.
	// Errors are [ErrNotFound] and [*MissingMembers], both of a name only.
	Tree(ctx context.Context, member string) (TreeList, error)
	// Trace sends what happens from now on to what the filter names, at any member, until ctx ends. The
	// receiver takes events at once, as those of Follow.
	Trace(ctx context.Context, filter TraceFilter) (<-chan TraceEvent, error)
	// Members returns the members of the cluster: this one first, then by name.
	Members(ctx context.Context) (MemberList, error)
	// Drain begins to send a member's nodes and partitions to others, or changes how that is done, and
	// returns when the member has begun. Errors are [ErrNotFound] (the member), [ErrInvalid] (there is
	// nowhere to go) and [*MissingMembers].
	Drain(ctx context.Context, member string, r DrainRequest) (MemberView, error)
	// Undrain lets a member serve again, whatever has left stays where it is. Errors as of Drain.
	Undrain(ctx context.Context, member string) (MemberView, error)
	// Rebalance has the members with more nodes than others send some away, and returns what it has
	// begun. Errors are [*MissingMembers] and [ErrInvalid].
	Rebalance(ctx context.Context, r RebalanceRequest) (RebalanceView, error)
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
	EventTrace    EventType = "trace"    // Trace
)

// Event is something that happened to a job that is followed, or to what is traced.
type Event struct {
	Type     EventType
	Result   *ResultView
	Progress *ProgressView
	Job      *JobView
	Trace    *TraceEvent
}
