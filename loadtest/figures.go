//go:build linux

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

// measure connects the load with what it reads while it runs.
func (j *jobsCall) measure(f *fleet.Fleet) {
	if pid := j.serverPID; pid > 0 {
		j.load.ServerCPU = func() (time.Duration, error) { return proc.CPU(pid) }
	}
	j.load.SelfCPU = proc.SelfCPU
	j.load.NodeCPU = fleetCPU(f)
	j.load.Progress = shows(j.progress, "jobs")
}

// shows returns a function that writes a line of progress.
func shows(w io.Writer, what string) func(workload.Progress) {
	return func(p workload.Progress) {
		fmt.Fprintf(w, "%3.0f s  %.0f %s/s  %d produced, %d with outcome, %d duplicates  %s\n",
			p.Elapsed.Seconds(), p.JobsPerS, what, p.Produced, p.Counts.Outcomes, p.Counts.Duplicates, p.Counts.LastError)
	}
}

// fill turns what was measured into the report.
func fill(rep *report.Jobs, f *workload.Figures, serverKnown bool) {
	rep.Run, rep.Jobs, rep.MeasuredJobs, rep.MeasuredS = f.Run, f.Produced, f.MeasuredJobs, f.MeasuredFor.Seconds()
	rep.JobsPerS = perSecond(f)
	whole := latency(f.Latency)
	rep.P50Ms, rep.P99Ms, rep.P999Ms, rep.MaxMs = whole.P50, whole.P99, whole.P999, whole.Max
	rep.Append, rep.Deliver, rep.Commit = latency(f.Append), latency(f.Deliver), latency(f.Commit)
	rep.ServerCPUUs = serverCPU(f, serverKnown)
	rep.SimulatorCPUUs, rep.NodeCPUUs = eachUs(f, f.SelfCPU), eachUs(f, f.NodeCPU)
	rep.Lost, rep.Duplicates, rep.NotOK, rep.Corrupt = f.Lost, f.Duplicates, f.NotOK, f.Corrupt
	rep.Unreadable, rep.ProduceFailed, rep.Outcomes, rep.LastError = f.Unreadable, f.ProduceFailed, f.ByOutcome, f.LastError
}

// eachUs is a duration shared among the measured jobs, in microseconds.
func eachUs(f *workload.Figures, d time.Duration) float64 {
	if f.MeasuredJobs == 0 {
		return 0
	}
	return float64(d.Nanoseconds()) / 1e3 / float64(f.MeasuredJobs)
}

func serverCPU(f *workload.Figures, known bool) *float64 {
	if !known || f.MeasuredJobs == 0 {
		return nil
	}
	cpu := eachUs(f, f.ServerCPU)
	return &cpu
}

func perSecond(f *workload.Figures) float64 {
	if f.MeasuredFor <= 0 {
		return 0
	}
	return float64(f.MeasuredJobs) / f.MeasuredFor.Seconds()
}

// latency reads a histogram of microseconds.
func latency(h *hdrhistogram.Histogram) report.Latency {
	at := func(p float64) float64 { return float64(h.ValueAtPercentile(p)) / 1e3 }
	return report.Latency{P50: at(50), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1e3}
}

// show writes a report in the form that was asked for.
func show(cmd *cobra.Command, asJSON bool, rep interface{ Table(io.Writer) error }) error {
	if asJSON {
		return report.JSON(cmd.OutOrStdout(), rep)
	}
	return rep.Table(cmd.OutOrStdout())
}
