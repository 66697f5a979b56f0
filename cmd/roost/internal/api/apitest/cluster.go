package apitest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// cluster is the members that a [Backend] knows of besides itself.
type cluster struct {
	others  []api.MemberView
	missing []string // names of members that do not answer
	drain   *api.DrainView
	tracers map[int]*tracer
	traces  int // numbers the tracers
}

type tracer struct {
	filter api.TraceFilter
	out    chan api.TraceEvent
	ended  <-chan struct{}
}

// SetMembers makes these the other members of the cluster.
func (b *Backend) SetMembers(others ...api.MemberView) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cluster.others = others
}

// SetMissing makes these members not answer.
func (b *Backend) SetMissing(names ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cluster.missing = names
}

func (b *Backend) missing() api.Missing {
	return api.Missing{MissingMembers: slices.Clone(b.cluster.missing)}
}

// self is this member.
func (b *Backend) self() api.MemberView {
	v := api.MemberView{Name: "test", State: api.MemberServing, Nodes: len(b.nodes)}
	if b.cluster.drain != nil {
		d := *b.cluster.drain
		v.State, v.Drain = api.MemberDraining, &d
	}
	return v
}

func (b *Backend) members() []api.MemberView {
	return append([]api.MemberView{b.self()}, b.cluster.others...)
}

// member finds one that answers.
func (b *Backend) member(name string) error {
	switch {
	case b.down != nil:
		return b.down
	case slices.Contains(b.cluster.missing, name):
		return &api.MissingMembers{Members: []string{name}}
	case !slices.ContainsFunc(b.members(), func(m api.MemberView) bool { return m.Name == name }):
		return fmt.Errorf("%w among the members", api.ErrNotFound)
	}
	return nil
}

// Members implements [api.Backend].
func (b *Backend) Members(context.Context) (api.MemberList, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return api.MemberList{Members: b.members(), Missing: b.missing()}, b.down
}

// Drain implements [api.Backend]: the nodes leave when [Backend.Leave] says so.
func (b *Backend) Drain(_ context.Context, name string, r api.DrainRequest) (api.MemberView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.member(name); err != nil {
		return api.MemberView{}, err
	}
	for _, to := range r.To {
		if !strings.Contains(to, ":") && b.member(to) != nil {
			return api.MemberView{}, fmt.Errorf("to: %q is %w: neither a member nor HOST:PORT", to, api.ErrInvalid)
		}
	}
	d := &api.DrainView{RatePerS: r.RatePerS, To: r.To, BeganMs: 1_700_000_000_000, Began: len(b.nodes)}
	if d.RatePerS == 0 {
		d.RatePerS = 500
	}
	if name == b.self().Name {
		b.cluster.drain = d
		b.drained()
		return b.self(), nil
	}
	i := slices.IndexFunc(b.cluster.others, func(m api.MemberView) bool { return m.Name == name })
	b.cluster.others = slices.Clone(b.cluster.others)
	m := &b.cluster.others[i]
	d.Began = m.Nodes
	m.State, m.Drain = api.MemberDraining, d
	return *m, nil
}

// Leave takes a number of nodes away, as those of a member that drains.
func (b *Backend) Leave(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range b.ids() {
		if n == 0 {
			break
		}
		n--
		delete(b.nodes, id)
		if b.cluster.drain != nil {
			b.cluster.drain.Told++
		}
	}
	b.drained()
}

func (b *Backend) drained() {
	if d := b.cluster.drain; d != nil && len(b.nodes) == 0 {
		d.EndedMs = d.BeganMs + 1000
	}
}

// Undrain implements [api.Backend].
func (b *Backend) Undrain(_ context.Context, name string) (api.MemberView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.member(name); err != nil {
		return api.MemberView{}, err
	}
	if name == b.self().Name {
		b.cluster.drain = nil
		return b.self(), nil
	}
	i := slices.IndexFunc(b.cluster.others, func(m api.MemberView) bool { return m.Name == name })
	b.cluster.others = slices.Clone(b.cluster.others)
	m := &b.cluster.others[i]
	m.State, m.Drain = api.MemberServing, nil
	return *m, nil
}

// Rebalance implements [api.Backend]: this member sends a node to each of the others.
func (b *Backend) Rebalance(context.Context, api.RebalanceRequest) (api.RebalanceView, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := api.RebalanceView{Missing: b.missing()}
	if len(b.cluster.others) == 0 {
		return v, b.down
	}
	move := api.MoveView{Member: b.self().Name, Nodes: len(b.cluster.others)}
	for _, m := range b.cluster.others {
		move.To = append(move.To, m.Name)
	}
	v.Moves = []api.MoveView{move}
	return v, b.down
}

// Tree implements [api.Backend].
func (b *Backend) Tree(_ context.Context, name string) (api.TreeList, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if name == "" {
		name = b.self().Name
	}
	if err := b.member(name); err != nil {
		return api.TreeList{}, err
	}
	return api.TreeList{Missing: b.missing(), Trees: []api.TreeView{{Member: name, Actors: []api.ActorView{
		{Path: "member", Count: 1},
		{Path: "member/services", Count: 1},
		{Path: "member/services/committer", Count: 1},
		{Path: "member/shards", Count: 1},
		{Path: "member/shards/shard-5", Count: 1, Restarts: 2, Failure: &api.FailureView{
			TimeMs: 1_700_000_000_000, Reason: "index out of range", Action: "restarted"}},
		{Path: "member/gates", Count: 1},
		{Path: "member/gates/gate-0", Count: 1},
		{Path: "member/gates/gate-0/session", Count: len(b.nodes)},
	}}}}, nil
}

// Trace implements [api.Backend]: what [Backend.Step] tells.
func (b *Backend) Trace(ctx context.Context, f api.TraceFilter) (<-chan api.TraceEvent, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return nil, b.down
	}
	if b.cluster.tracers == nil {
		b.cluster.tracers = map[int]*tracer{}
	}
	b.cluster.traces++
	n, t := b.cluster.traces, &tracer{filter: f, out: make(chan api.TraceEvent), ended: ctx.Done()}
	b.cluster.tracers[n] = t
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.cluster.tracers[n] != nil {
			delete(b.cluster.tracers, n)
			close(t.out)
		}
	})
	return t.out, nil
}

// Tracing is how many streams trace something.
func (b *Backend) Tracing() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.cluster.tracers)
}

// Step tells those that trace it of a step.
func (b *Backend) Step(ev api.TraceEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.cluster.tracers {
		if (t.filter.Node == "" || t.filter.Node == ev.Node) && (t.filter.Job == "" || t.filter.Job == ev.Job) {
			select {
			case t.out <- ev:
			case <-t.ended:
			}
		}
	}
}

// StopTracing ends all streams of traces, as a member does that stops.
func (b *Backend) StopTracing() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n, t := range b.cluster.tracers {
		delete(b.cluster.tracers, n)
		close(t.out)
	}
}
