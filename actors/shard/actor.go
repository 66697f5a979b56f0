// Package shard is the actor that owns one partition of the jobs topic: the ledger
// of its jobs and the directory of the nodes that hash to it.
//
// The state machine is [Core]: job.go has what it keeps, gates.go what gates tell
// it, choose.go the search for a selector's nodes. The actor around it turns
// messages into steps and effects into messages.
package shard

import (
	"errors"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
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

// ErrFull is what a [Recorder] returns when it takes nothing at the moment.
var ErrFull = errors.New("the producer's queue is full")

// Recorder writes to Kafka. It never blocks. What it took ends in a [Recorded]
// message for the token's shard, in any order.
type Recorder interface {
	// Outcome writes a result record; it keeps value until it is recorded.
	Outcome(jobID string, value []byte, enc record.Encoding, t *Token) error
	// Dead writes a record that cannot be understood.
	Dead(r *actors.Record, reason string, t *Token) error
}

// Feed is the shard's source of records. Its methods never block.
type Feed interface {
	Commit(partition int32, next int64)
	// Taken tells that so many records were taken from the mailbox.
	Taken(partition int32, records int)
	Pause(partition int32)
	Resume(partition int32)
	// Rewind starts again after what is committed, and returns the epoch that the
	// records read from there on carry.
	Rewind(partition int32) (epoch uint64)
}

// Deps is what a shard's actor works with.
type Deps struct {
	Gates    Gates
	Peers    Peers
	Recorder Recorder
	Feed     Feed
	NowMs    func() int64
	// Fatal is called when Kafka refuses outcomes for good: the member has to stop.
	Fatal func(error)
}

// Recorded tells a shard what became of what it had recorded.
type Recorded struct{ Items []RecordedItem }

// RecordedItem is one record that Kafka has, or has refused.
type RecordedItem struct {
	Token *Token
	Err   error // nil: recorded
	Fatal bool  // no retry will help
}

// Actor is the shard's actor.
type Actor struct {
	core      *Core
	cfg       Config
	deps      Deps
	restarted bool
	epoch     uint64
	eff       Effects
	out       map[uint32]*actors.ToGate
	writer    record.ResultWriter
	scratch   []byte
	backlog   []send // what the recorder did not take
	followers map[string][]*Follower
	paused    bool

	timer   *time.Timer
	armedMs int64 // 0: not armed
	self    *actor.PID
	system  *actor.ActorSystem
	stopped bool
}

// send is one record for Kafka; exactly one of value and dead is set.
type send struct {
	jobID string
	value []byte
	enc   record.Encoding
	dead  *Dead
	token *Token
}

// retryFullMs is the pause before a full recorder is tried again.
const retryFullMs = 20

// longestWaitMs is how long the timer sleeps at most: the wall clock may be set.
const longestWaitMs = 60_000

type tick struct{}

// New makes the actor; restarted says that an earlier incarnation failed, so that
// the partition has to be read again.
func New(cfg Config, deps Deps, restarted bool) *Actor {
	return &Actor{
		core: NewCore(cfg, deps.Peers.Shards), cfg: cfg, deps: deps, restarted: restarted,
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
		if m.Epoch >= a.epoch {
			a.core.Records(now, m.Records, &a.eff)
		}
	case *actors.FromGate:
		a.core.FromGate(now, m, &a.eff)
		a.apply()
		m.Release()
	case *Recorded:
		a.recorded(now, m)
	case *tick:
		a.armedMs = 0
		a.core.Tick(now, &a.eff)
	case *Locate:
		a.core.Locate(now, m, &a.eff)
	case *Located:
		a.core.Located(now, &m.Location, &a.eff)
	case *Select:
		a.core.Select(now, m, &a.eff)
	case *Candidates:
		a.core.Candidates(now, m, &a.eff)
	case *actor.Started:
		a.started(ctx)
	case *actor.Stopping, *actor.Restarting:
		a.stop()
		return
	default:
		a.query(m)
	}
	a.apply()
	a.feed()
	a.arm(now)
}

func (a *Actor) started(ctx actor.Context) {
	a.self, a.system = ctx.Self(), ctx.ActorSystem()
	if !a.restarted {
		return // whoever spawned it announces it, once it can be reached
	}
	a.epoch = a.deps.Feed.Rewind(int32(a.cfg.Partition))
	a.deps.Gates.Announce(a.cfg.Partition)
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
	for i := range e.Outcomes {
		a.outcome(&e.Outcomes[i])
	}
	for i := range e.Dead {
		d := e.Dead[i]
		a.record(send{dead: &d, token: d.Token})
	}
	for i := range e.Asks {
		a.deps.Peers.Send(e.Asks[i].Shard, e.Asks[i].Message)
	}
	for i := range e.Events {
		a.notify(&e.Events[i])
	}
	if e.Commit >= 0 {
		a.deps.Feed.Commit(int32(a.cfg.Partition), e.Commit)
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

// outcome encodes a result now, while the bytes that it refers to live.
func (a *Actor) outcome(o *Outcome) {
	var err error
	if a.scratch, err = a.writer.Append(a.scratch[:0], o.Encoding, &o.Result); err != nil {
		// The session has checked the output; what remains is a fault of ours, and an
		// outcome without its output is better than none.
		o.Result.Output, o.Result.Error = nil, o.Result.Error+" (output dropped: "+err.Error()+")"
		a.scratch, _ = a.writer.Append(a.scratch[:0], o.Encoding, &o.Result)
	}
	o.Token.Value = append([]byte(nil), a.scratch...)
	a.record(send{jobID: o.Result.Job, value: o.Token.Value, enc: o.Encoding, token: o.Token})
}

// record gives one record to Kafka, in order behind what waits already.
func (a *Actor) record(s send) {
	if len(a.backlog) > 0 || !a.try(&s) {
		a.backlog = append(a.backlog, s)
	}
}

func (a *Actor) try(s *send) bool {
	var err error
	if s.dead != nil {
		err = a.deps.Recorder.Dead(&s.dead.Record, s.dead.Reason, s.token)
	} else {
		err = a.deps.Recorder.Outcome(s.jobID, s.value, s.enc, s.token)
	}
	if err != nil && !errors.Is(err, ErrFull) {
		a.deps.Fatal(err)
	}
	return err == nil
}

func (a *Actor) drainBacklog() {
	n := 0
	for n < len(a.backlog) && a.try(&a.backlog[n]) {
		n++
	}
	clear(a.backlog[:n])
	a.backlog = a.backlog[n:]
	if len(a.backlog) == 0 {
		a.backlog = nil
	}
}

func (a *Actor) recorded(now int64, m *Recorded) {
	for i := range m.Items {
		switch it := &m.Items[i]; {
		case it.Err == nil:
			a.core.Recorded(now, it.Token, &a.eff)
		case it.Fatal:
			a.deps.Fatal(it.Err)
		default:
			a.refused(it)
		}
	}
}

// refused handles a result that Kafka does not take as it is, such as one over the
// topic's own size limit: the outcome is recorded without its output, once.
func (a *Actor) refused(it *RecordedItem) {
	if it.Token.owner != a.core {
		return // of the life before a restart; its record was read again
	}
	res, err := record.ParseResult("", it.Token.Value)
	if it.Token.Value == nil || err != nil || len(res.Output) == 0 {
		a.deps.Fatal(it.Err)
		return
	}
	enc, _ := record.Detect("", it.Token.Value)
	res.Output, res.Error = nil, "output dropped, Kafka refused it: "+it.Err.Error()
	value, err := a.writer.Append(nil, enc, &res)
	if err != nil {
		a.deps.Fatal(err)
		return
	}
	it.Token.Value = value
	a.record(send{jobID: res.Job, value: value, enc: enc, token: it.Token})
}

// feed pauses the partition while the shard has enough, and retries what waits.
func (a *Actor) feed() {
	if len(a.backlog) > 0 {
		a.drainBacklog()
	}
	full := len(a.backlog) > 0
	switch {
	case !a.paused && (full || a.core.Overfull()):
		a.paused = true
		a.deps.Feed.Pause(int32(a.cfg.Partition))
	case a.paused && !full && a.core.Hungry():
		a.paused = false
		a.deps.Feed.Resume(int32(a.cfg.Partition))
	}
}

// arm sees to it that a tick comes when one is due. A timer that is too early costs
// one empty step, so it is moved only forward.
func (a *Actor) arm(now int64) {
	due, ok := a.core.Next()
	if len(a.backlog) > 0 && (!ok || due > now+retryFullMs) {
		due, ok = now+retryFullMs, true
	}
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
