package cli

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/roost-server/roost/cmd/roost/internal/agent"
	"github.com/roost-server/roost/cmd/roost/internal/member"
	"github.com/roost-server/roost/transport/kafka"
)

// devKafkaListen is where the embedded broker listens unless told otherwise.
const devKafkaListen = "127.0.0.1:7492"

func newDev(g *Globals) *cobra.Command {
	cfg := member.DefaultConfig()
	cfg.Name = "dev"
	cfg.Heartbeat = 10 * time.Second
	cfg.Cluster.Listen = ""
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole Roost in one process, to try it out",
		Long: `Run a whole Roost in one process, to try it out: an embedded broker that speaks
Kafka's protocol, a member, and nodes in many countries and networks that really run
what they are given, on this machine. They may reach private addresses.

Jobs are kept when --data names a directory; otherwise they are gone when it ends.`,
		Example: `  roost dev
  roost dev --nodes 100 --data ./data
  roost dev --nodes-listen 127.0.0.1:0 --api-listen 127.0.0.1:0 --kafka-listen 127.0.0.1:0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return cannot(err)
			}
			if err := s.apply(&cfg); err != nil {
				return cannot(err)
			}
			nodes := s.k.Int("nodes")
			if nodes < 0 || nodes > 5000 {
				return cannot(fmt.Errorf("--nodes: %d; allowed are 0 to 5000", nodes))
			}
			log, err := newLogger(s.k.String("log-level"), s.k.String("log-format"))
			if err != nil {
				return cannot(err)
			}
			return dev(cmd.Context(), g, cfg, devOptions{
				listen: s.k.String("kafka-listen"), data: s.k.String("data"), pprof: s.k.String("pprof-listen"), nodes: nodes, log: log})
		},
	}
	addMemberFlags(cmd, &cfg)
	f := cmd.Flags()
	f.Int("nodes", 25, "nodes to start")
	f.String("data", "", "directory that keeps the broker's records over restarts")
	f.String("kafka-listen", devKafkaListen, "HOST:PORT of the embedded broker, on a loopback address")
	_ = f.Set("log-level", "warn")
	f.Lookup("log-level").DefValue = "warn"
	f.Lookup("log-level").Changed = false
	return prepare(cmd)
}

type devOptions struct {
	listen, data string
	pprof        string
	nodes        int
	log          *zap.Logger
}

func dev(ctx context.Context, g *Globals, cfg member.Config, o devOptions) (err error) {
	broker, err := kafka.StartEmbedded(kafka.EmbeddedConfig{Listen: o.listen, DataDir: o.data, Log: o.log.Named("broker")})
	if err != nil {
		return cannot(err)
	}
	defer func() {
		if e := broker.Close(); e != nil && err == nil {
			err = &ExitError{Code: exitNotOK, Err: e}
		}
	}()
	cfg.Kafka.Bootstrap, cfg.AllowEmbedded = broker.Addr(), true
	stopPprof, err := startPprof(o.pprof, o.log)
	if err != nil {
		return cannot(err)
	}
	defer stopPprof()
	m, err := member.Start(ctx, cfg, o.log)
	if err != nil {
		if ctx.Err() != nil {
			return &ExitError{Code: exitInterrupted}
		}
		return cannot(err)
	}
	nodesCtx, stopNodes := context.WithCancel(ctx)
	nodes := startNodes(nodesCtx, o, cfg.NodeToken, m)
	sayHello(g, m, broker, o)
	err = wait(ctx, g, m)
	stopNodes()
	nodes.Wait()
	return err
}

// startNodes runs the demonstration fleet. Ending ctx ends it.
func startNodes(ctx context.Context, o devOptions, token string, m *member.Member) *sync.WaitGroup {
	var running sync.WaitGroup
	for i := range o.nodes {
		id, attributes := agent.Demo(i)
		log := o.log.Named("node")
		a, err := agent.New(agent.Config{
			Servers: []string{m.NodesAddr().String()}, NodeID: id, Attributes: attributes, Token: token,
			Concurrency: 16, AllowPrivate: true, Version: Version,
		}, log)
		if err != nil {
			log.Error("a node cannot start", zap.String("node", id), zap.Error(err))
			return &running
		}
		if i == 0 {
			for kind, why := range a.Missing() {
				log.Warn("the nodes do not offer a kind", zap.String("kind", kind), zap.String("why", why))
			}
		}
		running.Go(func() {
			if err := a.Run(ctx); err != nil && ctx.Err() == nil {
				log.Error("a node ended", zap.String("node", id), zap.Error(err))
			}
		})
	}
	return &running
}

func sayHello(g *Globals, m *member.Member, broker *kafka.Embedded, o devOptions) {
	kept := "in memory (--data DIR keeps it)"
	if o.data != "" {
		kept = "in " + o.data
	}
	api := "http://" + m.APIAddr().String()
	flag := ""
	if api != g.API {
		flag = " --api " + api
	}
	fmt.Fprintf(g.Out, `Roost is up, with %d nodes. Ctrl-C ends it.

  nodes connect to   %s
  HTTP API           %s   (OpenAPI: %s/openapi.json)
  Kafka protocol     %s   topics roost.jobs, roost.results, roost.dead, roost.progress; kept %s

Try, in another terminal:

  bin/roost run http %s/healthz --count 10%s
  bin/roost run tcp %s --country AU --count 3%s
  bin/roost nodes%s
  bin/roost status%s
`, o.nodes, m.NodesAddr(), api, api, broker.Addr(), kept, api, flag, m.NodesAddr(), flag, flag, flag)
}
