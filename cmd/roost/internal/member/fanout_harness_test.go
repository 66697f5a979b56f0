package member

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"

	"github.com/roost-server/roost/cluster/rpc"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol/record"
)

// lone is one member without its cluster, kept in memory.
type lone struct {
	*apitest.Backend
	name     string
	peers    *links
	members  []api.MemberView // besides itself
	self     api.MemberView
	shards   []api.ShardView
	stuck    chan struct{} // closed: answers again; nil: answers
	drained  *api.DrainRequest
	shed     *shedRequest
	produced []int32
}

// wait is what a member that hangs does.
func (l *lone) wait(ctx context.Context) error {
	if l.stuck == nil {
		return nil
	}
	select {
	case <-l.stuck:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lone) Name() string              { return l.name }
func (l *lone) Partitions() uint32        { return apitest.Partitions }
func (l *lone) Home(key string) uint32    { return uint32(record.Partition(key, apitest.Partitions)) }
func (l *lone) MissingText(string) string { return "look into roost.results" }
func (l *lone) Metrics() http.Handler     { return l.Backend.Metrics() }

func (l *lone) Known(ctx context.Context, id string) (known, error) {
	if err := l.wait(ctx); err != nil {
		return known{}, err
	}
	v, err := l.Job(ctx, id)
	var r *api.Rebuilding
	switch {
	case err == nil:
		return known{Job: &v}, nil
	case errors.As(err, &r):
		return known{Rebuilding: r.Shards}, nil
	case errors.Is(err, api.ErrEnded):
		return known{Ended: true}, nil
	case errors.Is(err, api.ErrNotFound):
		return known{}, nil
	}
	return known{}, err
}

func (l *lone) Produce(ctx context.Context, j *record.Job, partition int32) error {
	l.produced = append(l.produced, partition)
	if j.Cancel { // Kafka takes it to the partition's owner
		owner, _, _ := l.peers.Owner(uint32(partition))
		_, err := l.peers.at(owner).Cancel(ctx, j.ID, j.CancelReason)
		return err
	}
	owner, _, _ := l.peers.Owner(l.Home(j.Key()))
	return l.peers.at(owner).Submit(ctx, j)
}

func (l *lone) Jobs(ctx context.Context, f api.JobFilter) (api.JobList, error) {
	if err := l.wait(ctx); err != nil {
		return api.JobList{}, err
	}
	return l.Backend.Jobs(ctx, f)
}

func (l *lone) Nodes(ctx context.Context, f api.NodeFilter) (api.NodePage, error) {
	if err := l.wait(ctx); err != nil {
		return api.NodePage{}, err
	}
	if f.Cursor == "bogus" {
		return api.NodePage{}, fmt.Errorf("%w: cursor", api.ErrInvalid)
	}
	if f.Cursor != "" {
		f.Cursor = "after:" + f.Cursor
	}
	return l.Backend.Nodes(ctx, f)
}

func (l *lone) Watermarks(ctx context.Context) ([]api.WatermarkView, error) {
	out := []api.WatermarkView{}
	for _, s := range l.shards {
		out = append(out, api.WatermarkView{Partition: s.Partition, Offset: s.Watermark})
	}
	return out, l.wait(ctx)
}

func (l *lone) Status(ctx context.Context) (api.StatusView, error) {
	members, err := l.Members(ctx)
	return api.StatusView{Member: l.name, Members: members, Shards: slices.Clone(l.shards)}, err
}

func (l *lone) Members(ctx context.Context) ([]api.MemberView, error) {
	self := l.self
	self.Name = l.name
	return append([]api.MemberView{self}, l.members...), l.wait(ctx)
}

func (l *lone) Tree(ctx context.Context) (api.TreeView, error) {
	return api.TreeView{Member: l.name, Actors: []api.ActorView{{Path: "member", Count: 1}}}, l.wait(ctx)
}

func (l *lone) Drain(_ context.Context, r api.DrainRequest) (api.MemberView, error) {
	l.drained = &r
	return api.MemberView{Name: l.name, State: api.MemberDraining}, nil
}

func (l *lone) Undrain(context.Context) (api.MemberView, error) {
	l.drained = nil
	return api.MemberView{Name: l.name, State: api.MemberServing}, nil
}

func (l *lone) Shed(_ context.Context, r shedRequest) error {
	l.shed = &r
	return nil
}

// links are one member's ways to the others: slot i is the i-th member after it, in a circle.
type links struct {
	*rpc.RPC
	c     *testCluster
	index int

	mu   sync.Mutex
	down map[uint16]bool
}

// testCluster is members in one process, who talk over package rpc.
type testCluster struct {
	locals []*lone
	links  []*links
	fan    []*fanout
	wires  []chan func()
	owners map[uint32]int // a partition's member; absent: nobody's

	mu sync.Mutex
}

func (l *links) target(slot uint16) int { return (l.index + int(slot)) % len(l.c.locals) }

func (l *links) at(slot uint16) *lone { return l.c.locals[l.target(slot)] }

func (l *links) Peers() []Peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Peer
	for slot := 1; slot < len(l.c.locals); slot++ {
		if !l.down[uint16(slot)] {
			out = append(out, Peer{Slot: uint16(slot), Name: l.at(uint16(slot)).name})
		}
	}
	return out
}

