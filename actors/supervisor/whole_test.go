package supervisor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// This file runs shards, gates and sessions together, with nodes that come and go,
// do not answer, and are moved from gate to gate. There are no sockets and no Kafka.

// turns is an event loop: one goroutine that runs functions.
type turns struct {
	decoder *protocol.Decoder
	mu      sync.Mutex
	queue   []func()
	wake    chan struct{}
	over    bool
	ended   chan struct{}
}

// toShards is the way from the gates to the shards, straight.
type toShards struct{ *Router }

// Send implements gate.Shards.
func (r toShards) Send(shard uint32, b *actors.FromGate) bool { return r.ToShard(shard, b) }

func newTurns() *turns {
	l := &turns{decoder: protocol.NewDecoder(), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		for range l.wake {
			l.mu.Lock()
			fns, over := l.queue, l.over
			l.queue = nil
			l.mu.Unlock()
			for _, fn := range fns {
				fn()
			}
			if over {
				return
			}
		}
	}()
	return l
}

// Execute implements gate.Loop.
func (l *turns) Execute(fn func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return errors.New("the loop has ended")
	}
	l.queue = append(l.queue, fn)
	l.poke()
	return nil
}

// Decoder implements gate.Loop.
func (l *turns) Decoder() *protocol.Decoder { return l.decoder }

func (l *turns) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *turns) end() {
	l.mu.Lock()
	l.over = true
	l.poke()
	l.mu.Unlock()
	<-l.ended
}

// fleet is a member's actors, its nodes, and its Kafka.
type fleet struct {
	t     *testing.T
	tree  *Tree
	loops []*turns
	doors []*gate.Door
	stats *gate.Stats
	cfg   shard.Config

	commits sync.WaitGroup // under way; added to under mu, until over

	mu       sync.Mutex
	still    bool // nodes answer everything and stay
	over     bool
	kafka    map[uint32]*partition
	outcomes map[string]map[uint32]int // by job and index
	ended    map[protocol.Outcome]int
	fatal    []error
}

