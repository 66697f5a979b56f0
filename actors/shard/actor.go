// Package shard is the actor that owns one partition of the jobs topic: the ledger
// of its jobs and the directory of the nodes that hash to it.
//
// The state machine is [Core]. What a job is: job.go, pending.go. How it gets to its
// nodes: attempts.go, gates.go (what gates tell), choose.go (selectors). How its
// outcome gets to Kafka: outcome.go, books.go, cut.go. What survives: state.go,
// decode.go, restore.go, ended.go. The actor around it turns messages into steps and
// effects into messages.
package shard

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/roost-server/roost/actors"
)

// Gates is the way to the gates of this member. Its methods never block.
type Gates interface {
	// Send takes over the batch. A gate that is gone makes it disappear; the sessions'
	// end is reported by other ways.
	Send(gate uint32, b *actors.ToGate)
	// Announce asks all gates to register the nodes that hash to a shard.
	Announce(shard uint32)
}

// Peers is the way to the other shards, and to itself. Its methods never block.
type Peers interface {
	Send(shard uint32, m any) bool
	Shards() []uint32
}

// Feed is the shard's source of records. Its methods never block.
type Feed interface {
	// Taken tells that so many records were taken from the mailbox.
	Taken(partition int32, records int)
	Pause(partition int32)
	Resume(partition int32)
	// Rebuild asks for the partition's committed state: [Restore] messages and one
	// [Restored] follow, then records from there on, all with the epoch returned.
	// What was read before is void, and so is a Pause.
	Rebuild(partition int32) (epoch uint64)
}

// Deps is what a shard's actor works with.
type Deps struct {
	Gates  Gates
	Peers  Peers
	Ledger Ledger
	Feed   Feed
	NowMs  func() int64
	// Rebuilt is told how many jobs a rebuilding has found, and how many it should have
	// found besides.
	Rebuilt func(partition uint32, restored, missing int)
	// Fatal is called when the shard cannot go on without losing something: the
	// member has to stop.
	Fatal func(error)
}

// Actor is the shard's actor.
type Actor struct {
	core      *Core
	cfg       Config
	deps      Deps
	epoch     uint64 // of this life
	broken    bool   // its state cannot be read
	eff       Effects
	out       map[uint32]*actors.ToGate
	followers map[string][]*Follower
	paused    bool

	timer   *time.Timer
	armedMs int64 // 0: not armed
	self    *actor.PID
	system  *actor.ActorSystem
	stopped bool
}

// longestWaitMs is how long the timer sleeps at most: the wall clock may be set.
const longestWaitMs = 60_000

type tick struct{}

// New makes the actor. When it starts it asks its feed for its state.
func New(cfg Config, deps Deps) *Actor {
	return &Actor{
		core: NewCore(cfg, deps.Peers.Shards), cfg: cfg, deps: deps,
		out: map[uint32]*actors.ToGate{}, followers: map[string][]*Follower{},
	}
}

// Receive implements actor.Actor.
func (a *Actor) Receive(ctx actor.Context) {
	now := a.deps.NowMs()
	a.eff.Reset()
	switch m := ctx.Message().(type) {
	case *actors.Records:
		a.deps.Feed.Taken(int32(a.cfg.Partition), len(m.Records))
		if m.Epoch == a.epoch {
			a.core.Records(now, m.Records, &a.eff)
		}
	case *actors.FromGate:
		a.core.FromGate(now, m, &a.eff)
		a.apply()
		m.Release()
	case *actors.MemberGone:
		a.core.MemberGone(now, m.Slot, &a.eff)
	case *tick:
		a.armedMs = 0
		a.core.Tick(now, &a.eff)
	case *actor.Started:
		a.self, a.system = ctx.Self(), ctx.ActorSystem()
		a.epoch = a.deps.Feed.Rebuild(int32(a.cfg.Partition))
	case *actor.Stopping, *actor.Restarting:
		a.stop()
		return
	default:
		if !a.ledger(now, m) && !a.peer(now, m) {
			a.query(m)
		}
	}
	a.apply()
	a.feed()
	a.arm(now)
}

// ledger takes what has to do with Kafka.
func (a *Actor) ledger(now int64, m any) bool {
	switch m := m.(type) {
	case *Cut:
		b := &Batch{Epoch: a.epoch}
		if !a.core.Cut(now, b) {
			b = nil
		}
		m.Reply <- b
	case *Committed:
		if m.Batch.Epoch == a.epoch {
			a.core.Committed(now, m.Batch, &a.eff)
		}
	case *Restore:
		a.restore(m)
	case *Restored:
		a.restored(now, m)
	case *Again:
		a.again()
	default:
		return false
	}
	return true
}

