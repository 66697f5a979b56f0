package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/member"
)

// stopTimeout is how long an orderly stop may take before the rest is cut.
const stopTimeout = 20 * time.Second

func newServe(g *Globals) *cobra.Command {
	cfg := member.DefaultConfig()
	cmd := &cobra.Command{
		Use:   "serve --kafka HOST:PORT[,HOST:PORT…]",
		Short: "Run a member of a Roost cluster",
		Long: `Run a member of a Roost cluster.

The member takes job records from Kafka, hands them to the nodes that are connected
to it, and writes their outcomes to Kafka. It creates its topics when they are
missing. While Kafka is not there it waits, and says so.

Every flag may also stand in a YAML file (--config) under its name, or in the
environment: --node-token is ROOST_NODE_TOKEN. Flags win over the environment, which
wins over the file. Anything that librdkafka can be told, such as TLS or SASL, goes
into --kafka-set or into the file's map kafka-properties.`,
		Example: `  roost serve --kafka kafka1:9092,kafka2:9092 --nodes-listen 0.0.0.0:7400
  roost serve --kafka kafka1:9093 --kafka-set security.protocol=SASL_SSL \
      --kafka-set sasl.mechanism=SCRAM-SHA-512 --kafka-set sasl.username=roost
  roost serve --config /etc/roost/roost.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadSettings(cmd)
			if err != nil {
				return cannot(err)
			}
			if err := s.apply(&cfg); err != nil {
				return cannot(err)
			}
			cfg.Kafka.Bootstrap = s.k.String("kafka")
			cfg.AllowEmbedded = s.k.Bool("unsafe-embedded-broker")
			if cfg.Kafka.Bootstrap == "" {
				return cannot(fmt.Errorf("--kafka: missing; give the bootstrap servers of a Kafka cluster, such as kafka1:9092, or use \"roost dev\" to try Roost without one"))
			}
			return serve(cmd.Context(), g, s, cfg)
		},
	}
	addMemberFlags(cmd, &cfg)
	f := cmd.Flags()
	f.String("config", "", "YAML file with settings")
	f.String("kafka", "", "bootstrap servers, comma separated")
	f.StringArray("kafka-set", nil, "a setting of librdkafka as KEY=VALUE; may be given more than once")
	f.Bool("unsafe-embedded-broker", false, "accept the embedded broker of \"roost broker\": for tests and benchmarks only")
	_ = f.MarkHidden("unsafe-embedded-broker")
	return prepare(cmd)
}

func serve(ctx context.Context, g *Globals, s *settings, cfg member.Config) error {
	log, err := newLogger(s.k.String("log-level"), s.k.String("log-format"))
	if err != nil {
		return cannot(err)
	}
	stopPprof, err := startPprof(s.k.String("pprof-listen"), log)
	if err != nil {
		return cannot(err)
	}
	defer stopPprof()
	manager, err := newSystemd(log)
	if err != nil {
		return cannot(err)
	}
	defer manager.close()
	cfg.Progress = manager.status
	m, err := member.Start(ctx, cfg, log)
	if err != nil {
		if ctx.Err() != nil {
			return &ExitError{Code: exitInterrupted}
		}
		return cannot(err)
	}
	fmt.Fprintf(g.Out, "member %s serves: nodes %s, API http://%s, Kafka %s\n", cfg.Name, m.NodesAddr(), m.APIAddr(), cfg.Kafka.Bootstrap)
	manager.ready("serving", m.Alive)
	defer context.AfterFunc(ctx, func() { manager.stopping("draining and stopping") })()
	return wait(ctx, g, m)
}

// wait stops the member when ctx ends or the member gives up.
func wait(ctx context.Context, g *Globals, m *member.Member) error {
	var failure error
	select {
	case <-ctx.Done():
		drainFirst(context.WithoutCancel(ctx), g, m)
		fmt.Fprintln(g.Err, "stopping: closing sessions, recording outcomes, committing offsets")
	case err := <-m.Failed():
		failure = &ExitError{Code: exitNotOK, Err: err}
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := m.Stop(stop); err != nil && failure == nil {
		failure = &ExitError{Code: exitNotOK, Err: err}
	}
	return failure
}

// drainReport is how often a drain says how far it is.
const drainReport = 2 * time.Second

// drainFirst sends the nodes to other members before a stop, until they have gone or a
// second signal comes.
func drainFirst(ctx context.Context, g *Globals, m *member.Member) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var said time.Time
	err := m.Drain(ctx, func(nodes int) {
		if nodes > 0 && time.Since(said) > drainReport {
			said = time.Now()
			fmt.Fprintf(g.Err, "draining: %d nodes are still to go to other members; interrupt again to stop at once\n", nodes)
		}
	})
	if err != nil {
		fmt.Fprintln(g.Err, "draining ended early:", err)
	}
}