func startFleet(t *testing.T, gates int, partitions uint32) *fleet {
	f := &fleet{t: t, stats: &gate.Stats{}, cfg: shard.DefaultConfig(), kafka: map[uint32]*partition{},
		outcomes: map[string]map[uint32]int{}, ended: map[protocol.Outcome]int{}}
	tree, err := NewTree(Config{Partitions: partitions, Policy: quick(), Log: zap.NewNop(), GiveUp: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	f.tree = tree
	for p := range partitions {
		f.kafka[p] = &partition{state: map[string][]byte{}, next: -1}
	}
	f.cfg.GraceMs, f.cfg.RetryMs, f.cfg.SelectMs, f.cfg.ChooseMs, f.cfg.LocateMs = 50, 10, 50, 60_000, 100
	f.cfg.SilentMs = 50
	f.cfg.EarlyMs, f.cfg.Partitions, f.cfg.Member = 500, partitions, "m"
	cfg := &gate.Config{Member: "m", Partitions: partitions, Heartbeat: time.Second, Shards: toShards{tree.Router()}, NowMs: nowMs, Stats: f.stats}
	for i := range gates {
		l := newTurns()
		f.loops = append(f.loops, l)
		f.doors = append(f.doors, gate.NewDoor(cfg, uint32(i), l))
		require.NoError(t, tree.AddGate(uint32(i), f.doors[i]))
	}
	for p := range partitions {
		f.addShard(p)
	}
	t.Cleanup(func() {
		f.mu.Lock()
		f.over = true
		f.mu.Unlock()
		require.NoError(t, tree.Stop())
		f.commits.Wait()
		for _, l := range f.loops {
			l.end()
		}
		require.Empty(t, f.fatal)
	})
	return f
}

func nowMs() int64 { return time.Now().UnixMilli() }

func (f *fleet) addShard(p uint32) {
	cfg := f.cfg
	cfg.Partition = p
	require.NoError(f.t, f.tree.AddShard(p, func(bool) actor.Actor {
		return shard.New(cfg, shard.Deps{Gates: f.tree.ShardGates(p), Peers: f.tree.Peers(), Ledger: f, Feed: f, NowMs: nowMs,
			Rebuilt: func(_ uint32, _, missing int) { require.Zero(f.t, missing) },
			Fatal:   func(err error) { f.mu.Lock(); f.fatal = append(f.fatal, err); f.mu.Unlock() }})
	}))
}

func (f *fleet) calm() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.still }

// node is a node as the specification wants it, on a bad network.
type node struct {
	f    *fleet
	id   string
	mu   sync.Mutex
	conn *socket
	runs map[string]protocol.Ref
	held map[string]protocol.Result
}

// socket is one connection of a node; its methods run on its loop.
type socket struct {
	n      *node
	loop   *turns
	door   *gate.Door
	ctx    any
	enc    *protocol.Encoder
	dec    *protocol.Decoder
	closed bool
}

func (n *node) connect() {
	i := rand.IntN(len(n.f.loops))
	c := &socket{n: n, loop: n.f.loops[i], door: n.f.doors[i], enc: protocol.NewEncoder(), dec: protocol.NewDecoder()}
	_ = c.loop.Execute(func() {
		n.mu.Lock()
		n.conn = c
		hello := &protocol.Hello{Version: protocol.Version, NodeID: n.id, Credit: 2, Attributes: protocol.Attributes{Kinds: []string{"ping"}}}
		var held []protocol.Result
		for _, r := range n.runs {
			hello.Running = append(hello.Running, r)
		}
		for _, r := range n.held {
			hello.Held = append(hello.Held, protocol.Ref{JobID: string(r.JobID), Shard: r.Shard, Attempt: r.Attempt})
			held = append(held, r)
		}
		n.mu.Unlock()
		c.say(hello)
		for i := range held {
			c.say(&held[i])
		}
	})
}

func (c *socket) say(m protocol.Message) {
	if c.closed {
		return
	}
	b, err := c.enc.Append(nil, m)
	if err == nil {
		err = c.door.Frame(c, m.Type(), b[protocol.HeaderBytes:])
	}
	if err != nil {
		c.Close(protocol.ReasonOf(err), err.Error(), 0)
	}
}

// Append implements session.Conn.
func (c *socket) Append(m protocol.Message) error {
	if c.closed {
		return errors.New("closed")
	}
	b, err := c.enc.Append(nil, m)
	if err != nil {
		return err
	}
	body := b[protocol.HeaderBytes:]
	switch m.Type() {
	case protocol.TypeJob:
		var j protocol.Job
		if err := c.dec.Decode(body, &j); err != nil {
			return err
		}
		return c.loop.Execute(func() { c.n.job(c, protocol.Ref{JobID: string(j.JobID), Shard: j.Shard, Attempt: j.Attempt}) })
	case protocol.TypeResultAck:
		var a protocol.ResultAck
		if err := c.dec.Decode(body, &a); err != nil {
			return err
		}
		c.n.mu.Lock()
		for i := range a.Acks {
			delete(c.n.held, string(a.Acks[i].JobID))
		}
		c.n.mu.Unlock()
	case protocol.TypeCancel:
		var x protocol.Cancel
		if err := c.dec.Decode(body, &x); err != nil {
			return err
		}
		c.n.mu.Lock()
		delete(c.n.runs, string(x.JobID))
		c.n.mu.Unlock()
	}
	return nil
}

// job is what the node does with a JOB.
func (n *node) job(c *socket, ref protocol.Ref) {
	dice := rand.IntN(20)
	if n.f.calm() {
		dice = 19
	}
	n.mu.Lock()
	if held, ok := n.held[ref.JobID]; ok {
		held.Attempt, held.Shard = max(held.Attempt, ref.Attempt), ref.Shard
		n.held[ref.JobID] = held
		n.mu.Unlock()
		c.say(&held)
		return
	}
	n.runs[ref.JobID] = ref
	n.mu.Unlock()
	switch {
	case dice == 0: // hangs, until its session is taken for dead; then it gives the run up
		time.AfterFunc(300*time.Millisecond, func() {
			n.finish(ref)
			_ = c.loop.Execute(func() { c.CloseSilently(protocol.ReasonHeartbeatTimeout) })
		})
	case dice <= 2: // the socket breaks while it runs
		c.CloseSilently(protocol.ReasonBye)
	case dice == 3: // forgets everything
		n.mu.Lock()
		n.runs = map[string]protocol.Ref{}
		n.mu.Unlock()
		c.CloseSilently(protocol.ReasonBye)
	case dice == 4: // opens another socket before the old one is gone
		n.connect()
	case dice <= 6: // the socket breaks with the result
		n.finish(ref)
		c.CloseSilently(protocol.ReasonBye)
	default:
		r := n.finish(ref)
		c.say(&r)
	}
}

func (n *node) finish(ref protocol.Ref) protocol.Result {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.runs, ref.JobID)
	r := protocol.Result{JobID: []byte(ref.JobID), Shard: ref.Shard, Attempt: ref.Attempt, Outcome: protocol.OutcomeOK}
	n.held[ref.JobID] = r
	return r
}

// Close implements session.Conn.
func (c *socket) Close(protocol.Reason, string, time.Duration) { c.end() }

// CloseSilently implements session.Conn.
func (c *socket) CloseSilently(protocol.Reason) { c.end() }

func (c *socket) end() {
	if c.closed {
		return
	}
	c.closed = true
	if c.loop.Execute(func() { c.door.Closed(c) }) != nil {
		return // the test is over
	}
	c.n.mu.Lock()
	newest := c.n.conn == c
	c.n.mu.Unlock()
	if newest {
		c.n.connect()
	}
}

// Establish implements gate.Conn.
func (c *socket) Establish(time.Duration) bool { return !c.closed }

// SetContext implements gate.Conn.
func (c *socket) SetContext(ctx any) { c.ctx = ctx }

// Context implements gate.Conn.
func (c *socket) Context() any { return c.ctx }