func (l *links) Owner(partition uint32) (slot uint16, epoch uint64, known bool) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	n, ok := l.c.owners[partition]
	return uint16((n - l.index + len(l.c.locals)) % len(l.c.locals)), 100 + uint64(partition), ok
}

// setDown has this member and another declare each other down, or up again.
func (l *links) setDown(slot uint16, down bool) {
	to := l.target(slot)
	l.c.links[to].declare(uint16((l.index-to+len(l.c.links))%len(l.c.links)), down)
	l.declare(slot, down)
}

func (l *links) declare(slot uint16, down bool) {
	l.mu.Lock()
	l.down[slot] = down
	l.mu.Unlock()
	if down {
		l.Down(slot)
	}
}

func (c *testCluster) own(member int, partitions ...uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range partitions {
		c.owners[p] = member
	}
}

func (c *testCluster) disown(partition uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.owners, partition)
}

// newTestCluster starts n members: m1, m2, ... The first owns all partitions.
func newTestCluster(t *testing.T, n int, handler apitest.Handler) *testCluster {
	c := &testCluster{owners: map[uint32]int{}}
	for i := range n {
		c.links = append(c.links, &links{c: c, index: i, down: map[uint16]bool{}})
		l := &lone{Backend: apitest.New(handler), name: fmt.Sprintf("m%d", i+1), peers: c.links[i]}
		l.self = api.MemberView{State: api.MemberServing, NodesAddress: fmt.Sprintf("10.0.0.%d:7400", i+1)}
		c.locals = append(c.locals, l)
	}
	var wires sync.WaitGroup
	for i, l := range c.links {
		// One wire into each member: messages of each slot arrive in order.
		wire := make(chan func(), 1<<16)
		c.wires = append(c.wires, wire)
		wires.Go(func() {
			for deliver := range wire {
				deliver()
			}
		})
		l.RPC = rpc.New(func(slot uint16, body []byte) bool {
			to := l.target(slot)
			back := uint16((i - to + n) % n)
			c.wires[to] <- func() { c.links[to].Message(back, body) }
			return true
		}, zap.NewNop())
		serveFanout(l.RPC, c.locals[i])
		c.fan = append(c.fan, newFanout(c.locals[i], l, zap.NewNop()))
		for j := range n {
			if j != i {
				other := c.locals[j]
				c.locals[i].members = append(c.locals[i].members, api.MemberView{Name: other.name, State: api.MemberServing,
					Address: fmt.Sprintf("10.0.0.%d:7946", j+1), NodesAddress: other.self.NodesAddress})
			}
		}
	}
	c.own(0, 0, 1, 2, 3, 4, 5, 6, 7)
	t.Cleanup(func() {
		for _, l := range c.links {
			l.Close()
		}
		for _, w := range c.wires {
			close(w)
		}
		wires.Wait()
	})
	return c
}

// inBubble runs a test with time of its own.
func inBubble(t *testing.T, n int, f func(t *testing.T, c *testCluster)) {
	synctest.Test(t, func(t *testing.T) { f(t, newTestCluster(t, n, nil)) })
}
