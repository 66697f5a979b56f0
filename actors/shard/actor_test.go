package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// parts are a member's gates, peers, recorder and feed in small.
type parts struct {
	t      *testing.T
	system *actor.ActorSystem
	pid    *actor.PID

	mu         sync.Mutex
	deliveries []string
	acks       []string
	announced  int
	outcomes   []record.Result
	values     map[string][]byte
	dead       []string
	tokens     []*Token
	room       int // what the recorder takes until it is full
	refuse     error
	panicOn    string // the job whose outcome makes the recorder panic, once
	commits    []int64
	taken      int
	paused     bool
	epoch      uint64
	fatal      []error
	lives      int
}

func start(t *testing.T, cfg Config) *parts {
	p := &parts{t: t, system: quietSystem(), room: 1 << 30, values: map[string][]byte{}}
	cfg.Partitions, cfg.Member = 1, "m"
	deps := Deps{Gates: p, Peers: peers{p}, Recorder: p, Feed: feed{p},
		NowMs: func() int64 { return time.Now().UnixMilli() },
		Fatal: func(err error) { p.locked(func() { p.fatal = append(p.fatal, err) }) }}
	props := actor.PropsFromProducer(func() actor.Actor {
		p.locked(func() { p.lives++ })
		return New(cfg, deps, p.lives > 1)
	})
	p.pid = p.system.Root.Spawn(props)
	t.Cleanup(func() {
		require.NoError(t, p.system.Root.StopFuture(p.pid).Wait())
		p.system.Shutdown()
	})
	return p
}

func quietSystem() *actor.ActorSystem {
	return actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
}

func (p *parts) locked(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func (p *parts) eventually(cond func() bool) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return cond()
	}, 10*time.Second, time.Millisecond)
}

// Send implements Gates.
func (p *parts) Send(gate uint32, b *actors.ToGate) {
	p.locked(func() {
		for _, d := range b.Deliveries {
			p.deliveries = append(p.deliveries, fmt.Sprintf("%s#%d@%d", d.JobID, d.Attempt, gate))
		}
		for _, a := range b.Acks {
			p.acks = append(p.acks, fmt.Sprintf("%s#%d@%d", a.JobID, a.Attempt, gate))
		}
	})
	b.Release()
}

// Announce implements Gates.
func (p *parts) Announce(uint32) { p.locked(func() { p.announced++ }) }

type peers struct{ *parts }

// Send implements Peers.
func (p peers) Send(shard uint32, m any) bool {
	if shard != 0 {
		return false
	}
	p.system.Root.Send(p.pid, m)
	return true
}

// Shards implements Peers.
func (p peers) Shards() []uint32 { return []uint32{0} }

// Outcome implements Recorder.
func (p *parts) Outcome(jobID string, value []byte, _ record.Encoding, tok *Token) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case jobID == p.panicOn:
		p.panicOn = ""
		panic("the recorder fails on " + jobID)
	case p.refuse != nil:
		return p.refuse
	case p.room == 0:
		return ErrFull
	}
	p.room--
	r, err := record.ParseResult("", value)
	if err != nil {
		return err
	}
	p.outcomes = append(p.outcomes, r)
	p.values[jobID] = value
	p.tokens = append(p.tokens, tok)
	return nil
}

// Dead implements Recorder.
func (p *parts) Dead(_ *actors.Record, reason string, tok *Token) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.room == 0 {
		return ErrFull
	}
	p.room--
	p.dead = append(p.dead, reason)
	p.tokens = append(p.tokens, tok)
	return nil
}

type feed struct{ *parts }

// Commit implements Feed.
func (f feed) Commit(_ int32, next int64) { f.locked(func() { f.commits = append(f.commits, next) }) }

// Taken implements Feed.
func (f feed) Taken(_ int32, n int) { f.locked(func() { f.taken += n }) }

// Pause implements Feed.
func (f feed) Pause(int32) { f.locked(func() { f.paused = true }) }

