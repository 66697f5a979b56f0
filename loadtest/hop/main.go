//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"go.uber.org/zap"

	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/transport/tcp"
)

// settings are the flags.
type settings struct {
	listen      string
	dispatch    string
	loops       int
	partitions  int
	cutInterval time.Duration
	cutOutcomes int
	acks        bool
	heartbeat   time.Duration
	pprof       string
}

func flags(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("hop", flag.ContinueOnError)
	f.StringVar(&s.listen, "listen", "127.0.0.1:0", "address for nodes")
	f.StringVar(&s.dispatch, "dispatch", "127.0.0.1:0", "address for the dispatcher")
	f.IntVar(&s.loops, "loops", 0, "event loops; 0: one for each processor, as roost serve")
	f.IntVar(&s.partitions, "partitions", 16, "shards; the default is that of roost.jobs")
	f.DurationVar(&s.cutInterval, "cut-interval", 10*time.Millisecond, "how long an outcome waits for others at most")
	f.IntVar(&s.cutOutcomes, "cut-outcomes", 250, "so many outcomes do not wait")
	f.BoolVar(&s.acks, "acks", false, "tell nodes that their results are recorded, though they are not")
	f.DurationVar(&s.heartbeat, "heartbeat", 30*time.Second, "nodes send something at least this often")
	f.StringVar(&s.pprof, "pprof", "", "address for Go's profiles over HTTP, such as 127.0.0.1:6060; none when empty")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.partitions < 1 || s.partitions > 10_000:
		return s, fmt.Errorf("-partitions: %d; allowed are 1 to 10000", s.partitions)
	case s.cutInterval < 0 || s.cutInterval > 5*time.Second:
		return s, fmt.Errorf("-cut-interval: %v; allowed are 0 to 5s", s.cutInterval)
	case s.cutOutcomes < 1:
		return s, fmt.Errorf("-cut-outcomes: %d; at least 1 is needed", s.cutOutcomes)
	case s.heartbeat < 100*time.Millisecond || s.heartbeat > time.Hour:
		return s, fmt.Errorf("-heartbeat: %v; allowed are 100ms to 1h", s.heartbeat)
	}
	return s, nil
}

func main() {
	cfg, err := flags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err == nil {
		err = run(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg settings) error {
	if cfg.pprof != "" {
		l, err := net.Listen("tcp", cfg.pprof)
		if err != nil {
			return fmt.Errorf("-pprof: %w", err)
		}
		defer func() { _ = l.Close() }()
		go func() { _ = http.Serve(l, nil) }() // until l is closed; net/http/pprof has registered itself
	}
	h, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	debug.FreeOSMemory() // of the start, so that growth is the nodes'
	fmt.Printf("listening nodes=%v dispatcher=%v partitions=%d\n", h.server.Addr(), h.kafka.Addr(), cfg.partitions)
	select {
	case <-ctx.Done():
	case err = <-h.failed:
	case <-h.server.Done():
		err = fmt.Errorf("the nodes' port failed: %w", h.server.Err())
	}
	return errors.Join(err, h.stop())
}

// hop is the running server.
type hop struct {
	tree   *supervisor.Tree
	server *tcp.Server
	kafka  *seam
	stats  gate.Stats
	failed chan error // capacity 1
	ended  context.CancelFunc
}

// start runs the server; stop ends it. ctx bounds the start alone.
func start(ctx context.Context, cfg settings) (*hop, error) {
	zc := zap.NewDevelopmentConfig()
	zc.Level = zap.NewAtomicLevelAt(zap.WarnLevel)
	log, err := zc.Build()
	if err != nil {
		return nil, err
	}
	h := &hop{failed: make(chan error, 1)}
	h.tree, err = supervisor.NewTree(supervisor.Config{Partitions: uint32(cfg.partitions), Policy: supervisor.DefaultPolicy(), Log: log, GiveUp: h.fail})
	if err != nil {
		return nil, err
	}
	if h.kafka, err = newSeam(cfg, h.tree.Router(), h.fail); err != nil {
		return nil, errors.Join(err, h.tree.Stop())
	}
	nodes := tcp.DefaultConfig()
	nodes.Listen, nodes.Loops = cfg.listen, cfg.loops
	gates := &gate.Config{Member: "hop", Partitions: uint32(cfg.partitions), Heartbeat: cfg.heartbeat, AcceptAfter: time.Second,
		Shards: h.kafka, NowMs: nowMs, Stats: &h.stats}
	if h.server, err = tcp.Start(ctx, nodes, &sockets{gates, h.tree}, log.Named("tcp")); err != nil {
		return nil, errors.Join(err, h.kafka.close(), h.tree.Stop())
	}
	for p := range uint32(cfg.partitions) {
		if err := h.addShard(p, cfg); err != nil {
			return nil, errors.Join(err, h.stop())
		}
	}
	run, cancel := context.WithCancel(context.Background())
	h.ended = cancel
	h.kafka.run(run)
	go h.settle(run)
	return h, nil
}

// addShard starts a shard without any state to restore.
func (h *hop) addShard(p uint32, cfg settings) error {
	own := shard.DefaultConfig()
	own.Partition, own.Partitions, own.Member, own.Owner = p, uint32(cfg.partitions), "hop", "hop"
	gates := h.tree.ShardGates(p)
	if !cfg.acks {
		gates = mute{gates}
	}
	deps := shard.Deps{Gates: gates, Peers: h.tree.Peers(), Ledger: h.kafka, Feed: h.kafka, NowMs: nowMs,
		Rebuilt: func(uint32, int, int) {}, Fatal: h.fail}
	if err := h.tree.AddShard(p, func(restarted bool) actor.Actor {
		if restarted {
			h.fail(fmt.Errorf("the shard of partition %d failed, and what it had is nowhere else", p))
		}
		return shard.New(own, deps)
	}); err != nil {
		return fmt.Errorf("start the shard of partition %d: %w", p, err)
	}
	h.tree.Router().ToShard(p, &shard.Restored{Epoch: life, Next: -1})
	return nil
}

func (h *hop) fail(err error) {
	select {
	case h.failed <- err:
	default:
	}
}

// stop ends the server: sessions are closed with a reason that lets nodes come back.
func (h *hop) stop() error {
	if h.ended != nil {
		h.ended()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(h.kafka.close(), h.tree.StopGates(),
		h.server.Stop(ctx, protocol.ReasonShutdown, "the server stops"), h.tree.Stop())
}

func nowMs() int64 { return time.Now().UnixMilli() }
