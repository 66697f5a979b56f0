package api

import (
	"encoding/json"
	"fmt"

	"github.com/roost-server/roost/protocol/record"
)

// JobView is a job as the API shows it.
type JobView struct {
	ID          string           `json:"id" doc:"Chosen by the producer or made by the API"`
	Kind        string           `json:"kind" doc:"Names the handler on the node"`
	Tenant      string           `json:"tenant,omitempty" doc:"Who the job belongs to"`
	State       string           `json:"state" enum:"waiting,running,done" doc:"waiting: no attempt has started; running: not all assignments have ended; done: every assignment has its outcome"`
	Targets     int              `json:"targets" minimum:"0" doc:"Number of assignments, one for each node"`
	Outcomes    map[string]int   `json:"outcomes" doc:"Number of assignments that ended, by outcome"`
	DeadlineMs  int64            `json:"deadline_ms,omitempty" doc:"Unix time in milliseconds; what is not delivered by then has expired"`
	NotBeforeMs int64            `json:"not_before_ms,omitempty" doc:"Unix time in milliseconds before which nothing is delivered; absent: at once"`
	AttemptsMax uint32           `json:"attempts_max,omitempty" doc:"Deliveries of one assignment that may be tried in all"`
	Priority    uint8            `json:"priority,omitempty" doc:"0 to 9; higher goes first"`
	Assignments []AssignmentView `json:"assignments,omitempty" nullable:"false" maxItems:"1000" doc:"The job's targets by index, the first 1000; left out in lists and events, and of a job that is done, whose results tell the same"`
	Results     []ResultView     `json:"results,omitempty" nullable:"false" doc:"The outcomes recorded so far; left out in lists and events"`
	SubmittedMs int64            `json:"submitted_ms" doc:"Unix time of the job record in milliseconds"`
	Partition   int32            `json:"partition" minimum:"0" doc:"Partition of the jobs topic where the record lies"`
	Offset      int64            `json:"offset" doc:"Offset of the record in its partition"`
	Truncated   bool             `json:"truncated,omitempty" doc:"Whether something is left out: there are more assignments than are shown, or this member no longer holds all results; the results topic does"`
}

// AssignmentView is one target of a job.
type AssignmentView struct {
	Index   uint32 `json:"index" format:"int64" doc:"Among the job's; as in its result record"`
	Node    string `json:"node,omitempty" doc:"The node's id; absent while none is chosen, and when none was found"`
	State   string `json:"state" enum:"waiting,running,done" doc:"waiting: for its node, its time or its next attempt; running: a node has it; done: it has its outcome"`
	Attempt uint32 `json:"attempt" format:"int64" doc:"The latest attempt; 0 when none was made"`
	Outcome string `json:"outcome,omitempty" enum:"ok,failed,refused,timeout,cancelled,lost,expired,unmatched,invalid" doc:"When it is done"`
}

// RebuildingView is how far the rebuilding of one partition's shard has come.
type RebuildingView struct {
	Partition int32 `json:"partition" minimum:"0"`
	Restored  int   `json:"restored" minimum:"0" doc:"Jobs so far"`
	Unowned   bool  `json:"unowned,omitempty" doc:"Whether no member owns it at the moment: whoever gets it rebuilds it first"`
}

// WatermarkView is how far one partition is done.
type WatermarkView struct {
	Partition  int32 `json:"partition" minimum:"0" doc:"Of the jobs topic"`
	Offset     int64 `json:"offset" minimum:"0" doc:"Every record before it has all of its outcomes recorded"`
	JobMs      int64 `json:"job_ms" doc:"Timestamp of the first job record that is still open; without one, of the newest that was read"`
	Pending    int   `json:"pending" minimum:"0" doc:"Jobs without all of their outcomes"`
	Committed  int64 `json:"committed" minimum:"0" doc:"Offset of the next record to read after a restart"`
	Rebuilding bool  `json:"rebuilding" doc:"Whether the shard is being rebuilt; the other values are not known then"`

	Member string `json:"member,omitempty" doc:"The member that owns the partition"`
}

// ResultView is the outcome of one assignment.
type ResultView struct {
	Job        string          `json:"job" doc:"The job's id"`
	Node       string          `json:"node" doc:"The node's id; empty when no node was found"`
	Index      uint32          `json:"index" format:"int64" doc:"Of the assignment among the job's: the job's id and this name it"`
	Outcome    string          `json:"outcome" enum:"ok,failed,refused,timeout,cancelled,lost,expired,unmatched,invalid" doc:"The terminal state of the assignment"`
	Attempt    uint32          `json:"attempt" doc:"The attempt that ended it; 0 when none was made"`
	Kind       string          `json:"kind,omitempty" doc:"The job's kind"`
	DurationMs float64         `json:"duration_ms" doc:"From start to end on the node, in milliseconds; 0 when it did not run"`
	Error      string          `json:"error,omitempty" doc:"Why, when the outcome is not ok"`
	Output     json.RawMessage `json:"output,omitempty" doc:"What the kind reports; any JSON value"`
	TimeMs     int64           `json:"time_ms" doc:"Unix time of the outcome in milliseconds"`
	Member     string          `json:"member,omitempty" doc:"The member that recorded it"`
}