// Resume implements Feed.
func (f feed) Resume(int32) { f.locked(func() { f.paused = false }) }

// Rewind implements Feed.
func (f feed) Rewind(int32) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = false
	f.epoch++
	return f.epoch
}

func (p *parts) send(m any) { p.system.Root.Send(p.pid, m) }

func (p *parts) records(epoch uint64, from int64, jobs ...record.Job) {
	m := &actors.Records{Epoch: epoch}
	for i := range jobs {
		if jobs[i].Kind == "" {
			jobs[i].Kind = "ping"
		}
		v, err := record.AppendJob(nil, &jobs[i])
		require.NoError(p.t, err)
		m.Records = append(m.Records, actors.Record{Offset: from + int64(i), TimestampMs: time.Now().UnixMilli(), Value: v})
	}
	p.send(m)
}

func oneNode(id string) record.Job { return record.Job{ID: id, Target: record.Target{Node: "n"}} }

func (p *parts) register(gate uint32) {
	b := actors.NewFromGate(gate)
	b.Registrations = append(b.Registrations, actors.Registration{Node: "n", Incarnation: 1, Profile: profileOf("ping")})
	p.send(b)
}

func (p *parts) result(jobs ...string) {
	b := actors.NewFromGate(3)
	for _, j := range jobs {
		b.Results = append(b.Results, actors.Result{Node: "n", JobID: b.Keep([]byte(j)), Attempt: 1, Outcome: protocol.OutcomeOK,
			Output: b.Keep([]byte{0xa2, 'h', 'i'})})
	}
	p.send(b)
}

// recorded tells the shard that Kafka took, or refused, all it was given.
func (p *parts) recorded(err error) {
	m := &Recorded{}
	p.locked(func() {
		for _, t := range p.tokens {
			m.Items = append(m.Items, RecordedItem{Token: t, Err: err})
		}
		p.tokens = nil
	})
	p.send(m)
}

func (p *parts) status() Status {
	reply := make(chan Status, 1)
	p.send(&QueryStatus{Reply: reply})
	return <-reply
}

func TestActorTakesAJobToItsEnd(t *testing.T) {
	p := start(t, DefaultConfig())
	events := make(chan FollowEvent, 10)
	f := &Follower{Fn: func(e FollowEvent) { events <- e }}
	p.send(&Follow{ID: "a", Follower: f})
	p.register(3)
	p.records(0, 7, oneNode("a"))
	p.eventually(func() bool { return len(p.deliveries) == 1 && p.taken == 1 })
	require.Equal(t, []string{"a#1@3"}, p.deliveries)
	p.locked(func() { require.Zero(t, p.announced, "that is for whoever spawned it") })

	b := actors.NewFromGate(3)
	b.Progress = append(b.Progress, actors.Progress{Node: "n", JobID: "a", Data: b.Keep([]byte{7})})
	p.send(b)
	require.Equal(t, []byte{7}, (<-events).Progress.Data)

	p.result("a")
	p.eventually(func() bool { return len(p.outcomes) == 1 })
	require.Empty(t, p.acks, "not before it is recorded")
	require.Equal(t, "hi", string(p.outcomes[0].Output[1:]))
	p.recorded(nil)
	require.Equal(t, p.values["a"], (<-events).Value)
	require.True(t, (<-events).Done)
	p.eventually(func() bool { return len(p.acks) == 1 && len(p.commits) == 1 })
	require.Equal(t, []int64{8}, p.commits)

	// Who follows a job that is done hears so at once.
	p.send(&Follow{ID: "a", Follower: f})
	require.Equal(t, StateDone, (<-events).Summary.State)
	require.True(t, (<-events).Done)
	reply := make(chan *Summary, 1)
	p.send(&QueryJob{ID: "a", Reply: reply})
	require.Equal(t, [][]byte{p.values["a"]}, (<-reply).Results)
}

