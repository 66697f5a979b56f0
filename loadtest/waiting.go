//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/wait"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

const (
	// quiet is how long a server is left alone before it is watched: what its last
	// jobs have left to do is done by then.
	quiet = 2 * time.Second
	// cancelTimeout bounds the cancelling, which is done also after Ctrl-C.
	cancelTimeout = 5 * time.Minute
)

func waitingFlags(cmd *cobra.Command, w *workload.WaitingConfig) {
	f := cmd.Flags()
	f.IntVar(&w.Nodes, "away", 10_000, "nodes that the jobs that wait are for; they never connect")
	f.DurationVar(&w.TTL, "waiting-ttl", 30*time.Minute, "after which jobs that wait expire, if nobody cancels them")
}

// waiting are jobs for nodes that are away, beside a measurement.
type waiting struct {
	jobs     *workload.Waiting
	rep      report.Waiting
	problems []string
}

// wait measures without jobs that wait, has the server take them, and watches it idle.
// The caller ends it; after an error it has been ended.
func (j *jobsCall) wait(ctx context.Context) (w *waiting, err error) {
	w = &waiting{rep: report.Waiting{Jobs: j.waiting.Jobs, Away: j.waiting.Nodes}}
	fmt.Fprintln(j.progress, "without jobs that wait:")
	without, err := workload.Run(ctx, j.load)
	if err != nil {
		return nil, err
	}
	if without.Interrupted {
		return nil, errors.New("interrupted before there were jobs that wait")
	}
	for _, p := range wrong(without) {
		if p != "" {
			w.problems = append(w.problems, "without jobs that wait: "+p)
		}
	}
	w.rep.WithoutPerS, w.rep.WithoutCPUUs = perSecond(without), serverCPU(without, j.serverPID > 0)
	var before, after int64
	if w.rep.IdleCPUBefore, before, err = j.watchIdle(ctx); err != nil {
		return nil, err
	}
	if w.jobs, err = workload.NewWaiting(ctx, j.waiting); err != nil {
		return nil, err
	}
	if err = j.submit(ctx, w); err == nil {
		w.rep.IdleCPU, after, err = j.watchIdle(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.end(ctx, j.load.Drain))
	}
	if j.serverPID > 0 {
		each := (after - before) / j.waiting.Jobs
		w.rep.ServerBytes = &each
	}
	fmt.Fprintf(j.progress, "beside %d jobs that wait:\n", j.waiting.Jobs)
	return w, nil
}

// submit writes the jobs that wait, and behind them one job for each node: when these
// are done the server has taken all before.
func (j *jobsCall) submit(ctx context.Context, w *waiting) error {
	fmt.Fprintf(j.progress, "submitting %d jobs that wait\n", j.waiting.Jobs)
	began := time.Now()
	if err := w.jobs.Submit(ctx); err != nil {
		return err
	}
	w.rep.SubmitS = time.Since(began).Seconds()
	load := j.load
	load.Rate, load.Warmup, load.Jobs = 0, 0, int64(len(load.NodeIDs))
	behind, err := workload.Run(ctx, load)
	if err != nil {
		return err
	}
	w.rep.TakenS = w.rep.SubmitS + behind.MeasuredFor.Seconds()
	for _, p := range wrong(behind) {
		if p != "" {
			w.problems = append(w.problems, "behind jobs that wait: "+p)
		}
	}
	return nil
}

// watchIdle measures a server that has nothing to do: percent of one processor, nil
// when its process is unknown, and resident memory.
func (j *jobsCall) watchIdle(ctx context.Context) (cpu *float64, rss int64, err error) {
	if j.serverPID == 0 || !wait.Pause(ctx, quiet) {
		return nil, 0, nil
	}
	fmt.Fprintf(j.progress, "watching the idle server for %v\n", j.idle)
	before, err := proc.CPU(j.serverPID)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	var readings []int64
	for range 10 {
		wait.Pause(ctx, j.idle/10)
		if rss, err = proc.RSS(j.serverPID); err != nil {
			return nil, 0, err
		}
		readings = append(readings, rss)
	}
	after, err := proc.CPU(j.serverPID)
	if err != nil {
		return nil, 0, err
	}
	used := 100 * (after - before).Seconds() / time.Since(began).Seconds()
	return &used, proc.Steady(readings), nil
}

// end cancels the jobs that wait, also when ctx has ended.
func (w *waiting) end(ctx context.Context, patience time.Duration) error {
	defer w.jobs.Close()
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer stop()
	began := time.Now()
	c, err := w.jobs.Cancel(ctx, patience)
	if err != nil {
		return fmt.Errorf("the jobs that wait could not be cancelled; they expire by themselves: %w", err)
	}
	w.rep.CancelS = time.Since(began).Seconds()
	w.rep.Cancelled, w.rep.Open, w.rep.Duplicates, w.rep.Outcomes = c.Cancelled, c.Open, c.Duplicates, c.ByOutcome
	more := ""
	if c.ReadError != "" {
		more = ": " + c.ReadError
	}
	w.problems = append(w.problems, count(c.Submitted-c.Cancelled, fmt.Sprintf("jobs that waited are not cancelled, outcomes %v%s", c.ByOutcome, more)),
		count(c.Duplicates, "outcomes of jobs that waited came twice"))
	return nil
}

// fill completes the report of the jobs beside.
func (w *waiting) fill(rep *report.Jobs) (problems []string) {
	if w.rep.WithoutPerS > 0 {
		w.rep.Ratio = rep.JobsPerS / w.rep.WithoutPerS
	}
	rep.Waiting = &w.rep
	return w.problems
}
