// Package apitest holds a small member for tests of the API and its clients: it keeps jobs in memory,
// chooses nodes, and runs jobs with a function of the test's instead of over sockets.
package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Partitions is how many partitions the jobs topic has.
const Partitions = 8

// Handler runs a job on a node; false leaves it running until [Backend.Record] ends it.
type Handler func(job *record.Job, node api.NodeView) (Run, bool)

// Run is what came of running a job on a node.
type Run struct {
	Outcome  protocol.Outcome
	Duration time.Duration
	Error    string
	Output   any // turned into JSON
}

// Backend implements [api.Backend] in memory.
type Backend struct {
	mu        sync.Mutex
	nodes     map[string]api.NodeView
	jobs      map[string]*job
	order     []string
	followers map[string][]*follower
	handler   Handler
	down      error
	notReady  error
	stubborn  map[string]bool // nodes that do not give up a cancelled job
	ended     map[string]bool // ids of jobs whose details are gone
	rebuilds  []api.RebuildingView
	offset    int64
	outcomes  map[string]uint64
	registry  *prometheus.Registry
	submitted prometheus.Counter
	cluster   cluster
}

type job struct {
	record  *record.Job
	view    api.JobView
	targets []string // "" where no node was found
	given   map[string]bool
	ended   map[int]int      // index of the assignment to that of its result
	open    map[string][]int // indices of the assignments that have not ended, by node
	atMs    int64
}

// New makes a member with these nodes. A nil handler leaves every job running.
func New(handler Handler, nodes ...api.NodeView) *Backend {
	b := &Backend{
		nodes: map[string]api.NodeView{}, jobs: map[string]*job{}, followers: map[string][]*follower{},
		handler: handler, outcomes: map[string]uint64{}, stubborn: map[string]bool{}, ended: map[string]bool{}, registry: prometheus.NewRegistry(),
		submitted: prometheus.NewCounter(prometheus.CounterOpts{Name: "roost_api_jobs_total", Help: "Jobs submitted."}),
	}
	b.registry.MustRegister(b.submitted)
	for _, n := range nodes {
		b.nodes[n.ID] = n
	}
	return b
}

// SetDown makes every call fail with err; nil ends that.
func (b *Backend) SetDown(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = err
}

// SetNotReady makes Ready fail with err; nil ends that.
func (b *Backend) SetNotReady(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notReady = err
}

// SetRebuilding makes the member rebuild these shards: what it does not know may be in them. None ends
// that.
func (b *Backend) SetRebuilding(shards ...api.RebuildingView) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rebuilds = shards
}

// SetStubborn makes a node keep the jobs that are cancelled from now on.
func (b *Backend) SetStubborn(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stubborn[node] = true
}

// Forget drops the details of a job that has ended.
func (b *Backend) Forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.jobs, id)
	b.order = slices.DeleteFunc(b.order, func(other string) bool { return other == id })
	b.ended[id] = true
}

// find returns a job or the error that says why not.
func (b *Backend) find(id string) (*job, error) {
	e, ok := b.jobs[id]
	switch {
	case b.down != nil:
		return nil, b.down
	case ok:
		return e, nil
	case b.ended[id]:
		return nil, gone(id)
	}
	return nil, b.unknown()
}

func gone(id string) error {
	return fmt.Errorf("%q has %w; its outcomes are in the topic roost.results", id, api.ErrEnded)
}

// unknown is the error of what is not there.
func (b *Backend) unknown() error {
	if len(b.rebuilds) > 0 {
		return &api.Rebuilding{Shards: slices.Clone(b.rebuilds)}
	}
	return api.ErrNotFound
}

func (b *Backend) rebuilding() []int32 {
	var out []int32
	for _, r := range b.rebuilds {
		out = append(out, r.Partition)
	}
	return out
}