// NewResultView turns a result record into what the API shows.
func NewResultView(r *record.Result) (ResultView, error) {
	v := ResultView{
		Job: r.Job, Node: r.Node, Index: r.Index, Outcome: r.Outcome.String(), Attempt: r.Attempt, Kind: r.Kind,
		DurationMs: float64(r.DurationUs) / 1000, Error: r.Error, TimeMs: r.TimeMs, Member: r.Member,
	}
	if len(r.Output) > 0 {
		out, err := record.ToJSON(r.Output)
		if err != nil {
			return v, fmt.Errorf("output: %w", err)
		}
		v.Output = out
	}
	return v, nil
}

// ProgressView is what a node reports of a job while it runs.
type ProgressView struct {
	Job     string          `json:"job" doc:"The job's id"`
	Node    string          `json:"node" doc:"The node's id"`
	Attempt uint32          `json:"attempt" doc:"The attempt that runs"`
	TimeMs  int64           `json:"time_ms" doc:"Unix time of the report in milliseconds"`
	Data    json.RawMessage `json:"data,omitempty" doc:"What the kind reports; any JSON value"`
}

// StreamEnd says why a stream of events ends before the job did.
type StreamEnd struct {
	Reason string `json:"reason" enum:"slow,shutdown,interrupted" doc:"slow: the client reads slower than outcomes arrive; shutdown: the member stops; interrupted: the member lost sight of the job"`
	Detail string `json:"detail" doc:"The same for a person"`
}

// NodeView is a connected node.
type NodeView struct {
	ID          string   `json:"id"`
	Country     string   `json:"country,omitempty" doc:"ISO 3166-1 code"`
	City        string   `json:"city,omitempty"`
	ASN         uint32   `json:"asn,omitempty" format:"int64" doc:"Autonomous system number"`
	Platform    string   `json:"platform,omitempty" doc:"Such as linux/arm64"`
	Tags        []string `json:"tags" nullable:"false" doc:"The owner's labels"`
	Kinds       []string `json:"kinds" nullable:"false" doc:"The kinds of job that it runs"`
	Agent       string   `json:"agent,omitempty" doc:"Name and version of the node's software"`
	Member      string   `json:"member" doc:"The member that holds its connection"`
	Incarnation uint64   `json:"incarnation" doc:"Numbers the sessions of this node; the newest wins"`
	RemoteAddr  string   `json:"remote_addr,omitempty" doc:"Where it connects from"`
	ConnectedMs int64    `json:"connected_ms" doc:"Unix time of the session's start in milliseconds"`
}

// NodePage is a part of the list of nodes.
type NodePage struct {
	Nodes []NodeView `json:"nodes" nullable:"false"`
	Total int        `json:"total" minimum:"0" doc:"Number of nodes that fit the filter, on all pages"`
	Next  string     `json:"next,omitempty" doc:"Cursor of the next page; absent on the last one"`

	Rebuilding []int32 `json:"rebuilding,omitempty" nullable:"false" doc:"Partitions that are being rebuilt, or that no member owns at the moment: their nodes are missing here"`
	Missing
}

// Missing says which members did not answer; it is part of every answer that several members make up.
type Missing struct {
	MissingMembers []string `json:"missing_members,omitempty" nullable:"false" doc:"Members that did not answer in time: what only they know is missing here"`
}

// StatusView is the state of a member, and of the cluster as far as the others answered.
type StatusView struct {
	Member      string          `json:"member" doc:"The member's name"`
	Version     string          `json:"version" doc:"Version of the software"`
	StartedMs   int64           `json:"started_ms" doc:"Unix time of the start in milliseconds"`
	UptimeMs    int64           `json:"uptime_ms" minimum:"0"`
	Kafka       KafkaView       `json:"kafka"`
	Nodes       int             `json:"nodes" minimum:"0" doc:"Nodes connected to this member"`
	Connections ConnectionsView `json:"connections"`
	Jobs        JobTotals       `json:"jobs"`
	Gates       []GateView      `json:"gates" nullable:"false" doc:"The event loops"`
	Queues      []QueueView     `json:"queues,omitempty" nullable:"false" doc:"What waits in this member, and for how much there is room"`
	Shards      []ShardView     `json:"shards" nullable:"false" doc:"The partitions of all members that answered, ordered by number"`
	Unowned     []int32         `json:"unowned_partitions,omitempty" nullable:"false" doc:"Partitions that no member owns at the moment"`
	Members     []MemberView    `json:"members" nullable:"false" doc:"The cluster as this member sees it: itself first, then by name"`
	Missing
}