func TestActorChoosesNodesThroughItself(t *testing.T) {
	p := start(t, DefaultConfig())
	p.register(3)
	p.records(0, 0, record.Job{ID: "a", Target: record.Target{Select: &record.Selector{Count: 1}}})
	p.eventually(func() bool { return len(p.deliveries) == 1 })
}

func TestActorKeepsWhatAFullRecorderDoesNotTake(t *testing.T) {
	p := start(t, DefaultConfig())
	p.room = 1
	p.register(3)
	p.records(0, 0, oneNode("a"), oneNode("b"), record.Job{ID: "c", Kind: "http", Target: record.Target{Node: "n"}})
	p.result("a", "b")
	p.send(&actors.Records{Records: []actors.Record{{Offset: 3, Value: []byte("poison")}}})
	require.Equal(t, 3, p.status().Unsent)
	p.eventually(func() bool { return p.paused })
	p.locked(func() { p.room = 2 })
	p.eventually(func() bool { return len(p.tokens) == 3 })
	require.True(t, p.status().Paused, "one waits still")
	p.locked(func() { p.room = 10 })
	p.eventually(func() bool { return len(p.tokens) == 4 && !p.paused })
	require.Len(t, p.dead, 1)
	p.recorded(nil)
	p.eventually(func() bool { return len(p.commits) > 0 && p.commits[len(p.commits)-1] == 4 })
	require.Empty(t, p.fatal)
}

func TestActorRecordsWithoutOutputWhatKafkaRefuses(t *testing.T) {
	p := start(t, DefaultConfig())
	p.register(3)
	p.records(0, 0, oneNode("a"))
	p.result("a")
	p.eventually(func() bool { return len(p.outcomes) == 1 })
	p.recorded(errors.New("too large"))
	p.eventually(func() bool { return len(p.outcomes) == 2 })
	require.Empty(t, p.outcomes[1].Output)
	require.Contains(t, p.outcomes[1].Error, "too large")
	require.Equal(t, protocol.OutcomeOK, p.outcomes[1].Outcome)
	require.Empty(t, p.acks)
	p.recorded(nil)
	p.eventually(func() bool { return len(p.acks) == 1 })

	// Refused without output, too: nothing helps.
	p.records(0, 1, record.Job{ID: "b", Kind: "http", Target: record.Target{Node: "n"}})
	p.eventually(func() bool { return len(p.outcomes) == 3 })
	p.recorded(errors.New("topic gone"))
	p.eventually(func() bool { return len(p.fatal) == 1 })

	p.locked(func() { p.refuse = errors.New("producer gone") })
	p.result("a")
	p.records(0, 2, oneNode("c"))
	p.result("c")
	p.eventually(func() bool { return len(p.fatal) > 1 })
	p.send(&Recorded{Items: []RecordedItem{{Token: &Token{}, Err: errors.New("fatal"), Fatal: true}}})
}

func TestActorPausesWhileItHasEnough(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxPending = 4
	p := start(t, cfg)
	p.register(3)
	p.records(0, 0, oneNode("a"), oneNode("b"), oneNode("c"))
	require.False(t, p.status().Paused)
	p.records(0, 3, oneNode("d"))
	p.eventually(func() bool { return p.paused })
	p.result("b", "c", "d")
	p.eventually(func() bool { return len(p.outcomes) == 3 })
	p.recorded(nil)
	require.True(t, p.status().Paused, "a holds the watermark")
	p.result("a")
	p.eventually(func() bool { return len(p.outcomes) == 4 })
	p.recorded(nil)
	p.eventually(func() bool { return !p.paused })
}

func TestActorPausesWhileItsJobsAreLarge(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxPendingBytes = 16 << 10
	p := start(t, cfg)
	p.register(3)
	large := oneNode("a")
	large.Args = append([]byte{0xc5, 0x40, 0}, make([]byte, 16<<10)...)
	p.records(0, 0, large)
	p.eventually(func() bool { return p.paused })
	p.result("a")
	p.eventually(func() bool { return len(p.outcomes) == 1 })
	require.True(t, p.status().Paused, "the outcome is not recorded")
	p.recorded(nil)
	p.eventually(func() bool { return !p.paused })
}

