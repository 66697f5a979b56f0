// Package supervisor is the member's supervision tree:
//
//	member
//	├── services   source, committer and whatever else runs beside the actors
//	├── shards     one for each partition that this member owns; restarted
//	└── gates      one for each event loop; restarted, which closes its sockets
//	    └── sessions   stopped, never restarted
//
// A child that fails too often within a window escalates: at the top the member
// gives up, and what runs it starts it again.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	cmap "github.com/orcaman/concurrent-map"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/shard"
)

// Config is what a tree is made from.
type Config struct {
	Partitions uint32
	Policy     Policy
	Log        *zap.Logger
	// GiveUp is called once when failures reach the top; the member has to end.
	GiveUp func(reason error)
}

// Tree is the running tree.
type Tree struct {
	cfg      Config
	system   *actor.ActorSystem
	router   *Router
	failures *failures
	member   *actor.PID
	shards   *actor.PID
	gates    *actor.PID
	services *actor.PID
	gateless chan struct{} // closed when the gates have been stopped
	runners  *runners
}

// ErrStopped is what AddGate returns when the gates were stopped.
var ErrStopped = errors.New("the gates were stopped")

// NewTree starts the tree with its supervisors and no leaves.
func NewTree(cfg Config) (*Tree, error) {
	t := &Tree{cfg: cfg, gateless: make(chan struct{}), runners: newRunners()}
	log := cfg.Log.Named("actors")
	t.failures = &failures{counts: map[string]int{}, report: func(f Failure) {
		log.Error("actor failed", zap.String("actor", f.Actor), zap.String("action", f.Action),
			zap.Int("restarts", f.Restarts), zap.String("reason", f.Reason))
	}}
	t.system = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		// protoactor says at info what we log ourselves, once and with its reason.
		if log.Core().Enabled(zap.WarnLevel) { // a level can only be raised
			return slog.New(zapslog.NewHandler(log.WithOptions(zap.IncreaseLevel(zap.WarnLevel)).Core()))
		}
		return slog.New(zapslog.NewHandler(log.Core()))
	}))
	shrinkRegistry(t.system)
	t.router = newRouter(t.system.Root, cfg.Partitions)
	gaveUp := make(chan struct{}, 1)
	giveUp := func(reason any) {
		select {
		case gaveUp <- struct{}{}:
			cfg.GiveUp(fmt.Errorf("actors failed too often: %v", reason))
		default:
		}
	}
	// A supervisor that was restarted would come back without its children.
	top := t.strategy(Policy{MaxRestarts: -1}, giveUp)
	props := actor.PropsFromProducer(func() actor.Actor { return &member{tree: t} },
		actor.WithSupervisor(top), actor.WithGuardian(top))
	var err error
	if t.member, err = t.system.Root.SpawnNamed(props, "member"); err != nil {
		t.runners.stop()
		return nil, fmt.Errorf("start the supervision tree: %w", err)
	}
	ready := make(chan *member, 1)
	t.system.Root.Send(t.member, ready)
	m := <-ready
	t.shards, t.gates, t.services = m.shards, m.gates, m.services
	return t, nil
}

// registryBuckets, of 32 maps each, replace protoactor's 1,024: its 32,768 maps take
// 3 MB at rest, and with less than some 100,000 actors each holds next to nothing in
// a block for eight. 512 maps are still far more than event loops to contend for them.
const registryBuckets = 16

// shrinkRegistry must run before any actor is spawned.
func shrinkRegistry(system *actor.ActorSystem) {
	old := system.ProcessRegistry.LocalPIDs
	small := &actor.SliceMap{LocalPIDs: make([]cmap.ConcurrentMap, registryBuckets)}
	for i := range small.LocalPIDs {
		small.LocalPIDs[i] = cmap.New()
	}
	for _, bucket := range old.LocalPIDs {
		for id, process := range bucket.Items() {
			small.GetBucket(id).Set(id, process)
		}
	}
	system.ProcessRegistry.LocalPIDs = small
}

func (t *Tree) strategy(p Policy, escalate func(any)) *strategy {
	return &strategy{policy: p, failures: t.failures, escalate: escalate, now: time.Now,
		recent: map[string][]time.Time{}, waiting: map[string]*time.Timer{}, removing: map[string]bool{}, name: actorName}
}

