//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

// ackGrace is how long the last RESULT_ACKs may lag behind the results' records.
const ackGrace = time.Second

func jobsCommand() *cobra.Command {
	var c common
	var w workload.Config
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "Put jobs on Kafka for simulated nodes: throughput, latency, CPU, losses",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return jobs(cmd.Context(), cmd, &c, w) },
	}
	c.flags(cmd, 2000)
	f := cmd.Flags()
	f.StringSliceVar(&w.Brokers, "kafka", []string{"127.0.0.1:7492"}, "Kafka's bootstrap addresses")
	f.StringVar(&w.TopicPrefix, "topic-prefix", "roost.", "of the topics jobs and results")
	f.IntVar(&w.Window, "window", 1000, "jobs outstanding; without --rate")
	f.Float64Var(&w.Rate, "rate", 0, "jobs a second, whatever the server's pace; latency counts from when a job was due")
	f.Int64Var(&w.Jobs, "jobs", 0, "stop after so many jobs instead of --duration")
	f.DurationVar(&w.Duration, "duration", 10*time.Second, "how long to produce jobs")
	f.DurationVar(&w.Warmup, "warmup", time.Second, "the start that rates, latencies and CPU leave out")
	f.DurationVar(&w.Drain, "drain", 30*time.Second, "time without any new outcome after which open jobs are lost")
	f.IntVar(&w.Size, "size", 128, "bytes of each job's args")
	cmd.MarkFlagsMutuallyExclusive("jobs", "duration")
	cmd.MarkFlagsMutuallyExclusive("rate", "window")
	return cmd
}

func jobs(ctx context.Context, cmd *cobra.Command, c *common, w workload.Config) error {
	if err := c.prepare(ctx, cmd); err != nil {
		return err
	}
	for i := range c.cfg.Nodes {
		w.NodeIDs = append(w.NodeIDs, c.cfg.ID(i))
	}
	if err := w.Validate(); err != nil {
		return err
	}
	f, ok, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer f.Stop()
	rep := report.Jobs{Window: w.Window, Rate: w.Rate, Size: w.Size}
	s := f.Stats()
	if !ok {
		rep.Nodes = c.nodes(ctx, &s)
		if err := show(cmd, c.json, &rep); err != nil {
			return err
		}
		return verdict(c.notAll(&s))
	}
	rep.Nodes = c.nodes(ctx, &s) // memory before there are jobs
	idle := rep.Nodes.SimulatorBytes

	c.measure(&w, f)
	fig, err := workload.Run(ctx, w)
	if err != nil {
		return err
	}
	for end := time.Now().Add(ackGrace); f.Stats().Unacked > 0 && time.Now().Before(end); {
		pause(context.Background(), 20*time.Millisecond)
	}
	s = f.Stats()
	rep.Nodes = c.nodes(ctx, &s)
	rep.Nodes.SimulatorBytes = idle
	fill(&rep, fig, &s, c.serverPID > 0)
	if err := show(cmd, c.json, &rep); err != nil {
		return err
	}
	return verdict(c.notAll(&s), count(fig.Lost, "jobs have no outcome"), count(fig.Duplicates, "outcomes came twice"),
		count(fig.NotOK, "outcomes are not ok"), count(fig.Corrupt, "outputs are not the job's args"),
		count(fig.Unreadable, "result records cannot be read"), count(fig.ProduceFailed, "jobs could not be produced: "+fig.LastError))
}

func count(n int64, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, what)
}

// measure connects the load with what it reads while it runs.
func (c *common) measure(w *workload.Config, f *fleet.Fleet) {
	if c.serverPID > 0 {
		w.ServerCPU = func() (time.Duration, error) { return proc.CPU(c.serverPID) }
	}
	w.SelfCPU = proc.SelfCPU
	w.NodeCPU = func() time.Duration { return f.Stats().LoopCPU }
	w.Progress = func(p workload.Progress) {
		fmt.Fprintf(c.progress, "%3.0f s  %.0f jobs/s  %d produced, %d with outcome, %d duplicates  %s\n",
			p.Elapsed.Seconds(), p.JobsPerS, p.Produced, p.Counts.Outcomes, p.Counts.Duplicates, p.Counts.LastError)
	}
}

// fill turns what was measured into the report.
func fill(rep *report.Jobs, f *workload.Figures, s *fleet.Stats, serverKnown bool) {
	us := func(d time.Duration) float64 {
		if f.MeasuredJobs == 0 {
			return 0
		}
		return float64(d.Nanoseconds()) / 1e3 / float64(f.MeasuredJobs)
	}
	rep.Run, rep.Jobs, rep.MeasuredJobs, rep.MeasuredS = f.Run, f.Produced, f.MeasuredJobs, f.MeasuredFor.Seconds()
	if rep.MeasuredS > 0 {
		rep.JobsPerS = float64(f.MeasuredJobs) / rep.MeasuredS
	}
	rep.P50Ms = float64(f.Latency.ValueAtPercentile(50)) / 1e3
	rep.P99Ms = float64(f.Latency.ValueAtPercentile(99)) / 1e3
	rep.MaxMs = float64(f.Latency.Max()) / 1e3
	if serverKnown && f.MeasuredJobs > 0 {
		cpu := us(f.ServerCPU)
		rep.ServerCPUUs = &cpu
	}
	rep.SimulatorCPUUs, rep.NodeCPUUs = us(f.SelfCPU), us(f.NodeCPU)
	rep.Lost, rep.Duplicates, rep.NotOK, rep.Corrupt = f.Lost, f.Duplicates, f.NotOK, f.Corrupt
	rep.Unreadable, rep.ProduceFailed, rep.Outcomes, rep.LastError = f.Unreadable, f.ProduceFailed, f.ByOutcome, f.LastError
	rep.NodeJobs, rep.NodeAcks, rep.NodeUnacked = s.Jobs, s.Acks, s.Unacked
}

// show writes a report in the form that was asked for.
func show(cmd *cobra.Command, asJSON bool, rep interface{ Table(io.Writer) error }) error {
	if asJSON {
		return report.JSON(cmd.OutOrStdout(), rep)
	}
	return rep.Table(cmd.OutOrStdout())
}