// Submit implements [api.Backend].
func (b *Backend) Submit(_ context.Context, j *record.Job) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return b.down
	}
	if e, dup := b.jobs[j.ID]; dup {
		return &api.Duplicate{Job: e.view}
	}
	if b.ended[j.ID] {
		return &api.Duplicate{Job: api.JobView{ID: j.ID, State: api.StateDone}}
	}
	b.offset++
	b.submitted.Inc()
	e := &job{record: j, targets: b.choose(&j.Target), given: map[string]bool{}, ended: map[int]int{}, open: map[string][]int{}, atMs: time.Now().UnixMilli()}
	for i, node := range e.targets {
		e.open[node] = append(e.open[node], i)
	}
	e.view = api.JobView{
		ID: j.ID, Kind: j.Kind, Tenant: j.Tenant, State: api.StateWaiting, Targets: len(e.targets), Outcomes: map[string]int{},
		SubmittedMs: e.atMs, Partition: record.Partition(j.Key(), Partitions), Offset: b.offset,
		DeadlineMs: j.DeadlineMs, NotBeforeMs: j.NotBeforeMs, AttemptsMax: j.Attempts, Priority: j.Priority,
	}
	if j.DeadlineMs == 0 {
		e.view.DeadlineMs = e.atMs + j.TTL.Milliseconds()
	}
	b.jobs[j.ID] = e
	b.order = append(b.order, j.ID)
	b.publishState(e)
	for _, id := range slices.Clone(e.targets) {
		b.deliver(e, id)
	}
	return nil
}

// Cancel implements [api.Backend]. The assignments of stubborn nodes stay open.
func (b *Backend) Cancel(_ context.Context, id, reason string) (api.JobView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, err := b.find(id)
	if err != nil {
		return api.JobView{}, err
	}
	if e.view.State == api.StateDone {
		return api.JobView{}, fmt.Errorf("%q has %w", id, api.ErrEnded)
	}
	v := e.shown()
	for i, node := range e.targets {
		if e.result(i) == nil && !b.stubborn[node] {
			b.end(e, node, Run{Outcome: protocol.OutcomeCancelled, Error: reason})
		}
	}
	return v, nil
}

// result returns what was recorded of the assignment at index i.
func (e *job) result(i int) *api.ResultView {
	if at, ok := e.ended[i]; ok {
		return &e.view.Results[at]
	}
	return nil
}

// shown is the view with assignments.
func (e *job) shown() api.JobView {
	v := e.view
	for i, node := range e.targets {
		a := api.AssignmentView{Index: uint32(i), Node: node, State: api.StateWaiting}
		if r := e.result(i); r != nil {
			a.State, a.Outcome, a.Attempt = api.StateDone, r.Outcome, r.Attempt
		} else if e.given[node] {
			a.State, a.Attempt = api.StateRunning, 1
		}
		v.Assignments = append(v.Assignments, a)
	}
	return v
}

// choose returns the assignments of a target, in the order of node ids.
func (b *Backend) choose(t *record.Target) []string {
	switch {
	case t.Node != "":
		return []string{t.Node}
	case t.Select == nil:
		return slices.Clone(t.Nodes)
	}
	out := make([]string, 0, t.Select.Count)
	for _, id := range b.ids() {
		n := b.nodes[id]
		a := protocol.Attributes{Country: n.Country, City: n.City, ASN: n.ASN, Platform: n.Platform, Tags: n.Tags}
		if len(out) < int(t.Select.Count) && t.Select.Matches(&a) {
			out = append(out, id)
		}
	}
	for len(out) < int(t.Select.Count) {
		out = append(out, "")
	}
	return out
}

