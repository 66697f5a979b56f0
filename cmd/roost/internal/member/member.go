// Package member puts one Roost member together: sockets, gates, shards, Kafka and
// the API. It is the only place where they meet.
package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/transport/kafka"
	"github.com/roost-server/roost/transport/tcp"
)

// Member is a running member.
type Member struct {
	cfg       Config
	log       *zap.Logger
	started   time.Time
	info      kafka.Info
	tree      *supervisor.Tree
	gateStats *gate.Stats
	server    *tcp.Server
	sockets   *sockets
	routing   *routing
	cluster   *clustered
	mover     *mover // nil without a cluster
	arrivals  arrivals
	ledger
	api       *api.Server
	metrics   *metrics
	trace     *tracer
	consuming bool

	failOnce sync.Once
	failed   chan error
}

// Start starts a member and returns when it serves. It waits for Kafka for as long
// as ctx lasts, and says so through cfg.Progress. What was started is stopped again
// when the start fails.
func Start(ctx context.Context, cfg Config, log *zap.Logger) (*Member, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	m := &Member{cfg: cfg, log: log, started: time.Now(), failed: make(chan error, 1), gateStats: &gate.Stats{},
		trace: newTracer(cfg.Name)}
	m.routing = newRouting(log.Named("cluster"), m.trace)
	if err := m.start(ctx); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, m.Stop(stopCtx))
	}
	return m, nil
}

func (m *Member) start(ctx context.Context) error {
	var err error
	apiCfg := m.cfg.API
	apiCfg.Version = m.cfg.Version
	if m.api, err = api.New(apiCfg, newFanout(&backend{m}, m.routing, m.log.Named("api")), m.log.Named("api")); err != nil {
		return err
	}
	m.info, err = kafka.EnsureTopics(ctx, m.cfg.Kafka, m.cfg.Topics, func(err error, next time.Duration) {
		m.log.Warn("Kafka is not reachable", zap.String("bootstrap", m.cfg.Kafka.Bootstrap), zap.Error(err), zap.Duration("retry_in", next))
		m.cfg.Progress(fmt.Sprintf("Kafka is not reachable at %s (%v); trying again in %v", m.cfg.Kafka.Bootstrap, err, next.Round(time.Millisecond)))
	})
	if err != nil {
		return err
	}
	if kafka.IsEmbedded(m.info.ClusterID) && !m.cfg.AllowEmbedded {
		return fmt.Errorf("kafka.bootstrap: %s is the embedded broker, one process without replication, made for development; "+
			"give the address of a Kafka cluster, or use roost dev", m.cfg.Kafka.Bootstrap)
	}
	m.tree, err = supervisor.NewTree(supervisor.Config{Partitions: uint32(m.info.Partitions), Policy: m.cfg.Policy,
		Log: m.log, GiveUp: m.fail})
	if err != nil {
		return err
	}
	m.routing.prepare(m.tree.Router(), m.info.Partitions)
	if err := m.ledger.start(ctx, m); err != nil {
		return err
	}
	gates := &gate.Config{
		Member: m.cfg.Name, Partitions: uint32(m.info.Partitions), Heartbeat: m.cfg.Heartbeat, AcceptAfter: m.cfg.AcceptAfter,
		Authenticate: authenticator(m.cfg.NodeToken), Shards: m.source.parking, NowMs: nowMs, Stats: m.gateStats, Profiles: gate.NewProfiles(),
	}
	m.sockets = &sockets{cfg: gates, tree: m.tree, log: m.log.Named("session")}
	m.server, err = tcp.Start(ctx, m.cfg.Nodes, m.sockets, m.log.Named("tcp"))
	if err != nil {
		return err
	}
	m.metrics = newMetrics(m)
	if err := m.api.Start(ctx); err != nil {
		return err
	}
	serveFanout(m.routing.rpc, &backend{m})
	if err := m.joinCluster(ctx); err != nil {
		return err
	}
	m.consuming = true
	return errors.Join(m.ledger.run(m), m.tree.Go("resync", m.routing.resync), m.tree.Go("rebalance", m.rebalance), m.tree.Go("load", m.load), m.tree.Go("watch", m.watch), m.tree.Go("settle", m.settle))
}

// watch ends the member when a part that cannot be restarted alone has failed.
func (m *Member) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-m.submitter.producer.Failed():
		m.fail(fmt.Errorf("the Kafka producer failed: %w", m.submitter.producer.Err()))
	case <-m.server.Done():
		m.fail(fmt.Errorf("the nodes' port failed: %w", m.server.Err()))
	case err := <-m.api.Failed():
		m.fail(err)
	}
	return nil
}

// fail says once that the member has to end.
func (m *Member) fail(err error) {
	m.failOnce.Do(func() {
		m.log.Error("the member gives up", zap.Error(err))
		m.failed <- err
	})
}

// Failed receives the reason when the member cannot go on: stop it and exit.
func (m *Member) Failed() <-chan error { return m.failed }

// NodesAddr returns the address of the nodes' port.
func (m *Member) NodesAddr() net.Addr { return m.server.Addr() }

// APIAddr returns the address of the HTTP API.
func (m *Member) APIAddr() net.Addr { return m.api.Addr() }

// Stop ends the member: no new connections, sessions closed with a reason that lets
// nodes come back at once elsewhere, offsets committed, outcomes flushed. When ctx
// ends first, the rest is cut.
func (m *Member) Stop(ctx context.Context) error {
	var errs []error
	keep := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if m.mover != nil {
		m.mover.close()
	}
	if m.server != nil {
		m.server.Refuse(true)
	}
	if m.api != nil {
		keep("close the API", m.api.Close(ctx))
	}
	if m.consuming {
		keep("finish what is under way", m.finish(ctx))
	}
	if m.server != nil {
		keep("stop the gates", m.tree.StopGates())
	}
	if m.tree != nil {
		keep("stop the services", m.tree.StopServices())
	}
	if m.server != nil {
		keep("close the nodes' port", m.server.Stop(ctx, protocol.ReasonShutdown, "the member stops"))
	}
	keep("leave the cluster", m.leaveCluster(ctx))
	if m.tree != nil {
		keep("stop the actors", m.tree.Stop())
	}
	keep("close the Kafka clients", m.ledger.close(ctx, m.consuming))
	return errors.Join(errs...)
}

func nowMs() int64 { return time.Now().UnixMilli() }
