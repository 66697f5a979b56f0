package member

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol/record"
)

// Name implements local.
func (b *backend) Name() string { return b.m.cfg.Name }

// Partitions implements local.
func (b *backend) Partitions() uint32 { return uint32(b.m.info.Partitions) }

// Home implements local.
func (b *backend) Home(key string) uint32 {
	return uint32(record.Partition(key, int32(b.m.info.Partitions)))
}

// Known implements local.
func (b *backend) Known(ctx context.Context, id string) (known, error) {
	a, err := b.known(ctx, id)
	if err != nil {
		return known{}, err
	}
	out := known{Ended: a.Ended, Idle: len(b.m.tree.Router().Shards()) == 0}
	if a.Summary != nil {
		v := jobView(a.Summary, true)
		out.Job = &v
	}
	if a.Rebuilding {
		shards, err := b.statuses(ctx)
		if err != nil {
			return known{}, err
		}
		out.Rebuilding = rebuilding(shards)
	}
	return out, nil
}

// Produce implements local.
func (b *backend) Produce(ctx context.Context, j *record.Job, partition int32) error {
	return submission(b.m.submitter.Submit(ctx, j, partition))
}

// MissingText implements local.
func (b *backend) MissingText(string) string {
	return fmt.Sprintf("and no member holds its details any more: they are in the topic %s", b.m.cfg.Topics.Results)
}

// queues shows what waits in this member.
func (b *backend) queues(shards []shard.Status) []api.QueueView {
	uncommitted, inbox := 0, 0
	for i := range shards {
		uncommitted += shards[i].Uncommitted
	}
	s := b.m.source
	s.mu.Lock()
	for _, f := range s.flows {
		inbox += f.inbox
	}
	s.mu.Unlock()
	s.parking.mu.Lock()
	parked := s.parking.results
	s.parking.mu.Unlock()
	return []api.QueueView{
		{Name: "records for shards", Depth: inbox},
		{Name: "outcomes to commit", Depth: uncommitted},
		{Name: "results without a shard", Depth: parked, Max: parkedResults},
		{Name: "submissions", Depth: b.m.submitter.producer.Len()},
	}
}

// services are those of a member's tree.
var services = []string{"source", "committer", "restorer", "partitions", "resync", "rebalance", "load", "watch", "settle"}

// Tree implements local.
func (b *backend) Tree(ctx context.Context) (api.TreeView, error) {
	shards := b.m.tree.Router().Shards()
	slices.Sort(shards)
	failures, counts := b.m.tree.Failures()
	t := treeBuilder{last: map[string]supervisor.Failure{}, counts: counts}
	for _, f := range failures {
		t.last[f.Actor] = f
	}
	t.add("member", 1)
	t.add("member/services", 1)
	for _, name := range services {
		t.add("member/services/"+name, 1)
	}
	t.add("member/shards", 1)
	for _, p := range shards {
		t.add(fmt.Sprintf("member/shards/shard-%d", p), 1)
	}
	t.add("member/gates", 1)
	for i := range b.m.server.Stats().Loops {
		gate := fmt.Sprintf("member/gates/gate-%d", i)
		t.add(gate, 1)
		t.add(gate+"/session", b.m.gateStats.Loop(i))
	}
	return api.TreeView{Member: b.m.cfg.Name, Actors: t.withGone()}, ctx.Err()
}

// treeBuilder adds to actors what is known of their failures.
type treeBuilder struct {
	last   map[string]supervisor.Failure
	counts map[string]int
	actors []api.ActorView
}

func (t *treeBuilder) add(path string, count int) {
	v := api.ActorView{Path: path, Count: count, Restarts: uint64(t.counts[path])}
	if f, ok := t.last[path]; ok {
		v.Failure = &api.FailureView{TimeMs: f.TimeMs, Reason: f.Reason, Action: f.Action}
	}
	delete(t.counts, path)
	t.actors = append(t.actors, v)
}

// withGone returns the actors with those that failed and are not there any more, such as shards of
// partitions that others own now, beside their siblings.
func (t *treeBuilder) withGone() []api.ActorView {
	gone := make([]string, 0, len(t.counts))
	for path := range t.counts {
		gone = append(gone, path)
	}
	slices.Sort(gone)
	for _, path := range gone {
		at := len(t.actors)
		parent := path[:max(0, strings.LastIndexByte(path, '/'))]
		for i := range t.actors {
			if p := t.actors[i].Path; p == parent || strings.HasPrefix(p, parent+"/") {
				at = i + 1
			}
		}
		tail := slices.Clone(t.actors[at:])
		t.actors = t.actors[:at]
		t.add(path, 0)
		t.actors = append(t.actors, tail...)
	}
	return t.actors
}