// actorName is the actor's path; sessions go under one name, so that counters of
// them do not grow with the fleet.
func actorName(pid *actor.PID) string {
	if i := strings.Index(pid.Id, "/$"); i >= 0 {
		return pid.Id[:i] + "/session"
	}
	return pid.Id
}

// Router returns the way to the tree's actors.
func (t *Tree) Router() *Router { return t.router }

// ShardGates returns the router as the shard of a partition needs it to reach gates.
func (t *Tree) ShardGates(partition uint32) shard.Gates { return shardSide{t.router, partition} }

// Peers returns the router as shards need it to reach each other.
func (t *Tree) Peers() shard.Peers { return peerSide{t.router} }

// AddGate spawns the gate of an event loop, named after its index, and waits until it
// is there. It may be called on that loop: the gate takes its first message later.
func (t *Tree) AddGate(index uint32, d *gate.Door) error {
	sessions := t.strategy(Policy{}, nil)
	return t.ask(t.gates, &spawn{name: fmt.Sprintf("gate-%d", index), props: d.Props(sessions),
		spawned: func(pid *actor.PID) { t.router.addGate(index, pid) }})
}

// AddShard spawns the shard of a partition and waits until it is there. make is
// called again, with restarted set, whenever the shard failed.
func (t *Tree) AddShard(partition uint32, make func(restarted bool) actor.Actor) error {
	first := true
	props := actor.PropsFromProducer(func() actor.Actor {
		a := make(!first)
		first = false
		return a
	}, actor.WithDispatcher(t.runners))
	return t.ask(t.shards, &spawn{name: shardName(partition), props: props,
		spawned: func(pid *actor.PID) { t.router.shards[partition].Store(pid) }})
}

// RemoveShard stops the shard of a partition, after what is in its mailbox, and waits
// for its end.
func (t *Tree) RemoveShard(partition uint32) error {
	pid := t.router.shards[partition].Swap(nil)
	if pid == nil {
		return nil
	}
	return t.ask(t.shards, &remove{pid: pid})
}

func shardName(partition uint32) string { return fmt.Sprintf("shard-%d", partition) }

// Go runs a service under supervision: when run returns an error before its context
// ends, it is started again after a backoff.
func (t *Tree) Go(name string, run func(context.Context) error) error {
	return t.ask(t.services, &spawn{name: name,
		props: actor.PropsFromProducer(func() actor.Actor { return &service{run: run} })})
}

// askTimeout is far longer than spawning or stopping takes, unless an actor hangs.
const askTimeout = 10 * time.Second

func (t *Tree) ask(supervisor *actor.PID, m interface{ reply(chan<- error) }) error {
	done := make(chan error, 1)
	m.reply(done)
	t.system.Root.Send(supervisor, m)
	select {
	case err := <-done:
		return err
	case <-t.gatesEnd(supervisor):
		return ErrStopped
	case <-time.After(askTimeout):
		return fmt.Errorf("%s did not answer within %v", supervisor.Id, askTimeout)
	}
}

// Failures returns the failures of late, oldest first, and the count of all since
// the start by actor.
func (t *Tree) Failures() (last []Failure, counts map[string]int) {
	t.failures.mu.Lock()
	defer t.failures.mu.Unlock()
	counts = make(map[string]int, len(t.failures.counts))
	for k, v := range t.failures.counts {
		counts[k] = v
	}
	return append([]Failure(nil), t.failures.last...), counts
}

// StopGates stops the gates, which closes their sessions. The event loops have to
// run still.
// It may be called once.
func (t *Tree) StopGates() error {
	defer close(t.gateless)
	return t.stop(t.gates)
}

// gatesEnd is closed when the supervisor is that of gates and has ended: it answers nobody
// then.
func (t *Tree) gatesEnd(supervisor *actor.PID) <-chan struct{} {
	if supervisor == t.gates {
		return t.gateless
	}
	return nil
}

// StopServices stops the services and waits for their functions to return.
func (t *Tree) StopServices() error { return t.stop(t.services) }

// Stop stops whatever is left of the tree, leaves first.
func (t *Tree) Stop() error {
	err := t.stop(t.member)
	t.system.Shutdown()
	t.runners.stop()
	return err
}

func (t *Tree) stop(pid *actor.PID) error {
	if err := t.system.Root.StopFuture(pid).Wait(); err != nil {
		return fmt.Errorf("stop %s: %w", pid.Id, err)
	}
	return nil
}