func (f *fleet) nodes(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint("node-", i)
		(&node{f: f, id: ids[i], runs: map[string]protocol.Ref{}, held: map[string]protocol.Result{}}).connect()
	}
	require.Eventually(f.t, func() bool { return f.stats.Sessions.Load() == int64(n) }, 10*time.Second, time.Millisecond)
	return ids
}

// jobs submits jobs of all sorts and returns how many outcomes each has to have.
func (f *fleet) jobs(prefix string, n int, ids []string) map[string]int {
	want := map[string]int{}
	for i := range n {
		j := record.Job{ID: fmt.Sprint(prefix, i), Kind: "ping", Timeout: 50 * time.Millisecond, TTL: 10 * time.Minute, Attempts: 3,
			Backoff: 20 * time.Millisecond, Priority: uint8(rand.IntN(10))}
		switch i % 4 {
		case 0, 1:
			j.Target.Node = ids[rand.IntN(len(ids))]
		case 2:
			j.Target.Nodes = ids[:1+rand.IntN(len(ids))]
		case 3:
			// Three attempts each on a node of its own: no more than there are nodes.
			j.Target.Select = &record.Selector{Count: uint32(1 + rand.IntN(3))}
		}
		want[j.ID] = j.Target.Size()
		f.submit(j)
	}
	return want
}

func (f *fleet) statuses() (pending, onNodes int) {
	for _, p := range f.tree.Router().Shards() {
		reply := make(chan shard.Status, 1)
		if f.tree.Router().ToShard(p, &shard.QueryStatus{Reply: reply}) {
			s := <-reply
			pending += s.Pending
			onNodes += s.OnNodes
		}
	}
	return pending, onNodes
}

func (f *fleet) finished(want map[string]int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, n := range want {
		if len(f.outcomes[id]) < n {
			return false
		}
	}
	return true
}

func TestJobsEndOnceWhileNodesComeAndGo(t *testing.T) {
	f := startFleet(t, 3, 3)
	want := f.jobs("j", 400, f.nodes(20))
	require.Eventually(t, func() bool { return f.finished(want) }, 2*time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { pending, _ := f.statuses(); return pending == 0 }, 10*time.Second, 10*time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.still = true
	for id, n := range want {
		require.Len(t, f.outcomes[id], n, id)
		for index, times := range f.outcomes[id] {
			require.Equal(t, 1, times, "%s[%d]", id, index)
		}
	}
	require.Zero(t, f.ended[protocol.OutcomeExpired], "nothing was forgotten until its deadline: %v", f.ended)
	require.Zero(t, f.ended[protocol.OutcomeUnmatched])
	for p := range f.kafka {
		require.Equal(t, int64(len(f.kafka[p].jobs)), f.kafka[p].next)
	}
}

func TestJobsEndThoughShardsAndGatesFail(t *testing.T) {
	f := startFleet(t, 2, 2)
	ids := f.nodes(10)
	want := f.jobs("j", 100, ids)
	f.tree.Router().ToShard(0, (*shard.Locate)(nil)) // a nil question: the shard fails on it
	require.NoError(t, f.tree.RemoveShard(1))
	f.addShard(1)
	f.tree.ShardGates(0).Send(1, nil) // so does the gate
	for id, n := range f.jobs("k", 100, ids) {
		want[id] = n
	}
	require.Eventually(t, func() bool { return f.finished(want) }, 2*time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { pending, _ := f.statuses(); return pending == 0 }, 2*time.Minute, 10*time.Millisecond)
	_, counts := f.tree.Failures()
	require.Equal(t, map[string]int{"member/shards/shard-0": 1, "member/gates/gate-1": 1}, counts)
	f.mu.Lock()
	f.still = true
	f.mu.Unlock()
	require.Eventually(t, func() bool { return f.stats.Sessions.Load() == int64(len(ids)) }, 10*time.Second, time.Millisecond)
}

func TestANodeOnTwoGatesKeepsTheNewerSession(t *testing.T) {
	f := startFleet(t, 2, 1)
	f.still = true
	n := &node{f: f, id: "n", runs: map[string]protocol.Ref{}, held: map[string]protocol.Result{}}
	connect := func(i int) *socket {
		c := &socket{n: n, loop: f.loops[i], door: f.doors[i], enc: protocol.NewEncoder(), dec: protocol.NewDecoder()}
		done := make(chan struct{})
		require.NoError(t, c.loop.Execute(func() {
			defer close(done)
			c.say(&protocol.Hello{Version: protocol.Version, NodeID: "n", Attributes: protocol.Attributes{Kinds: []string{"ping"}}})
		}))
		<-done
		return c
	}
	connect(0)
	connect(1)
	require.Eventually(t, func() bool { return f.stats.Replaced.Load() == 1 && f.stats.Sessions.Load() == 1 }, 10*time.Second, time.Millisecond)
	require.Zero(t, f.stats.Loop(0))
	require.Equal(t, 1, f.stats.Loop(1))
	f.submit(record.Job{ID: "j", Kind: "ping", Target: record.Target{Node: "n"}})
	require.Eventually(t, func() bool { return f.finished(map[string]int{"j": 1}) }, 10*time.Second, time.Millisecond)
}