func TestActorRestartsFromWhatIsCommitted(t *testing.T) {
	p := start(t, DefaultConfig())
	gone := make(chan FollowEvent, 1)
	p.send(&Follow{ID: "z", Follower: &Follower{Fn: func(e FollowEvent) { gone <- e }}})
	p.register(3)
	p.records(0, 0, oneNode("a"), oneNode("b"))
	p.result("a")
	p.eventually(func() bool { return len(p.tokens) == 1 })
	p.locked(func() { p.panicOn = "b" })
	p.result("b")
	p.records(0, 2, oneNode("old")) // in the mailbox before the restart: of an epoch that is over
	p.eventually(func() bool { return p.epoch == 1 && p.announced == 1 })
	require.True(t, (<-gone).Gone)

	st := p.status()
	require.Zero(t, st.Pending, "records of the epoch before are not taken")
	require.Zero(t, st.Read)
	p.eventually(func() bool { return p.taken == 3 })

	// Kafka tells of the first life's outcome, and refuses another: both are no matter.
	p.recorded(nil)
	require.Zero(t, p.status().Stats.Jobs)
	p.register(3)
	p.records(1, 0, oneNode("a"), oneNode("b"))
	p.result("a", "b")
	p.eventually(func() bool { return len(p.outcomes) == 3 })
	p.recorded(nil)
	p.eventually(func() bool { return len(p.commits) > 0 && p.commits[len(p.commits)-1] == 2 })
	require.Empty(t, p.fatal)
}

func TestActorIgnoresARefusalFromBeforeARestart(t *testing.T) {
	p := start(t, DefaultConfig())
	p.register(3)
	p.records(0, 0, oneNode("a"), oneNode("b"))
	p.result("a")
	p.eventually(func() bool { return len(p.tokens) == 1 })
	p.locked(func() { p.panicOn = "b" })
	p.result("b")
	p.eventually(func() bool { return p.epoch == 1 })
	p.recorded(errors.New("too large"))
	p.status()
	require.Len(t, p.outcomes, 1)
	require.Empty(t, p.fatal)
}

func TestActorTicksByTheClock(t *testing.T) {
	cfg := DefaultConfig()
	cfg.GraceMs = 10
	p := start(t, cfg)
	p.register(3)
	far := oneNode("far")
	far.DeadlineMs = 1<<62 - 1 // far beyond what a timer can be set to
	far.Target.Node = "nobody"
	a := oneNode("a")
	a.Timeout, a.Attempts = 5*time.Millisecond, 2
	p.records(0, 0, far, a)
	p.eventually(func() bool { return len(p.outcomes) == 1 })
	require.Equal(t, protocol.OutcomeTimeout, p.outcomes[0].Outcome)
	require.Equal(t, []string{"a#1@3", "a#2@3"}, p.deliveries)
}

func TestActorUnfollows(t *testing.T) {
	p := start(t, DefaultConfig())
	heard := make(chan string, 10)
	one := &Follower{Fn: func(FollowEvent) { heard <- "one" }}
	two := &Follower{Fn: func(FollowEvent) { heard <- "two" }}
	p.send(&Follow{ID: "a", Follower: one})
	p.send(&Follow{ID: "a", Follower: two})
	p.send(&Unfollow{ID: "a", Follower: one})
	p.send(&Unfollow{ID: "never", Follower: one})
	p.register(3)
	p.records(0, 0, oneNode("a"))
	b := actors.NewFromGate(3)
	b.Progress = append(b.Progress, actors.Progress{Node: "n", JobID: "a"})
	p.send(b)
	require.Equal(t, "two", <-heard)
	p.send(&Unfollow{ID: "a", Follower: two})
	p.result("a")
	p.eventually(func() bool { return len(p.tokens) == 1 })
	p.recorded(nil)
	p.eventually(func() bool { return len(p.commits) == 1 })
	require.Empty(t, heard)
}
