//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/chaos/submit"
	"github.com/roost-server/roost/loadtest/internal/suite"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// runner is one run.
type runner struct {
	opt      *options
	dir      string
	started  time.Time
	launcher *process.Launcher
	topics   checker.Topics

	broker     *kafka
	brokerBusy target
	members    []*member // those that are to be there
	extra      *member   // the one that joins and leaves
	fleets     []*fleet
	tracker    *tracker
	submitter  *submit.Submitter
	watch      *checker.Watch

	wg       sync.WaitGroup // goroutines that watch processes
	faulting sync.WaitGroup
	injected atomic.Int64
	exits    atomic.Int64   // members that ended by themselves
	counts   map[string]int // faults by sort; of attack

	mu     sync.Mutex
	out    io.Writer
	blames [][2]string
	errs   []error
}

// say prints a line about what goes on.
func (r *runner) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%6.1fs  %s\n", time.Since(r.started).Seconds(), fmt.Sprintf(format, args...))
}

// blame notes something wrong that the checker cannot see.
func (r *runner) blame(kind, detail string) {
	r.say("WRONG: %s: %s", kind, detail)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blames = append(r.blames, [2]string{kind, detail})
}

// check notes an error that makes the run worthless; it reports whether there is none.
func (r *runner) check(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return err == nil
	}
	r.say("ERROR: %v", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
	return false
}

func (r *runner) nodeAddrs() []string {
	var addrs []string
	for _, m := range append(r.members[:len(r.members):len(r.members)], r.extra) {
		addrs = append(addrs, m.proxy.Addr())
	}
	return addrs
}

// set up starts everything in its order, and waits until it is there.
func (r *runner) setUp(ctx context.Context) error {
	o := r.opt
	for i := range o.members + 1 {
		m, err := newMember(r, fmt.Sprintf("m%d", i+1))
		if err != nil {
			return err
		}
		if i < o.members {
			r.members = append(r.members, m)
		} else {
			r.extra = m
		}
	}
	var err error
	if r.broker, err = newKafka(ctx, r); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := r.broker.start(limit); err != nil {
		return err
	}
	if err := suite.StartAll(ctx, limit, r.members, r.dir); err != nil {
		return err
	}
	if err := r.startFleets(limit); err != nil {
		return err
	}
	return r.startLoad(ctx)
}

func (r *runner) startFleets(ctx context.Context) error {
	const processes = 2
	for i := range processes {
		f := &fleet{run: r, prefix: string(rune('a'+i)) + "-", count: r.opt.nodes / processes}
		r.fleets = append(r.fleets, f)
		if err := f.start(ctx); err != nil {
			return err
		}
	}
	want := int64(r.opt.nodes/processes*processes) * int64(len(r.members)) * 9 / 10 // flaky ones are not always there
	for {
		var have int64
		for _, f := range r.fleets {
			have += f.stats().Sessions
		}
		if have >= want {
			return nil
		}
		if !wait.Pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("%d of %d sessions of nodes are open: %w", have, want, ctx.Err())
		}
	}
}

func (r *runner) startLoad(ctx context.Context) error {
	var ids []string
	for _, f := range r.fleets {
		ids = append(ids, f.ids()...)
	}
	var err error
	if r.watch, err = checker.StartWatch(ctx, checker.WatchConfig{
		Brokers: []string{r.broker.address()}, Topics: r.topics, Path: filepath.Join(r.dir, marksFile), Outcome: r.tracker.outcome,
	}); err != nil {
		return err
	}
	r.submitter, err = submit.Start(ctx, submit.Config{
		Brokers: []string{r.broker.address()}, Topic: r.topics.Jobs, Partitions: int32(r.opt.Partitions), Rate: r.opt.Rate,
		Seed: r.opt.Seed, Nodes: ids, Path: filepath.Join(r.dir, submittedFile), Acked: r.tracker.submitted,
	})
	return err
}

// report says every few seconds what goes on.
func (r *runner) report(ctx context.Context) {
	for wait.Pause(ctx, 5*time.Second) {
		r.progress()
	}
}

func (r *runner) progress() {
	var who []string
	for _, m := range append(r.members[:len(r.members):len(r.members)], r.extra) {
		who = append(who, m.Status())
	}
	var held, sessions int64
	for _, f := range r.fleets {
		s := f.stats()
		held += s.Held
		sessions += s.Sessions
	}
	submitted, acked, failed := r.submitter.Counts()
	assignments, outcomes, open := r.tracker.counts()
	r.say("faults %d/%d, records %d (acked %d, unsure %d), outcomes %d/%d, open %d, watermarks %d; %s; sessions %d, held %d",
		r.injected.Load(), r.opt.faults, submitted, acked, failed, outcomes, assignments, open, r.watch.Marks(), strings.Join(who, ", "), sessions, held)
}

// tearDown ends what is there, in whatever state it is, and waits.
func (r *runner) tearDown() {
	r.launcher.Close()
	r.wg.Wait()
	for _, m := range r.members {
		m.proxy.Close()
	}
	if r.extra != nil {
		r.extra.proxy.Close()
	}
	if r.broker != nil && r.broker.proxy != nil {
		r.broker.proxy.Close()
	}
}

// panics looks through the members' logs for what no log of a sound one has.
func (r *runner) panics() {
	logs, _ := filepath.Glob(filepath.Join(r.dir, "m[0-9]*.log")) // the pattern is sound
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if !r.check(err) {
			continue
		}
		for _, word := range []string{"panic: ", "fatal error: ", "DATA RACE", "SIGSEGV"} {
			if i := strings.Index(string(b), word); i >= 0 {
				end := min(len(b), i+200)
				r.blame("panic", path+": "+strings.ReplaceAll(string(b[i:end]), "\n", " | "))
				break
			}
		}
	}
}
