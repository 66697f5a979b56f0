//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/machine"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/scenario"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// runCall is a call of the run command.
type runCall struct {
	placement  placement
	output     output
	servers    []string
	pids       []string
	kafka      []string
	prefix     string
	nodes      int
	seed       uint64
	set        []string
	credential string
	spec       nodes.Spec
}

func runCommand() *cobra.Command {
	var r runCall
	cmd := &cobra.Command{
		Use:   "run SCENARIO",
		Short: "Run a scenario: a built-in one by its name, or a file",
		Long: `Run a scenario: a built-in one by its name, or a file. "loadtest scenarios" lists them,
and docs/LOADTEST.md describes the format. Ctrl-C ends a run early; it is accounted all
the same.`,
		Example: `  loadtest run hold
  loadtest run jobs --nodes 2000 --set open.jobs.rate=20000 --server-pid "$(pgrep -f 'roost serve')"
  loadtest run mine.yaml --set steady.duration=1h --out soak`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return r.call(cmd.Context(), cmd, args[0]) },
	}
	f := cmd.Flags()
	f.IntVar(&r.nodes, "nodes", 0, "how many nodes, instead of the scenario's")
	f.Uint64Var(&r.seed, "seed", 0, "of all that is random, instead of the scenario's")
	f.StringArrayVar(&r.set, "set", nil, "KEY=VALUE changes the scenario: seed=3, PHASE.duration=1m, PHASE.jobs.rate=500, or jobs.rate=500 in all phases with jobs")
	f.StringSliceVar(&r.servers, "server", []string{"127.0.0.1:7400"}, "address that nodes connect to; several are used in turn")
	f.StringSliceVar(&r.kafka, "kafka", []string{"127.0.0.1:7492"}, "Kafka's bootstrap addresses")
	f.StringVar(&r.prefix, "topic-prefix", "roost.", "of the topics jobs and results")
	f.StringSliceVar(&r.pids, "server-pid", nil, "process to measure, on this machine, PID or NAME=PID; may be given more than once")
	f.StringVar(&r.spec.NodePrefix, "node-prefix", nodes.DefaultPrefix, "of node ids, before the number")
	f.StringVar(&r.credential, "credential", "", "bearer credential of every node")
	f.Uint32Var(&r.spec.Credit, "credit", fleet.DefaultCredit, "jobs at once that a node asks for")
	f.IntVar(&r.spec.InFlight, "in-flight", fleet.DefaultInFlight, "nodes that connect at the same time")
	f.DurationVar(&r.spec.OpenTimeout, "open-timeout", fleet.DefaultOpenTimeout, "for one connection, until WELCOME")
	r.placement.flags(cmd)
	r.output.flags(cmd)
	return cmd
}

// load reads the scenario with what the flags set.
func (r *runCall) load(cmd *cobra.Command, name string) (*scenario.Scenario, error) {
	set := slices.Clone(r.set)
	for _, key := range []string{"nodes", "seed"} {
		if f := cmd.Flags().Lookup(key); f.Changed {
			set = append(set, key+"="+f.Value.String())
		}
	}
	return scenario.Load(name, set...)
}

func (r *runCall) call(ctx context.Context, cmd *cobra.Command, name string) error {
	sc, err := r.load(cmd, name)
	if err != nil {
		return err
	}
	env, err := r.env(ctx, sc)
	if err != nil {
		return err
	}
	progress, err := r.output.start(cmd, sc.Nodes)
	if err != nil {
		return err
	}
	tl, err := r.play(ctx, sc, env, progress)
	if tl == nil {
		r.output.view.Close()
		return err
	}
	return errors.Join(r.output.finish(cmd, tl), err)
}

// env is what the scenario runs on, but for its nodes.
func (r *runCall) env(ctx context.Context, sc *scenario.Scenario) (scenario.Env, error) {
	env := scenario.Env{TopicPrefix: r.prefix}
	if sc.HasJobs() {
		env.Brokers = r.kafka
	}
	for _, s := range r.pids {
		srv, err := measured(s, len(r.pids))
		if err != nil {
			return env, err
		}
		env.Servers = append(env.Servers, srv)
	}
	r.spec.Nodes, r.spec.Of, r.spec.Seed, r.spec.Credential, r.spec.Stamp = sc.Nodes, sc.Nodes, sc.Seed, []byte(r.credential), true
	for _, s := range r.servers {
		a, err := reach(ctx, s)
		if err != nil {
			return env, err
		}
		r.spec.Servers = append(r.spec.Servers, a)
	}
	env.Spec = r.spec
	return env, nil
}

// measured is the server of a --server-pid, of so many.
func measured(s string, of int) (scenario.Server, error) {
	name, pid, named := strings.Cut(s, "=")
	if !named {
		name, pid = "server", s
		if of > 1 {
			name = "server " + s
		}
	}
	n, err := strconv.Atoi(pid)
	if err != nil {
		return scenario.Server{}, fmt.Errorf("--server-pid %s: PID or NAME=PID is expected", s)
	}
	return scenario.Server{Name: name, PID: n}, proc.Check(n)
}

// play makes the nodes, runs the scenario, and ends the nodes.
func (r *runCall) play(ctx context.Context, sc *scenario.Scenario, env scenario.Env, progress io.Writer) (tl *timeline.Timeline, err error) {
	pid := 0
	if len(env.Servers) > 0 {
		pid = env.Servers[0].PID
	}
	env.Meta = timeline.Meta{Command: os.Args, Machine: machine.Describe(), Versions: machine.Versions(ctx, pid, env.Brokers)}
	if env.Group, env.Meta.Workers, err = r.placement.open(ctx, env.Spec); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, env.Group.Stop()) }()
	if view := r.output.view; view != nil {
		env.OnPhase, env.OnSample = view.Phase, view.Sample
	}
	fmt.Fprintf(progress, "scenario %s, %d nodes, seed %d\n", sc.Name, sc.Nodes, sc.Seed)
	return scenario.Run(ctx, sc, env)
}

// scenariosCommand lists what run can run by name.
func scenariosCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "scenarios [NAME]",
		Short: "List the built-in scenarios, or show one",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				sc, err := scenario.Load(args[0])
				if err == nil {
					_, err = fmt.Fprint(cmd.OutOrStdout(), sc.YAML)
				}
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, name := range scenario.Names() {
				sc, err := scenario.Load(name)
				if err != nil {
					return err
				}
				var most time.Duration
				for i := range sc.Phases {
					if sc.Phases[i].Until == "" {
						most += sc.Phases[i].Duration
					}
				}
				fmt.Fprintf(w, "%s\t%d nodes\t%v\t%s\n", name, sc.Nodes, most, sc.Description)
			}
			return w.Flush()
		},
	}
}
