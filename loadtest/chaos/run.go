//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// run is "chaos run".
func run(ctx context.Context, o *options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "roost-chaos-")
	if err != nil {
		return err
	}
	r := &runner{
		opt: o, dir: dir, out: out, started: time.Now(), launcher: process.NewLauncher(dir),
		topics: checker.NewTopics("roost."), tracker: newTracker(), counts: map[string]int{},
	}
	fmt.Fprintf(out, "seed %d, %d faults, %s broker, %d members and one more at times, %d nodes, %d records a second; logs in %s\n",
		o.Seed, o.faults, o.Kafka, o.members, o.nodes, o.Rate, dir)
	rep, err := r.whole(ctx)
	r.tearDown()
	keep := o.Keep
	if err == nil {
		err = r.conclude(rep)
		keep = keep || err != nil
	} else {
		keep = keep || ctx.Err() == nil
	}
	if keep {
		fmt.Fprintf(os.Stderr, "chaos: seed %d; logs and data are kept in %s\n", o.Seed, dir)
	} else if e := os.RemoveAll(dir); e != nil {
		err = errors.Join(err, e)
	}
	return err
}

// whole is the run from the first process to the check.
func (r *runner) whole(ctx context.Context) (*checker.Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer r.wg.Wait()
	defer cancel()
	if err := r.setUp(ctx); err != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	r.say("all is up")
	r.wg.Go(func() { r.report(ctx) })
	wait.Pause(ctx, calm)
	r.attack(ctx)
	wait.Pause(ctx, calm)
	r.say("no more faults: all heals")
	r.heal(ctx)
	if err := r.submitter.Finish(ctx); err != nil {
		return nil, fmt.Errorf("submitter: %w", err)
	}
	r.settle(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r.progress()
	r.say("stopping the members")
	for _, m := range append(r.members, r.extra) {
		m.Stop(true)
	}
	for _, f := range r.fleets {
		f.stop()
	}
	if err := r.watch.Stop(); err != nil {
		return nil, fmt.Errorf("log of watermarks: %w", err)
	}
	r.panics()
	r.say("checking")
	cfg := checkConfig([]string{r.broker.address()}, r.dir)
	cfg.Group = "roost"
	rep, err := checker.Check(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	r.broker.stop()
	return rep, errors.Join(r.errs...)
}

// heal brings everything back that is not there.
func (r *runner) heal(ctx context.Context) {
	r.broker.proxy.Heal()
	for _, m := range r.members {
		limit, cancel := context.WithTimeout(ctx, time.Minute)
		if !m.AwaitUp(limit) && ctx.Err() == nil {
			r.blame("member that does not come back", "member "+m.Name+" does not serve a minute after the last fault; see "+r.dir)
		}
		cancel()
	}
}

const (
	// calm is how long jobs flow before the first fault and after the last.
	calm = 2 * time.Second
	// settleLimit is how long open jobs have after the last fault: the longest ttl of the
	// mix, and what it takes to notice.
	settleLimit = 90 * time.Second
	markLimit   = 15 * time.Second
)

// settle waits until every assignment has its outcome, and every partition its last
// watermark. What is not there in time, the checker will miss.
func (r *runner) settle(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	few := false
	for {
		_, _, open := r.tracker.counts()
		if open == 0 {
			break
		}
		if open <= 3 && !few {
			few = true
			r.say("%d assignments are open: of %v", open, r.tracker.some(open))
		}
		if !wait.Pause(limit, 50*time.Millisecond) {
			r.say("%d assignments are open after %v, such as those of %v", open, settleLimit, r.tracker.some(5))
			break
		}
	}
	r.awaitMarks(ctx)
}

func (r *runner) awaitMarks(ctx context.Context) {
	if r.watch.Marks() == 0 {
		wait.Pause(ctx, 2*time.Second) // there is no such topic, or it is not written
		return
	}
	ends, err := checker.EndOffsets(ctx, []string{r.broker.address()}, r.topics.Jobs)
	if !r.check(err) {
		return
	}
	limit, cancel := context.WithTimeout(ctx, markLimit)
	defer cancel()
	for p, end := range ends {
		for {
			at, _ := r.watch.Watermark(int32(p))
			if at >= end {
				break
			}
			if !wait.Pause(limit, 50*time.Millisecond) {
				r.say("partition %d ends at %d, and its watermark is %d after %v", p, end, at, markLimit)
				return
			}
		}
	}
}

// verdict is the last line of the output.
type verdict struct {
	*checker.Report
	Faults      int            `json:"faults"`
	FaultCounts map[string]int `json:"fault_counts"`
	Exits       int            `json:"exits"` // members that ended by themselves, and were started again
	Seed        uint64         `json:"seed"`
	Kafka       string         `json:"kafka"`
	Seconds     float64        `json:"seconds"`
}

// conclude prints what came of it.
func (r *runner) conclude(rep *checker.Report) error {
	for _, b := range r.blames {
		rep.Blame(b[0], b[1])
	}
	fmt.Fprintln(r.out)
	w := tabwriter.NewWriter(r.out, 0, 8, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintf(w, "%d\t%s\n", r.counts[name], name)
	}
	if n := r.broker.proxy.Mended(); n > 0 {
		fmt.Fprintf(w, "%d\t(group members that the embedded broker did not give up, and were made to leave)\n", n)
	}
	if n := r.exits.Load(); n > 0 {
		fmt.Fprintf(w, "%d\t(members that ended by themselves, and were started again)\n", n)
	}
	w.Flush()
	fmt.Fprintln(r.out)
	rep.Print(r.out)
	line, err := json.Marshal(&verdict{
		Report: rep, Faults: int(r.injected.Load()), FaultCounts: r.counts, Exits: int(r.exits.Load()),
		Seed: r.opt.Seed, Kafka: r.opt.Kafka, Seconds: time.Since(r.started).Round(100 * time.Millisecond).Seconds(),
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "%s\n", line)
	if rep.Sound() {
		return nil
	}
	return errors.Join(errBad, os.WriteFile(filepath.Join(r.dir, findingsFile), []byte(strings.Join(rep.All, "\n")+"\n"), 0o600))
}