// peer takes what other shards say.
func (a *Actor) peer(now int64, m any) bool {
	switch m := m.(type) {
	case *Locate:
		a.core.Locate(now, m, &a.eff)
	case *Located:
		if m.Unknown {
			a.core.Misplaced(now, m.Location.Node, &a.eff)
			break
		}
		a.core.Located(now, &m.Location, &a.eff)
	case *Rebuilt:
		a.core.Rebuilt(now, m, &a.eff)
	case *Silent:
		a.core.Silent(now, m, &a.eff)
	case *Answered:
		a.core.Answered(m)
	case *Select:
		a.core.Select(now, m, &a.eff)
	case *Candidates:
		a.core.Candidates(now, m, &a.eff)
	default:
		return false
	}
	return true
}

// restore takes records of the state topic. What cannot be read may be replaced by a
// later one.
func (a *Actor) restore(m *Restore) {
	if m.Epoch != a.epoch {
		return
	}
	for i := range m.Records {
		_ = a.core.Restore(m.Records[i])
	}
}

// restored ends the rebuilding. Gates are asked for their nodes only now, so that what
// they send finds the jobs. With a state that cannot be read the shard takes nothing
// any more: what it has not is in Kafka still.
func (a *Actor) restored(now int64, m *Restored) {
	if m.Epoch != a.epoch || a.broken || !a.core.Rebuilding() {
		return
	}
	if err := a.core.Unreadable(); err != nil {
		a.broken = true
		a.deps.Fatal(err)
		return
	}
	a.core.Restored(now, m.Next, &a.eff)
	a.deps.Rebuilt(a.cfg.Partition, a.core.restored, a.core.missing)
	a.deps.Gates.Announce(a.cfg.Partition)
	a.introduceAll()
}

// again begins a new life: the directory and what nodes sent of late stay, and all
// that has to do with jobs is read again.
func (a *Actor) again() {
	a.core = a.core.reborn()
	a.broken, a.paused = false, false
	a.epoch = a.deps.Feed.Rebuild(int32(a.cfg.Partition))
}

// apply carries out the effects and empties them.
func (a *Actor) apply() {
	e := &a.eff
	for i := range e.Withdrawals {
		b := a.batch(e.Withdrawals[i].Gate)
		b.Withdrawals = append(b.Withdrawals, e.Withdrawals[i].Withdrawal)
	}
	for i := range e.Deliveries {
		b := a.batch(e.Deliveries[i].Gate)
		b.Deliveries = append(b.Deliveries, e.Deliveries[i].Delivery)
	}
	for i := range e.Acks {
		b := a.batch(e.Acks[i].Gate)
		b.Acks = append(b.Acks, e.Acks[i].Ack)
	}
	for i := range e.Evictions {
		b := a.batch(e.Evictions[i].Gate)
		b.Evictions = append(b.Evictions, e.Evictions[i].Eviction)
	}
	for gate, b := range a.out {
		delete(a.out, gate)
		a.deps.Gates.Send(gate, b)
	}
	for i := range e.Asks {
		a.deps.Peers.Send(e.Asks[i].Shard, e.Asks[i].Message)
	}
	for i := range e.Events {
		a.notify(&e.Events[i])
	}
	if e.Dirty {
		a.deps.Ledger.Dirty(a.cfg.Partition, e.Outcomes)
	}
	e.Reset()
}

func (a *Actor) batch(gate uint32) *actors.ToGate {
	b := a.out[gate]
	if b == nil {
		b = actors.NewToGate()
		a.out[gate] = b
	}
	return b
}

// feed pauses the partition while the shard has enough.
func (a *Actor) feed() {
	switch {
	case a.core.Rebuilding(): // nothing is fed yet
	case !a.paused && a.core.Overfull():
		a.paused = true
		a.deps.Feed.Pause(int32(a.cfg.Partition))
	case a.paused && a.core.Hungry():
		a.paused = false
		a.deps.Feed.Resume(int32(a.cfg.Partition))
	}
}

// arm sees to it that a tick comes when one is due. A timer that is too early costs
// one empty step, so it is moved only forward.
func (a *Actor) arm(now int64) {
	due, ok := a.core.Next()
	if !ok || a.armedMs != 0 && a.armedMs <= due || a.stopped {
		return
	}
	a.armedMs = due
	wait := time.Duration(min(max(due-now, 1), longestWaitMs)) * time.Millisecond
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, func() { a.system.Root.Send(a.self, &tick{}) })
	} else {
		a.timer.Reset(wait)
	}
}

func (a *Actor) stop() {
	a.stopped = true
	if a.timer != nil {
		a.timer.Stop()
	}
	for id, fs := range a.followers {
		for _, f := range fs {
			f.Fn(FollowEvent{Gone: true})
		}
		delete(a.followers, id)
	}
}
