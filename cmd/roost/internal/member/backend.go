package member

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/roost-server/roost/actors/session"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
	"github.com/roost-server/roost/transport/kafka"
)

// backend answers from the member's own shards: see local, and fanout for the cluster.
type backend struct{ m *Member }

// submission gives an error of the producer the class that the API goes by.
func submission(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), kafka.Classify(err) == kafka.ClassRetry && !errors.Is(err, context.Canceled):
		return &api.Unavailable{Reason: "Kafka did not take the job: " + err.Error(), RetryAfter: time.Second}
	case kafka.Classify(err) == kafka.ClassReject:
		return fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return err
}

// known asks the shards for a job.
func (b *backend) known(ctx context.Context, id string) (shard.JobAnswer, error) {
	answers, err := ask(ctx, b, func(r chan<- shard.JobAnswer) any { return &shard.QueryJob{ID: id, Reply: r} })
	out := shard.JobAnswer{Rebuilding: len(answers) == 0} // no partition is assigned yet
	for _, a := range answers {
		if a.Summary != nil {
			out.Summary = a.Summary
		}
		out.Rebuilding = out.Rebuilding || a.Rebuilding
		out.Ended = out.Ended || a.Ended
	}
	return out, err
}

func rebuilding(shards []shard.Status) []api.RebuildingView {
	var out []api.RebuildingView
	for i := range shards {
		if s := &shards[i]; s.Rebuilding {
			out = append(out, api.RebuildingView{Partition: int32(s.Partition), Restored: s.Restored})
		}
	}
	return out
}

// rebuildingNow returns the partitions whose shards are rebuilt at the moment.
func (b *backend) rebuildingNow(ctx context.Context) ([]int32, error) {
	shards, err := b.statuses(ctx)
	var out []int32
	for i := range shards {
		if shards[i].Rebuilding {
			out = append(out, int32(shards[i].Partition))
		}
	}
	return out, err
}

// ask puts one question to every shard of this member and collects the answers.
func ask[T any](ctx context.Context, b *backend, question func(reply chan<- T) any) ([]T, error) {
	shards := b.m.tree.Router().Shards()
	reply := make(chan T, len(shards))
	asked := 0
	for _, p := range shards {
		if b.m.tree.Router().ToShard(p, question(reply)) {
			asked++
		}
	}
	answers := make([]T, 0, asked)
	for range asked {
		select {
		case a := <-reply:
			answers = append(answers, a)
		case <-ctx.Done():
			return nil, &api.Unavailable{Reason: "a shard did not answer in time", RetryAfter: time.Second}
		}
	}
	return answers, nil
}

// Jobs implements local.
func (b *backend) Jobs(ctx context.Context, f api.JobFilter) (api.JobList, error) {
	answers, err := ask(ctx, b, func(r chan<- shard.JobsAnswer) any {
		return &shard.QueryJobs{State: f.State, Tenant: f.Tenant, Node: f.Node, Limit: f.Limit, Reply: r}
	})
	if err != nil {
		return api.JobList{}, err
	}
	var all []*shard.Summary
	partial := false
	for _, a := range answers {
		all = append(all, a.Summaries...)
		partial = partial || a.Rebuilding
	}
	slices.SortFunc(all, func(x, y *shard.Summary) int { return int(y.SubmittedMs - x.SubmittedMs) })
	out := api.JobList{Jobs: make([]api.JobView, 0, min(len(all), f.Limit))}
	for _, s := range all[:min(len(all), f.Limit)] {
		out.Jobs = append(out.Jobs, jobView(s, false))
	}
	if partial {
		out.Rebuilding, err = b.rebuildingNow(ctx)
	}
	return out, err
}