func (b *Backend) ids() []string {
	ids := make([]string, 0, len(b.nodes))
	for id := range b.nodes {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

func (b *Backend) deliver(e *job, id string) {
	n, ok := b.nodes[id]
	switch {
	case id == "":
		b.end(e, "", Run{Outcome: protocol.OutcomeUnmatched, Error: "no connected node fits " + e.record.Target.Select.String()})
		return
	case !ok:
		return // it waits for the node
	}
	e.given[id] = true
	if e.view.State == api.StateWaiting {
		e.view.State = api.StateRunning
		b.publishState(e)
	}
	if b.handler != nil {
		if run, ended := b.handler(e.record, n); ended {
			b.end(e, id, run)
		}
	}
}

// Record ends the assignment of a job on a node.
func (b *Backend) Record(jobID, node string, run Run) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.jobs[jobID]
	if !ok {
		return fmt.Errorf("job %s: %w", jobID, api.ErrNotFound)
	}
	if len(e.open[node]) == 0 {
		return fmt.Errorf("job %s has no open assignment for %q", jobID, node)
	}
	b.end(e, node, run)
	return nil
}

// Progress reports progress of a job on a node.
func (b *Backend) Progress(jobID, node string, data json.RawMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.publish(jobID, api.Event{Type: api.EventProgress, Progress: &api.ProgressView{
		Job: jobID, Node: node, Attempt: 1, TimeMs: time.Now().UnixMilli(), Data: data,
	}})
}

func (b *Backend) end(e *job, node string, run Run) {
	r := api.ResultView{
		Job: e.view.ID, Node: node, Outcome: run.Outcome.String(), Kind: e.view.Kind, Error: run.Error,
		DurationMs: float64(run.Duration.Microseconds()) / 1000, TimeMs: time.Now().UnixMilli(), Member: "test",
	}
	i := e.open[node][0]
	e.open[node] = e.open[node][1:]
	e.ended[i] = len(e.view.Results)
	r.Index = uint32(i)
	if run.Outcome <= protocol.OutcomeCancelled {
		r.Attempt = 1
	}
	if run.Output != nil {
		out, err := json.Marshal(run.Output)
		if err != nil {
			panic(err) // the test's own value
		}
		r.Output = out
	}
	outcomes := map[string]int{r.Outcome: 1}
	for k, n := range e.view.Outcomes { // a new map: views have been given away
		outcomes[k] += n
	}
	e.view.Outcomes = outcomes
	e.view.Results = append(e.view.Results, r)
	b.outcomes[r.Outcome]++
	b.publish(e.view.ID, api.Event{Type: api.EventResult, Result: &r})
	if len(e.view.Results) < e.view.Targets {
		return
	}
	e.view.State = api.StateDone
	b.publishState(e)
	for _, f := range b.followers[e.view.ID] {
		f.close()
	}
	delete(b.followers, e.view.ID)
}

func (b *Backend) publishState(e *job) {
	v := e.view
	b.publish(v.ID, api.Event{Type: api.EventState, Job: &v})
}

func (b *Backend) publish(id string, ev api.Event) {
	for _, f := range b.followers[id] {
		f.put(ev)
	}
}

// Job implements [api.Backend].
func (b *Backend) Job(_ context.Context, id string) (api.JobView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, err := b.find(id)
	if err != nil {
		return api.JobView{}, err
	}
	return e.shown(), nil
}

// Jobs implements [api.Backend].
func (b *Backend) Jobs(_ context.Context, f api.JobFilter) (api.JobList, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return api.JobList{}, b.down
	}
	out := api.JobList{Rebuilding: b.rebuilding(), Missing: b.missing()}
	for _, id := range slices.Backward(b.order) {
		e := b.jobs[id]
		if f.State != "" && e.view.State != f.State || f.Tenant != "" && e.view.Tenant != f.Tenant ||
			f.Node != "" && !slices.Contains(e.targets, f.Node) || len(out.Jobs) == f.Limit {
			continue
		}
		out.Jobs = append(out.Jobs, e.view)
	}
	return out, nil
}

// Node implements [api.Backend].
func (b *Backend) Node(_ context.Context, id string) (api.NodeView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return api.NodeView{}, b.down
	}
	n, ok := b.nodes[id]
	if !ok {
		return n, b.unknown()
	}
	return n, nil
}