// KafkaView is a member's relation to Kafka.
type KafkaView struct {
	Reachable bool   `json:"reachable"`
	Bootstrap string `json:"bootstrap" doc:"The addresses given"`
	ClusterID string `json:"cluster_id,omitempty"`
	Lag       int64  `json:"lag" minimum:"0" doc:"Job records in this member's partitions that it has not read"`
	Error     string `json:"error,omitempty" doc:"Why it is not reachable"`

	Transactions TransactionsView `json:"transactions"`
	// PartitionsChanged is a warning for people.
	PartitionsChanged string `json:"partitions_changed,omitempty" doc:"A warning: the number of partitions of the jobs topic is not what it was when the member started, and what to do"`
}

// TransactionsView counts a member's Kafka transactions since its start.
type TransactionsView struct {
	Committed uint64 `json:"committed"`
	Aborted   uint64 `json:"aborted" doc:"Given up with nothing of them visible, and tried again"`
	Fenced    uint64 `json:"fenced" doc:"Times another client took over the member's transactional id"`
}

// ConnectionsView counts the sockets of nodes.
type ConnectionsView struct {
	Open    int               `json:"open" minimum:"0"`
	Max     int               `json:"max,omitempty" minimum:"0" doc:"More are refused; absent when there is no limit"`
	Refused uint64            `json:"refused" doc:"Since the start"`
	Closed  map[string]uint64 `json:"closed,omitempty" doc:"Since the start, by reason"`
}

// JobTotals counts jobs since the start of the member.
type JobTotals struct {
	Accepted uint64            `json:"accepted" doc:"Job records read"`
	Pending  uint64            `json:"pending" doc:"Assignments without outcome"`
	Outcomes map[string]uint64 `json:"outcomes" doc:"Outcomes recorded"`
}

// QueueView is one of the queues of a member.
type QueueView struct {
	Name  string `json:"name" doc:"What waits, such as parked results"`
	Depth int    `json:"depth" minimum:"0"`
	Max   int    `json:"max,omitempty" minimum:"0" doc:"More are refused or dropped; absent when there is no limit"`
}

// GateView is one event loop.
type GateView struct {
	Loop     int    `json:"loop" minimum:"0"`
	Sessions int    `json:"sessions" minimum:"0"`
	Restarts uint64 `json:"restarts"`
	Reason   string `json:"reason,omitempty" doc:"Of the last restart"`
}

// ShardView is one partition.
type ShardView struct {
	Partition int32 `json:"partition" minimum:"0"`

	Member string `json:"member,omitempty" doc:"The member that owns it"`
	Epoch  uint64 `json:"epoch,omitempty" doc:"Numbers the lives of the partition's shard; the newest wins"`
	Lag    int64  `json:"lag" minimum:"0" doc:"Job records that it has not read"`

	Pending   int   `json:"pending" minimum:"0" doc:"Assignments without outcome"`
	Delivered int   `json:"delivered" minimum:"0" doc:"Those of them that a node has"`
	Paused    bool  `json:"paused" doc:"Whether reading is paused because too much is pending"`
	Committed int64 `json:"committed" doc:"Offset of the next record to read after a restart"`
	Highest   int64 `json:"highest" doc:"Offset after the last record of the partition"`

	Watermark   int64 `json:"watermark" doc:"Every record before this offset has all of its outcomes recorded"`
	WatermarkMs int64 `json:"watermark_ms,omitempty" doc:"Timestamp of the first job record that is still open; without one, of the newest that was read"`
	Uncommitted int   `json:"uncommitted" minimum:"0" doc:"Outcomes that are not in a committed transaction yet"`
	Rebuilding  bool  `json:"rebuilding,omitempty" doc:"Whether the shard is being rebuilt from the state topic"`
	Restored    int   `json:"restored,omitempty" minimum:"0" doc:"Jobs restored by the latest rebuilding, so far"`
	Missing     int   `json:"missing,omitempty" minimum:"0" doc:"Jobs that should have been in the state topic and were not, at the latest rebuilding: they are lost"`

	Restarts uint64 `json:"restarts"`
	Reason   string `json:"reason,omitempty" doc:"Of the last restart"`
}