// jobView shows a summary; outcomes are counted in any case, results that are not
// kept any more included.
func jobView(s *shard.Summary, results bool) api.JobView {
	v := api.JobView{
		ID: s.ID, Kind: s.Kind, Tenant: s.Tenant, State: s.State, Targets: s.Targets, Outcomes: map[string]int{},
		SubmittedMs: s.SubmittedMs, Partition: s.Partition, Offset: s.Offset,
		DeadlineMs: s.DeadlineMs, NotBeforeMs: s.NotBeforeMs, AttemptsMax: s.Attempts, Priority: s.Priority,
	}
	ended := 0
	for _, o := range protocol.Outcomes() {
		if n := int(s.Outcomes[o]); n > 0 {
			v.Outcomes[o.String()] = n
			ended += n
		}
	}
	v.Truncated = len(s.Results) < ended || s.Truncated
	if results {
		for i := range s.Assignments {
			a := api.AssignmentView{Index: uint32(i), Node: s.Assignments[i].Node, State: s.Assignments[i].State, Attempt: s.Assignments[i].Attempt}
			if a.State == shard.StateDone {
				a.Outcome = s.Assignments[i].Outcome.String()
			}
			v.Assignments = append(v.Assignments, a)
		}
		for _, value := range s.Results {
			if r, err := resultView(value); err == nil {
				v.Results = append(v.Results, r)
			}
		}
	}
	return v
}

func resultView(value []byte) (api.ResultView, error) {
	r, err := record.ParseResult("", value)
	if err != nil {
		return api.ResultView{}, err
	}
	return api.NewResultView(&r)
}

// Nodes implements local.
func (b *backend) Nodes(ctx context.Context, f api.NodeFilter) (api.NodePage, error) {
	sel := record.Selector{Country: f.Country, City: f.City, ASN: f.ASN, Platform: f.Platform}
	if f.Tag != "" {
		sel.Tags = []string{f.Tag}
	}
	answers, err := ask(ctx, b, func(r chan<- shard.NodePage) any {
		return &shard.QueryNodes{Selector: sel, Kind: f.Kind, Prefix: f.Prefix, After: f.Cursor, Limit: f.Limit + 1, Reply: r}
	})
	if err != nil {
		return api.NodePage{}, err
	}
	page := api.NodePage{Nodes: []api.NodeView{}}
	for _, a := range answers {
		page.Total += a.Total
		for i := range a.Nodes {
			page.Nodes = append(page.Nodes, b.nodeView(&a.Nodes[i]))
		}
	}
	slices.SortFunc(page.Nodes, func(x, y api.NodeView) int { return strings.Compare(x.ID, y.ID) })
	if len(page.Nodes) > f.Limit {
		page.Nodes = page.Nodes[:f.Limit]
		page.Next = page.Nodes[f.Limit-1].ID
	}
	page.Rebuilding, err = b.rebuildingNow(ctx)
	return page, err
}

func (b *backend) nodeView(l *shard.Location) api.NodeView {
	p := l.Profile
	return api.NodeView{
		ID: l.Node, Country: p.Country, City: p.City, ASN: p.ASN, Platform: p.Platform,
		Tags: emptyNotNil(p.Tags), Kinds: emptyNotNil(p.Kinds), Agent: p.Agent, Member: b.m.memberOf(l.Gate),
		Incarnation: l.Incarnation, ConnectedMs: session.StartedMs(l.Incarnation),
	}
}

func emptyNotNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// statuses asks every shard how it is.
func (b *backend) statuses(ctx context.Context) ([]shard.Status, error) {
	answers, err := ask(ctx, b, func(r chan<- shard.Status) any { return &shard.QueryStatus{Reply: r} })
	slices.SortFunc(answers, func(x, y shard.Status) int { return int(x.Partition) - int(y.Partition) })
	return answers, err
}

// Watermarks implements local.
func (b *backend) Watermarks(ctx context.Context) ([]api.WatermarkView, error) {
	shards, err := b.statuses(ctx)
	out := make([]api.WatermarkView, 0, len(shards))
	for i := range shards {
		s := &shards[i]
		out = append(out, api.WatermarkView{Partition: int32(s.Partition), Offset: max(0, s.Watermark), JobMs: s.WatermarkMs,
			Pending: s.Pending, Committed: max(0, s.Next), Rebuilding: s.Rebuilding})
	}
	return out, err
}

