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
	offset    int64
	outcomes  map[string]uint64
	registry  *prometheus.Registry
	submitted prometheus.Counter
}

type job struct {
	record  *record.Job
	view    api.JobView
	targets []string // "" where no node was found
	atMs    int64
}

// New makes a member with these nodes. A nil handler leaves every job running.
func New(handler Handler, nodes ...api.NodeView) *Backend {
	b := &Backend{
		nodes: map[string]api.NodeView{}, jobs: map[string]*job{}, followers: map[string][]*follower{},
		handler: handler, outcomes: map[string]uint64{}, registry: prometheus.NewRegistry(),
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

// Submit implements [api.Backend].
func (b *Backend) Submit(_ context.Context, j *record.Job) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return b.down
	}
	if _, dup := b.jobs[j.ID]; dup {
		return fmt.Errorf("%w: the id is used already", api.ErrInvalid)
	}
	b.offset++
	b.submitted.Inc()
	e := &job{record: j, targets: b.choose(&j.Target), atMs: time.Now().UnixMilli()}
	e.view = api.JobView{
		ID: j.ID, Kind: j.Kind, Tenant: j.Tenant, State: api.StateWaiting, Targets: len(e.targets), Outcomes: map[string]int{},
		SubmittedMs: e.atMs, Partition: record.Partition(j.Key(), Partitions), Offset: b.offset,
	}
	b.jobs[j.ID] = e
	b.order = append(b.order, j.ID)
	b.publishState(e)
	for _, id := range slices.Clone(e.targets) {
		b.deliver(e, id)
	}
	return nil
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
	if !slices.Contains(e.targets, node) {
		return fmt.Errorf("job %s has no assignment for %q", jobID, node)
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
	if b.down != nil {
		return api.JobView{}, b.down
	}
	e, ok := b.jobs[id]
	if !ok {
		return api.JobView{}, api.ErrNotFound
	}
	return e.view, nil
}

// Jobs implements [api.Backend].
func (b *Backend) Jobs(_ context.Context, f api.JobFilter) ([]api.JobView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return nil, b.down
	}
	var out []api.JobView
	for _, id := range slices.Backward(b.order) {
		e := b.jobs[id]
		if f.State != "" && e.view.State != f.State || f.Tenant != "" && e.view.Tenant != f.Tenant ||
			f.Node != "" && !slices.Contains(e.targets, f.Node) || len(out) == f.Limit {
			continue
		}
		out = append(out, e.view)
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
		return n, api.ErrNotFound
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
	var page api.NodePage
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

// Status implements [api.Backend].
func (b *Backend) Status(context.Context) (api.StatusView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return api.StatusView{}, b.down
	}
	v := api.StatusView{
		Member: "test", Version: "1.2.3", StartedMs: 1_700_000_000_000, UptimeMs: 93_784_000, Nodes: len(b.nodes),
		Kafka:       api.KafkaView{Reachable: true, Bootstrap: "127.0.0.1:9092", ClusterID: "abc", Lag: 3},
		Connections: api.ConnectionsView{Open: len(b.nodes), Max: 1000, Refused: 2, Closed: map[string]uint64{"bye": 4}},
		Gates:       []api.GateView{{Loop: 0, Sessions: len(b.nodes)}, {Loop: 1, Restarts: 1, Reason: "panic"}},
		Shards:      []api.ShardView{{Partition: 5, Pending: 1, Delivered: 1, Committed: 41, Highest: 42}},
		Members:     []api.MemberView{{Name: "test", State: "serving", Nodes: len(b.nodes)}},
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