// Nodes implements [api.Backend]; the cursor is the last id of the page before.
func (b *Backend) Nodes(_ context.Context, f api.NodeFilter) (api.NodePage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return api.NodePage{}, b.down
	}
	after, ok := strings.CutPrefix(f.Cursor, "after:")
	if f.Cursor != "" && !ok {
		return api.NodePage{}, fmt.Errorf("%w: cursor %q is not one of ours", api.ErrInvalid, f.Cursor)
	}
	page := api.NodePage{Rebuilding: b.rebuilding(), Missing: b.missing()}
	for _, id := range b.ids() {
		n := b.nodes[id]
		if !fits(&n, &f) {
			continue
		}
		page.Total++
		switch {
		case id <= after:
		case len(page.Nodes) < f.Limit:
			page.Nodes = append(page.Nodes, n)
		default:
			page.Next = "after:" + page.Nodes[len(page.Nodes)-1].ID
		}
	}
	return page, nil
}

func fits(n *api.NodeView, f *api.NodeFilter) bool {
	return (f.Country == "" || f.Country == n.Country) && (f.City == "" || f.City == n.City) &&
		(f.ASN == 0 || f.ASN == n.ASN) && (f.Platform == "" || f.Platform == n.Platform) &&
		(f.Tag == "" || slices.Contains(n.Tags, f.Tag)) && (f.Kind == "" || slices.Contains(n.Kinds, f.Kind)) &&
		strings.HasPrefix(n.ID, f.Prefix)
}

// Watermarks implements [api.Backend]: of partition 5, and of those that are being rebuilt.
func (b *Backend) Watermarks(context.Context) (api.WatermarkList, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return api.WatermarkList{}, b.down
	}
	out := []api.WatermarkView{{Partition: 5, Offset: 40, JobMs: 1_700_000_000_000, Pending: 1, Committed: 41, Member: "test"}}
	for _, r := range b.rebuilds {
		out = append(out, api.WatermarkView{Partition: r.Partition, Member: "test", Rebuilding: true})
	}
	return api.WatermarkList{Watermarks: out, Missing: b.missing()}, nil
}

// Status implements [api.Backend].
func (b *Backend) Status(context.Context) (api.StatusView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return api.StatusView{}, b.down
	}
	v := api.StatusView{
		Member: "test", Version: "1.2.3", StartedMs: 1_700_000_000_000, UptimeMs: 93_784_000, Nodes: len(b.nodes),
		Kafka: api.KafkaView{Reachable: true, Bootstrap: "127.0.0.1:9092", ClusterID: "abc", Lag: 3,
			Transactions: api.TransactionsView{Committed: 12, Aborted: 1}},
		Connections: api.ConnectionsView{Open: len(b.nodes), Max: 1000, Refused: 2, Closed: map[string]uint64{"bye": 4}},
		Gates:       []api.GateView{{Loop: 0, Sessions: len(b.nodes)}, {Loop: 1, Restarts: 1, Reason: "panic"}},
		Shards:      []api.ShardView{{Partition: 5, Member: "test", Epoch: 7, Lag: 3, Pending: 1, Delivered: 1, Committed: 41, Highest: 42, Watermark: 40, WatermarkMs: 1_700_000_000_000, Uncommitted: 2}},
		Queues:      []api.QueueView{{Name: "parked results", Depth: 1, Max: 100}, {Name: "submissions"}},
		Members:     b.members(), Missing: b.missing(),
	}
	for _, r := range b.rebuilds {
		v.Shards = append(v.Shards, api.ShardView{Partition: r.Partition, Member: "test", Rebuilding: true, Restored: r.Restored})
	}
	v.Jobs = api.JobTotals{Accepted: uint64(len(b.jobs)), Outcomes: map[string]uint64{}}
	for k, n := range b.outcomes {
		v.Jobs.Outcomes[k] = n
	}
	for _, e := range b.jobs {
		v.Jobs.Pending += uint64(e.view.Targets - len(e.view.Results))
	}
	return v, nil
}

// Ready implements [api.Backend].
func (b *Backend) Ready(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.notReady
}

// Metrics implements [api.Backend].
func (b *Backend) Metrics() http.Handler {
	return promhttp.HandlerFor(b.registry, promhttp.HandlerOpts{})
}
