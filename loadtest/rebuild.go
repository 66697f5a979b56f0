//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/server"
	"github.com/roost-server/roost/loadtest/internal/topics"
	"github.com/roost-server/roost/loadtest/internal/wait"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

// stopTimeout is how long a server may take to stop in good order.
const stopTimeout = 30 * time.Second

// rebuildCall is a call of the rebuild command.
type rebuildCall struct {
	waiting workload.WaitingConfig
	program string
	extra   []string // arguments of the server
	timeout time.Duration
	settle  time.Duration
	keep    bool
	json    bool

	group    string
	progress io.Writer
}

func rebuildCommand() *cobra.Command {
	var r rebuildCall
	cmd := &cobra.Command{
		Use:   "rebuild --roost bin/roost [flags] [-- flags of roost serve]",
		Short: "Fill a server of its own with jobs that wait, kill it, and see how long a new one takes to have them again",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 0 && len(args) > 0 {
				return fmt.Errorf("unknown argument %q; flags of roost serve come after --", args[0])
			}
			r.extra = args
			return r.call(cmd.Context(), cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.program, "roost", "bin/roost", "the program to measure")
	f.StringSliceVar(&r.waiting.Brokers, "kafka", []string{"127.0.0.1:7492"}, "Kafka's bootstrap addresses")
	f.Int64Var(&r.waiting.Jobs, "jobs", 1_000_000, "jobs that wait")
	waitingFlags(cmd, &r.waiting)
	_ = f.MarkHidden("waiting-ttl")
	f.IntVar(&r.waiting.Size, "size", 128, "bytes of each job's args")
	f.DurationVar(&r.timeout, "timeout", 5*time.Minute, "for the server to be up, and to have all jobs")
	f.DurationVar(&r.settle, "settle", 5*time.Second, "how long to leave the server alone before its memory is read, and before it is killed")
	f.BoolVar(&r.keep, "keep", false, "leave the topics, to look at them")
	f.BoolVar(&r.json, "json", false, "print one line of JSON, and no progress")
	return cmd
}

func (r *rebuildCall) call(ctx context.Context, cmd *cobra.Command) (err error) {
	r.waiting.TTL = 30 * 24 * time.Hour // the topics go with the jobs
	if err := r.waiting.Validate(); err != nil {
		return fmt.Errorf("--jobs: %w", err)
	}
	if r.timeout <= 0 || r.settle < 0 {
		return fmt.Errorf("--timeout %v, --settle %v: positive durations are expected", r.timeout, r.settle)
	}
	r.progress = cmd.ErrOrStderr()
	if r.json {
		r.progress = io.Discard
	}
	r.waiting.TopicPrefix = "roost-rebuild-" + workload.NewRunID() + "."
	r.group = r.waiting.TopicPrefix + "group"
	if !r.keep {
		defer func() { err = errors.Join(err, r.clean(ctx)) }()
	}
	rep := report.Rebuild{Jobs: r.waiting.Jobs, Away: r.waiting.Nodes, Size: r.waiting.Size}
	if err := r.fill(ctx, &rep); err != nil {
		return err
	}
	if err := r.again(ctx, &rep); err != nil {
		return err
	}
	if err := show(cmd, r.json, &rep); err != nil {
		return err
	}
	if rep.Pending != rep.Jobs {
		return verdict(fmt.Sprintf("the new server has %d jobs, not %d", rep.Pending, rep.Jobs))
	}
	return nil
}

// clean removes what the server made.
func (r *rebuildCall) clean(ctx context.Context) error {
	var names []string
	for _, s := range []string{"jobs", "results", "dead", "state", "progress", "members"} {
		names = append(names, r.waiting.TopicPrefix+s)
	}
	return topics.Delete(context.WithoutCancel(ctx), r.waiting.Brokers, []string{r.group}, names...)
}

// start runs the server on topics and in a group of its own.
func (r *rebuildCall) start(ctx context.Context) (*server.Process, error) {
	args := []string{"serve", "--unsafe-embedded-broker", "--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0",
		"--name", "rebuild", "--log-level", "warn", "--topic-prefix", r.waiting.TopicPrefix, "--group", r.group, "--kafka", strings.Join(r.waiting.Brokers, ",")}
	return server.Start(ctx, r.program, append(args, r.extra...)...)
}

// fill starts a server, has it take the jobs, and kills it.
func (r *rebuildCall) fill(ctx context.Context, rep *report.Rebuild) error {
	began := time.Now()
	up, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	p, err := r.start(up)
	if err != nil {
		return err
	}
	defer p.Kill()
	t, err := r.until(ctx, p, began, 0)
	if err != nil {
		return err
	}
	rep.EmptyReadyS = t.ready.Seconds()
	if rep.RSSEmpty, err = r.memory(ctx, p); err != nil {
		return err
	}
	w, err := workload.NewWaiting(ctx, r.waiting)
	if err != nil {
		return err
	}
	defer w.Close()
	fmt.Fprintf(r.progress, "ready after %.2f s; submitting %d jobs\n", rep.EmptyReadyS, rep.Jobs)
	began = time.Now()
	if err := w.Submit(ctx); err != nil {
		return err
	}
	if t, err = r.until(ctx, p, began, rep.Jobs); err != nil {
		return err
	}
	rep.FillS = t.all.Seconds()
	rep.RSSFilled, err = r.memory(ctx, p)
	rep.BytesPerFilled = (rep.RSSFilled - rep.RSSEmpty) / rep.Jobs
	return err
}

// again starts the server that has to have the jobs.
func (r *rebuildCall) again(ctx context.Context, rep *report.Rebuild) error {
	fmt.Fprintf(r.progress, "taken in %.2f s; killed; starting again\n", rep.FillS)
	began := time.Now()
	up, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	p, err := r.start(up)
	if err != nil {
		return err
	}
	defer p.Kill()
	t, err := r.until(ctx, p, began, rep.Jobs)
	if err != nil {
		return err
	}
	rep.AssignedS, rep.ReadyS, rep.RebuiltS = t.assigned.Seconds(), t.ready.Seconds(), t.all.Seconds()
	cpu, err := proc.CPU(p.PID())
	if err != nil {
		return err
	}
	rep.RebuildCPUS = cpu.Seconds()
	if rep.RSSRebuilt, err = r.memory(ctx, p); err != nil {
		return err
	}
	rep.BytesPerRebuilt = (rep.RSSRebuilt - rep.RSSEmpty) / rep.Jobs
	if rep.RSSRebuiltPeak, err = proc.PeakRSS(p.PID()); err != nil {
		return err
	}
	// It may be more than there should be, and become so late.
	if rep.Pending, _, err = p.Pending(ctx); err != nil {
		return err
	}
	stop, end := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer end()
	return p.Stop(stop)
}

// times are since the start of a process, or of a submission.
type times struct{ assigned, ready, all time.Duration }

// until waits until the server is ready, has partitions and holds so many jobs.
func (r *rebuildCall) until(ctx context.Context, p *server.Process, began time.Time, jobs int64) (t times, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	pending, shown := int64(0), time.Now()
	for {
		if err := p.Ended(); err != nil {
			return t, err
		}
		if t.ready == 0 && p.Ready(ctx) {
			t.ready = time.Since(began)
		}
		n, partitions, err := p.Pending(ctx)
		if err == nil && partitions > 0 {
			pending = n
			if t.assigned == 0 {
				t.assigned = time.Since(began)
			}
			if n >= jobs && t.all == 0 {
				t.all = time.Since(began)
			}
		}
		if t.ready > 0 && t.all > 0 {
			return t, nil
		}
		if time.Since(shown) >= time.Second {
			shown = time.Now()
			fmt.Fprintf(r.progress, "%3.0f s  %d jobs on %d partitions, ready: %v\n", time.Since(began).Seconds(), n, partitions, t.ready > 0)
		}
		if !wait.Pause(ctx, 20*time.Millisecond) {
			return t, fmt.Errorf("the server has %d of %d jobs, ready: %v, after %v; if it holds back, raise its --max-pending (after --)",
				pending, jobs, t.ready > 0, time.Since(began).Round(time.Second))
		}
	}
}

// memory reads resident memory once the server has settled.
func (r *rebuildCall) memory(ctx context.Context, p *server.Process) (int64, error) {
	var readings []int64
	for range 10 {
		if !wait.Pause(ctx, r.settle/10) {
			return 0, ctx.Err()
		}
		if err := p.Ended(); err != nil {
			return 0, err
		}
		n, err := proc.RSS(p.PID())
		if err != nil {
			return 0, err
		}
		readings = append(readings, n)
	}
	return proc.Steady(readings), nil
}
