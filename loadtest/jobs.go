//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/relay"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/wait"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

// ackGrace is how long the last RESULT_ACKs may lag behind the results' records.
const ackGrace = time.Second

// jobsCall is a call of the jobs command.
type jobsCall struct {
	common
	load      workload.Config
	waiting   workload.WaitingConfig
	idle      time.Duration
	relay     relay.Config
	withRelay bool
	sweep     []int
}

func jobsCommand() *cobra.Command {
	var j jobsCall
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "Put jobs on Kafka for simulated nodes: throughput, latency, CPU, losses",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return j.call(cmd.Context(), cmd) },
	}
	j.flags(cmd, 2000)
	loadFlags(cmd, &j.load, 1000)
	f := cmd.Flags()
	f.StringVar(&j.load.TopicPrefix, "topic-prefix", "roost.", "of the topics jobs and results")
	f.Int64Var(&j.waiting.Jobs, "waiting", 0, "measure first without and then beside so many jobs for nodes that are away")
	waitingFlags(cmd, &j.waiting)
	f.DurationVar(&j.idle, "idle", 5*time.Second, "with --waiting: how long to watch the server while it has nothing else")
	f.BoolVar(&j.withRelay, "relay", false, "then measure the bare relay with the same load, to compare with")
	relayFlags(cmd, &j.relay)
	f.IntSliceVar(&j.sweep, "nodes-sweep", nil, "measure with each of these numbers of nodes, instead of --nodes")
	for _, pair := range [][2]string{
		{"jobs", "duration"}, {"rate", "window"}, {"nodes", "nodes-sweep"}, {"waiting", "nodes-sweep"}, {"relay", "nodes-sweep"},
	} {
		cmd.MarkFlagsMutuallyExclusive(pair[0], pair[1])
	}
	return cmd
}

// loadFlags are the flags of whatever puts records on Kafka and reads them back.
func loadFlags(cmd *cobra.Command, w *workload.Config, window int) {
	f := cmd.Flags()
	f.StringSliceVar(&w.Brokers, "kafka", []string{"127.0.0.1:7492"}, "Kafka's bootstrap addresses")
	f.IntVar(&w.Window, "window", window, "jobs outstanding; without --rate")
	f.Float64Var(&w.Rate, "rate", 0, "jobs a second, whatever the server's pace; latency counts from when a job was due")
	f.Int64Var(&w.Jobs, "jobs", 0, "stop after so many jobs instead of --duration")
	f.DurationVar(&w.Duration, "duration", 10*time.Second, "how long to produce jobs")
	f.DurationVar(&w.Warmup, "warmup", time.Second, "the start that rates, latencies and CPU leave out")
	f.DurationVar(&w.Drain, "drain", 30*time.Second, "time without any new outcome after which open jobs are lost")
	f.IntVar(&w.Size, "size", 128, "bytes of each job's args")
}