// Status implements local.
func (b *backend) Status(ctx context.Context) (api.StatusView, error) {
	shards, err := b.statuses(ctx)
	if err != nil {
		return api.StatusView{}, err
	}
	m := b.m
	consumer, net := m.source.consumer.Stats(), m.server.Stats()
	failures, restarts := m.tree.Failures()
	reasons := map[string]string{} // of the last failure, by actor
	for _, f := range failures {
		reasons[f.Actor] = f.Reason
	}
	v := api.StatusView{
		Member: m.cfg.Name, Version: m.cfg.Version, StartedMs: m.started.UnixMilli(), UptimeMs: time.Since(m.started).Milliseconds(),
		Kafka: api.KafkaView{Reachable: consumer.Reachable, Bootstrap: m.cfg.Kafka.Bootstrap, ClusterID: m.info.ClusterID},
		Nodes: int(m.gateStats.Sessions.Load()),
		Connections: api.ConnectionsView{Open: net.Open, Max: net.MaxConns, Refused: net.Refused,
			Closed: map[string]uint64{}},
		Jobs:  api.JobTotals{Outcomes: map[string]uint64{}},
		Gates: []api.GateView{}, Shards: []api.ShardView{},
	}
	if !consumer.Reachable {
		v.Kafka.Error = consumer.LastError
	}
	tx := m.transactor.Stats()
	v.Kafka.Transactions = api.TransactionsView{Committed: m.committer.stats.committed.Load(),
		Aborted: m.committer.stats.aborted.Load(), Fenced: tx.Fenced}
	if n := int(m.partitions.Load()); n != m.info.Partitions {
		v.Kafka.PartitionsChanged = fmt.Sprintf("the jobs topic has %d partitions, and had %d when this member started: the new ones "+
			"are not read until all members are restarted; see docs/GUARANTEES.md", n, m.info.Partitions)
	}
	for reason, n := range net.Closed {
		v.Connections.Closed[reason.String()] += n
	}
	partitions := []int32{}
	for _, s := range shards {
		name := fmt.Sprintf("member/shards/shard-%d", s.Partition)
		lag := consumer.Lag[int32(s.Partition)]
		v.Kafka.Lag += lag
		v.Jobs.Accepted += s.Stats.Jobs - s.Stats.Duplicates - s.Stats.Cancels - s.Stats.Overdue
		v.Jobs.Pending += uint64(s.Pending)
		addOutcomes(v.Jobs.Outcomes, &s.Stats)
		partitions = append(partitions, int32(s.Partition))
		v.Shards = append(v.Shards, api.ShardView{Partition: int32(s.Partition), Pending: s.Pending, Delivered: s.OnNodes,
			Paused: s.Paused, Committed: max(0, s.Next), Highest: s.Read + lag,
			Watermark: max(0, s.Watermark), WatermarkMs: s.WatermarkMs, Uncommitted: s.Uncommitted,
			Lag: lag, Rebuilding: s.Rebuilding, Restored: s.Restored, Missing: s.Missing,
			Restarts: uint64(restarts[name]), Reason: reasons[name]})
	}
	for i := range net.Loops {
		name := fmt.Sprintf("member/gates/gate-%d", i)
		v.Gates = append(v.Gates, api.GateView{Loop: i, Sessions: m.gateStats.Loop(i),
			Restarts: uint64(restarts[name]), Reason: reasons[name]})
	}
	v.Queues = b.queues(shards)
	v.Members = m.members(api.MemberView{Nodes: v.Nodes, Partitions: partitions})
	return v, nil
}

func addOutcomes(to map[string]uint64, s *shard.Stats) {
	for _, o := range protocol.Outcomes() {
		if n := s.Outcomes[o]; n > 0 {
			to[o.String()] += n
		}
	}
}

// Ready implements local.
func (b *backend) Ready(context.Context) error {
	var errs []error
	if stats := b.m.source.consumer.Stats(); !stats.Reachable {
		errs = append(errs, fmt.Errorf("Kafka is not reachable: %s", stats.LastError))
	}
	if len(b.m.tree.Router().Shards()) == 0 && !b.m.routing.allOwned() {
		errs = append(errs, errors.New("no partition is assigned yet"))
	}
	if b.m.mover != nil && b.m.mover.view() != nil {
		errs = append(errs, errors.New("the member is being drained"))
	}
	return errors.Join(errs...)
}

// Metrics implements local.
func (b *backend) Metrics() http.Handler { return b.m.metrics.handler }
