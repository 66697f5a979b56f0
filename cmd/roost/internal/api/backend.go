package api

import (
	"context"
	"errors"
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

// Backend is what the API needs of a member. Its methods are called from many goroutines at once and
// end early when their context does. The API keeps nothing that they return beyond the response, and
// changes none of it.
type Backend interface {
	// Submit hands the job to Kafka and returns when Kafka has acknowledged it. The job is valid and
	// the backend's from then on.
	Submit(ctx context.Context, job *record.Job) error
	// Job returns one job with its results, or [ErrNotFound].
	Job(ctx context.Context, id string) (JobView, error)
	// Jobs returns the most recent jobs first, at most filter.Limit; results may be left out.
	Jobs(ctx context.Context, filter JobFilter) ([]JobView, error)
	// Follow sends what is known of a job and then what happens. An id not seen yet is waited for.
	// The channel is closed after the job's last outcome, when Job tells it as [StateDone], and soon
	// after ctx ended. The receiver takes events at once, however slow the client is.
	Follow(ctx context.Context, id string) (<-chan Event, error)
	// Nodes returns a page of the nodes connected to the cluster, ordered by id.
	Nodes(ctx context.Context, filter NodeFilter) (NodePage, error)
	// Node returns one connected node, or [ErrNotFound].
	Node(ctx context.Context, id string) (NodeView, error)
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