// call measures with one number of nodes or several, and shows each.
func (j jobsCall) call(ctx context.Context, cmd *cobra.Command) error {
	j.cfg.Stamp = true
	if len(j.sweep) == 0 {
		rep, problems, err := j.run(ctx, cmd)
		if err != nil {
			return err
		}
		if err := show(cmd, j.json, rep); err != nil {
			return err
		}
		return verdict(problems...)
	}
	var reps []*report.Jobs
	var all []string
	for _, n := range j.sweep {
		one := j
		one.cfg.Nodes = n
		rep, problems, err := one.run(ctx, cmd)
		if err != nil {
			return err
		}
		for _, p := range problems {
			if p != "" {
				all = append(all, fmt.Sprintf("with %d nodes: %s", n, p))
			}
		}
		reps = append(reps, rep)
		if err := show(cmd, j.json, rep); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if !j.json {
		if err := report.Sweep(cmd.OutOrStdout(), reps); err != nil {
			return err
		}
	}
	return verdict(all...)
}

// validate refuses what cannot work before anything is connected.
func (j *jobsCall) validate() error {
	for i := range j.cfg.Nodes {
		j.load.NodeIDs = append(j.load.NodeIDs, j.cfg.ID(i))
	}
	if err := j.load.Validate(); err != nil {
		return err
	}
	if j.withRelay {
		if err := j.relay.Validate(); err != nil {
			return err
		}
	}
	if j.waiting.Jobs == 0 {
		return nil
	}
	j.waiting.Brokers, j.waiting.TopicPrefix = j.load.Brokers, j.load.TopicPrefix
	j.waiting.Size, j.waiting.Beside = j.load.Size, j.load.NodeIDs
	if j.idle <= 0 {
		return fmt.Errorf("--idle: %v; a positive duration is expected", j.idle)
	}
	if err := j.waiting.Validate(); err != nil {
		return fmt.Errorf("--waiting: %w", err)
	}
	return nil
}

// run connects the nodes, measures, and disconnects them. problems say where the
// server did not keep its word.
func (j jobsCall) run(ctx context.Context, cmd *cobra.Command) (rep *report.Jobs, problems []string, err error) {
	if err := j.prepare(ctx, cmd); err != nil {
		return nil, nil, err
	}
	if err := j.validate(); err != nil {
		return nil, nil, err
	}
	f, ok, err := j.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer f.Stop()
	rep = &report.Jobs{Window: j.load.Window, Rate: j.load.Rate, Size: j.load.Size}
	s := f.Stats()
	rep.Nodes = j.nodes(ctx, &s) // memory before there are jobs
	if !ok {
		return rep, []string{j.notAll(&s)}, nil
	}
	idle := rep.Nodes.SimulatorBytes
	j.measure(f)

	var w *waiting
	if j.waiting.Jobs > 0 {
		if w, err = j.wait(ctx); err != nil {
			return nil, nil, err
		}
	}
	earlier := f.Stats()
	fig, err := workload.Run(ctx, j.load)
	if w != nil {
		err = errors.Join(err, w.end(ctx, j.load.Drain))
	}
	if err != nil {
		return nil, nil, err
	}
	for end := time.Now().Add(ackGrace); f.Stats().Unacked > 0 && time.Now().Before(end); {
		wait.Pause(context.Background(), 20*time.Millisecond)
	}
	s = f.Stats()
	rep.Nodes = j.nodes(ctx, &s)
	rep.Nodes.SimulatorBytes = idle
	fill(rep, fig, j.serverPID > 0)
	rep.NodeJobs, rep.NodeAcks, rep.NodeUnacked = s.Jobs-earlier.Jobs, s.Acks-earlier.Acks, s.Unacked
	problems = append([]string{j.notAll(&s)}, wrong(fig)...)
	if w != nil {
		problems = append(problems, w.fill(rep)...)
	}
	if j.withRelay && ctx.Err() == nil {
		more, err := j.compare(ctx, rep)
		if err != nil {
			return nil, nil, err
		}
		problems = append(problems, more...)
	}
	return rep, problems, nil
}

// compare measures the relay as the jobs were measured.
func (j *jobsCall) compare(ctx context.Context, rep *report.Jobs) (problems []string, err error) {
	n, err := workload.Partitions(ctx, j.load.Brokers, j.load.TopicPrefix+"jobs")
	if err != nil {
		return nil, err
	}
	if rep.Relay, problems, err = runRelay(ctx, j.load, j.relay, n); err != nil {
		return nil, err
	}
	if rep.Relay.RecordsPerS > 0 {
		ratio := rep.JobsPerS / rep.Relay.RecordsPerS
		rep.RelayRatio = &ratio
	}
	return problems, nil
}

// wrong says what a server may not do.
func wrong(f *workload.Figures) []string {
	return []string{
		count(f.Lost, "jobs have no outcome"), count(f.Duplicates, "outcomes came twice"),
		count(f.NotOK, "outcomes are not ok"), count(f.Corrupt, "outputs are not the job's args"),
		count(f.Unreadable, "result records cannot be read"), count(f.ProduceFailed, "jobs could not be produced: "+f.LastError),
	}
}

func count(n int64, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, what)
}

// fleetCPU returns a reader of the nodes' processor time.
func fleetCPU(f *fleet.Fleet) func() time.Duration {
	return func() time.Duration { return f.Stats().LoopCPU }
}
