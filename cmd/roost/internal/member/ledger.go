package member

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/session"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/transport/kafka"
)

// partitionsEvery is the pause between two looks at the number of partitions.
const partitionsEvery = 30 * time.Second

// ledger is the part of a member that reads and writes Kafka: the source feeds the
// shards, the restorer rebuilds them, the committer writes what they have, and the
// submitter what the API takes.
type ledger struct {
	source     *source
	restorer   *restorer
	committer  *committer
	submitter  *submitter
	transactor *kafka.Transactor
	partitions atomic.Int64 // as of the last look

	idle     chan struct{} // closed when nothing asks the committer any more
	idleOnce sync.Once
}

// start makes the Kafka clients. They run later, when everything that they feed is
// there.
func (l *ledger) start(ctx context.Context, m *Member) error {
	l.idle = make(chan struct{})
	l.partitions.Store(int64(m.info.Partitions))
	owner := m.cfg.Kafka.Group + "-" + m.cfg.Name
	var err error
	if l.transactor, err = kafka.NewTransactor(m.cfg.Kafka, owner, m.log.Named("transactor")); err != nil {
		return err
	}
	m.cfg.Progress("waiting for Kafka's transaction coordinator")
	if err := l.transactor.Init(ctx); err != nil {
		return fmt.Errorf("take over the transactional id %q: %w", owner, err)
	}
	l.submitter = &submitter{topic: m.cfg.Topics.Jobs}
	if l.submitter.producer, err = kafka.NewProducer(m.cfg.Kafka, m.log.Named("producer"), l.submitter.delivered); err != nil {
		return err
	}
	router := m.tree.Router()
	l.source = &source{tree: m.tree, giveUp: m.fail, log: m.log.Named("source"), flows: map[int32]*flow{}, trace: m.trace,
		parking: newParking(m.info.Partitions, func(shard uint32, b *actors.FromGate) bool {
			m.trace.fromGate(b)
			return router.ToShard(shard, b)
		}, m.routing.away)}
	m.routing.assigned = func(p uint32) bool { return l.source.Epoch(p) != 0 }
	m.routing.parking, l.source.over = l.source.parking, m.routing.over
	l.committer = &committer{tx: l.transactor, topics: m.cfg.Topics, shards: router, source: l.source, trace: m.trace,
		interval: m.cfg.CommitInterval, outcomes: m.cfg.CommitOutcomes, log: m.log.Named("committer"), giveUp: m.fail,
		dirty: map[uint32]struct{}{}, wake: make(chan struct{}, 1), busy: make(chan struct{}, 1), requests: make(chan *finishing)}
	l.restorer = &restorer{cfg: m.cfg.Kafka, topic: m.cfg.Topics.State, own: owner, source: l.source, settled: l.committer.settled,
		dead:   func(id string) bool { return m.routing.dead(strings.TrimPrefix(id, m.cfg.Kafka.Group+"-")) },
		bereft: m.routing.bereft,
		log:    m.log.Named("restorer"), wanted: map[int32]uint64{}, wake: make(chan struct{}, 1)}
	l.source.restore = l.restorer.want
	l.source.finish = func(partitions []int32) { l.committer.finish(context.Background(), partitions) }
	l.source.make = l.shards(m, owner)
	if l.source.consumer, err = kafka.NewConsumer(m.cfg.Kafka, m.cfg.Topics.Jobs, l.source, m.log.Named("consumer")); err != nil {
		return err
	}
	l.committer.group = l.source.consumer.Group
	sabotage(l.committer, m.cfg.Kafka.Group)
	return nil
}

// shards returns what makes the actor of a partition's shard.
func (l *ledger) shards(m *Member, owner string) func(partition uint32) actor.Actor {
	cfg := shard.DefaultConfig()
	cfg.Partitions, cfg.Member, cfg.Owner = uint32(m.info.Partitions), m.cfg.Name, owner
	cfg.MaxPending, cfg.MaxPendingBytes = m.cfg.MaxPending, m.cfg.MaxPendingBytes
	// As far as the incarnations of two members can be apart, and a little.
	cfg.ContestMs = m.cfg.Cluster.MaxSkew.Milliseconds() + session.MaxAheadMs + 1000
	deps := shard.Deps{Peers: m.tree.Peers(), Ledger: l.committer, Feed: l.source, NowMs: nowMs,
		Rebuilt: l.restorer.rebuilt,
		Fatal:   func(err error) { m.fail(fmt.Errorf("a shard cannot go on: %w", err)) }}
	return func(partition uint32) actor.Actor {
		own := cfg
		own.Partition = partition
		with := deps
		with.Gates = tracedGates{m.tree.ShardGates(partition), m.trace, m.gateName}
		return shard.New(own, with)
	}
}

// run starts what reads and writes.
func (l *ledger) run(m *Member) error {
	first := true
	return errors.Join(
		m.tree.Go("committer", func(ctx context.Context) error {
			if !first { // it failed: what became of its transaction is not known
				l.committer.startAgain(ctx)
			}
			first = false
			return l.committer.run(ctx, l.idle)
		}),
		m.tree.Go("restorer", l.restorer.run),
		m.tree.Go("partitions", m.watchPartitions),
		m.tree.Go("source", func(ctx context.Context) error {
			defer l.rest()
			// It fails only for good, so the member ends with it.
			if err := l.source.consumer.Run(ctx); err != nil {
				m.fail(fmt.Errorf("the Kafka consumer failed: %w", err))
			}
			return nil
		}))
}

func (l *ledger) rest() { l.idleOnce.Do(func() { close(l.idle) }) }

// close frees the clients; the services have ended.
func (l *ledger) close(ctx context.Context, ran bool) error {
	var errs []error
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if l.source != nil && l.source.consumer != nil && !ran {
		errs = append(errs, l.source.consumer.Run(ended))
	}
	if l.submitter != nil && l.submitter.producer != nil {
		// Those who submitted have their answer, or have gone.
		if err := l.submitter.producer.Close(ended); !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	if l.transactor != nil {
		errs = append(errs, l.transactor.Close(ctx))
	}
	return errors.Join(errs...)
}

// finish reads no more jobs, has every outcome so far committed, and sees the nodes'
// acknowledgements off, so that little is done twice after a restart.
func (m *Member) finish(ctx context.Context) error {
	m.source.hold()
	bounded, cancel := context.WithTimeout(ctx, 2*finishTimeout)
	defer cancel()
	m.committer.finish(bounded, nil)
	// An answer comes after what was in the mailbox before: what was committed.
	if _, err := (&backend{m}).statuses(ctx); err != nil {
		return err
	}
	return m.sockets.caughtUp(ctx) // the gates have sent what shards gave them
}
