package shard

import (
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

// parts are a member's gates, peers, ledger and feed in small.
type parts struct {
	t      *testing.T
	system *actor.ActorSystem
	pid    *actor.PID
	kafka  *kafka // of whoever calls commit

	mu         sync.Mutex
	deliveries []string
	acks       []string
	announced  int
	dirty      int // how often the ledger heard
	outcomes   int // of what it heard
	panicOn    string
	taken      int
	paused     bool
	epoch      uint64
	fatal      []error
	rebuilt    [][2]int // jobs restored, and missing
}

// start makes a shard that asks to be rebuilt; it is restored with nothing.
func start(t *testing.T, cfg Config) *parts {
	p := startEmpty(t, cfg)
	p.restored()
	return p
}

func startEmpty(t *testing.T, cfg Config) *parts {
	p := &parts{t: t, system: quietSystem(), kafka: newKafka()}
	cfg.Partitions, cfg.Member = 1, "m"
	deps := Deps{Gates: p, Peers: peers{p}, Ledger: p, Feed: feed{p},
		NowMs: func() int64 { return time.Now().UnixMilli() },
		Rebuilt: func(_ uint32, restored, missing int) {
			p.locked(func() { p.rebuilt = append(p.rebuilt, [2]int{restored, missing}) })
		},
		Fatal: func(err error) { p.locked(func() { p.fatal = append(p.fatal, err) }) }}
	p.pid = p.system.Root.Spawn(actor.PropsFromProducer(func() actor.Actor { return New(cfg, deps) }))
	p.eventually(func() bool { return p.epoch == 1 })
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
			if d.JobID == p.panicOn {
				p.panicOn = ""
				panic("the gates fail on " + d.JobID)
			}
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

// Dirty implements Ledger.
func (p *parts) Dirty(_ uint32, outcomes int) {
	p.locked(func() { p.dirty++; p.outcomes += outcomes })
}

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

type feed struct{ *parts }

// Taken implements Feed.
func (f feed) Taken(_ int32, n int) { f.locked(func() { f.taken += n }) }

// Pause implements Feed.
func (f feed) Pause(int32) { f.locked(func() { f.paused = true }) }

// Resume implements Feed.
func (f feed) Resume(int32) { f.locked(func() { f.paused = false }) }

// Rebuild implements Feed.
func (f feed) Rebuild(int32) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = false
	f.epoch++
	return f.epoch
}

func (p *parts) send(m any) { p.system.Root.Send(p.pid, m) }

// life returns the epoch of the shard's present life.
func (p *parts) life() (epoch uint64) {
	p.locked(func() { epoch = p.epoch })
	return epoch
}

// restored gives the shard what is committed.
func (p *parts) restored() {
	epoch := p.life()
	p.send(&Restore{Epoch: epoch, Records: p.kafka.records()})
	p.send(&Restored{Epoch: epoch, Next: p.kafka.next})
}

func (p *parts) records(from int64, jobs ...record.Job) {
	m := &actors.Records{Epoch: p.life()}
	for i := range jobs {
		m.Records = append(m.Records, actors.Record{Offset: from + int64(i), TimestampMs: time.Now().UnixMilli(), Value: value(p.t, jobs[i])})
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

// cut asks for a batch.
func (p *parts) cut() *Batch {
	reply := make(chan *Batch, 1)
	p.send(&Cut{Reply: reply})
	return <-reply
}

// commit cuts and commits, and returns how many outcomes that were.
func (p *parts) commit() int {
	b := p.cut()
	if b == nil {
		return 0
	}
	n := b.Outcomes
	p.kafka.commit(b)
	p.send(&Committed{Batch: b})
	return n
}

func (p *parts) status() Status {
	reply := make(chan Status, 1)
	p.send(&QueryStatus{Reply: reply})
	return <-reply
}
