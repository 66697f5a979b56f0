//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/chaos/submit"
	"github.com/roost-server/roost/loadtest/clustertest/netlab"
	"github.com/roost-server/roost/loadtest/internal/suite"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// stage is the cluster of one scenario.
type stage struct {
	*runner
	sc       *scenario
	dir      string
	launcher *process.Launcher
	topics   checker.Topics
	broker   string // bootstrap server
	members  []*member
	fleets   []*fleet
	entry    string // where all nodes connect; empty: each member is one
	load     *load
	watch    *checker.Watch
	submit   *submit.Submitter
	wires    []*netlab.Wire
	wg       sync.WaitGroup // goroutines that watch processes

	failing sync.Mutex
	result  *outcome
}

func newStage(r *runner, sc *scenario, dir string, o *outcome) *stage {
	return &stage{runner: r, sc: sc, dir: dir, topics: checker.NewTopics("roost."), load: newLoad(r.opt.Partitions), result: o}
}

// fail notes why the scenario failed.
func (s *stage) fail(format string, args ...any) {
	s.failing.Lock()
	defer s.failing.Unlock()
	s.result.Result = failed
	s.result.Why = append(s.result.Why, fmt.Sprintf(format, args...))
	s.say("FAILED: "+format, args...)
}

// show adds figures to the table; the same text is said.
func (s *stage) show(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.result.shown = append(s.result.shown, text)
	s.say("%s", text)
}

// figure is for the line of JSON.
func (s *stage) figure(name string, v float64) { s.result.Figures[name] = v }

const (
	upLimit   = 2 * time.Minute
	warmUp    = 3 * time.Second  // of jobs, before the baseline
	baseline  = 10 * time.Second // of jobs, before anything breaks
	aftermath = 8 * time.Second  // of jobs, when all is well again
	// settleLimit is how long open jobs have in the end: the longest ttl of the mix, and
	// what it takes to notice.
	settleLimit = 90 * time.Second
	markLimit   = 15 * time.Second
	// stuckAfter is after what time it is strange that a plain job is open.
	stuckAfter = 20 * time.Second
)

// whole is the scenario from the first process to the check.
func (s *stage) whole(ctx context.Context) (*checker.Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer cancel()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	s.launcher = process.NewLauncher(s.dir)
	if err := s.setUp(ctx); err != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	s.wg.Go(func() { s.report(ctx) })
	if !wait.Pause(ctx, warmUp+baseline) {
		return nil, ctx.Err()
	}
	judge, err := s.sc.act(ctx, s)
	if err != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	s.say("all heals")
	s.heal(ctx)
	wait.Pause(ctx, aftermath)
	if err := s.submit.Finish(ctx); err != nil {
		return nil, fmt.Errorf("submitter: %w", err)
	}
	s.settle(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.progress()
	judge()
	return s.end(ctx)
}

// end stops everything in order and checks.
func (s *stage) end(ctx context.Context) (*checker.Report, error) {
	var wg sync.WaitGroup
	for _, f := range s.fleets { // first, else members would wait for them to go elsewhere
		wg.Go(f.stop)
	}
	wg.Wait()
	for _, m := range s.members {
		wg.Go(func() { m.Stop(true) })
	}
	wg.Wait()
	if err := s.watch.Stop(); err != nil {
		return nil, fmt.Errorf("log of watermarks: %w", err)
	}
	s.panics()
	s.say("checking")
	runs, _ := filepath.Glob(filepath.Join(s.dir, "runs-*.log")) // the pattern is sound
	return checker.Check(ctx, checker.Config{
		Brokers: []string{s.broker}, Topics: s.topics, Group: "roost", Runs: runs,
		Submissions: filepath.Join(s.dir, submittedFile), Marks: filepath.Join(s.dir, marksFile), ClockSlack: s.sc.clockSlack,
	})
}

// Names of a stage's files.
const (
	submittedFile = "submitted.jsonl"
	marksFile     = "marks.jsonl"
)

func (s *stage) setUp(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	if err := s.startBroker(limit); err != nil {
		return err
	}
	if err := s.makeCertificates(limit); err != nil {
		return err
	}
	for i := range s.sc.size() {
		s.members = append(s.members, newMember(s, memberName(i)))
	}
	if s.sc.prepare != nil {
		if err := s.sc.prepare(limit, s); err != nil {
			return err
		}
	}
	if err := suite.StartAll(ctx, limit, s.members, s.dir); err != nil {
		return err
	}
	if err := s.startFleets(limit); err != nil {
		return err
	}
	return s.startLoad(ctx, limit)
}

// startLoad begins to submit, and waits until every shard works.
func (s *stage) startLoad(ctx, limit context.Context) (err error) {
	if s.watch, err = checker.StartWatch(ctx, checker.WatchConfig{
		Brokers: []string{s.broker}, Topics: s.topics, Path: filepath.Join(s.dir, marksFile), Seen: s.load.seen,
	}); err != nil {
		return err
	}
	if err := s.follow(ctx); err != nil {
		return err
	}
	var ids []string
	for _, f := range s.fleets {
		ids = append(ids, f.ids()...)
	}
	if s.submit, err = submit.Start(ctx, submit.Config{
		Brokers: []string{s.broker}, Topic: s.topics.Jobs, Partitions: int32(s.opt.Partitions), Rate: s.opt.Rate,
		Seed: s.opt.Seed, Nodes: ids, Path: filepath.Join(s.dir, submittedFile), Made: s.load.made, Acked: s.load.acked,
	}); err != nil {
		return err
	}
	if !wait.Await(limit, func() bool { return len(s.load.owners()) == s.opt.Partitions }) {
		return fmt.Errorf("%d of %d shards have had outcomes: %w", len(s.load.owners()), s.opt.Partitions, limit.Err())
	}
	s.say("all shards work")
	return nil
}

// heal takes all wires away and waits until every member serves.
func (s *stage) heal(ctx context.Context) {
	for _, w := range s.wires {
		if err := w.Close(); err != nil {
			s.fail("wire: %v", err)
		}
	}
	s.wires = nil
	for _, m := range s.members {
		limit, cancel := context.WithTimeout(ctx, time.Minute)
		if !m.AwaitUp(limit) && ctx.Err() == nil {
			s.fail("member %s does not serve a minute after all was healed", m.Name)
		}
		cancel()
	}
}

// settle waits until every assignment has its outcome and every partition its last
// watermark. What is not there in time, the checker will miss.
func (s *stage) settle(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	begin, said := time.Now(), false
	if !wait.Await(limit, func() bool {
		if !said && time.Since(begin) > stuckAfter {
			said = true
			s.sayStuck()
		}
		return s.load.open() == 0
	}) && ctx.Err() == nil {
		s.say("%d assignments are open after %v, such as those of %v", s.load.open(), settleLimit, s.load.some(5))
	}
	ends, err := checker.EndOffsets(ctx, []string{s.broker}, s.topics.Jobs)
	if err != nil {
		if ctx.Err() == nil {
			s.fail("end offsets: %v", err)
		}
		return
	}
	limit, cancel = context.WithTimeout(ctx, markLimit)
	defer cancel()
	for p, end := range ends {
		if !wait.Await(limit, func() bool { at, _ := s.watch.Watermark(int32(p)); return at >= end }) {
			at, _ := s.watch.Watermark(int32(p))
			s.say("partition %d ends at %d, and its watermark is %d after %v", p, end, at, markLimit)
			return
		}
	}
}

// sayStuck tells where jobs are open that should have ended long since.
func (s *stage) sayStuck() {
	h, owners := s.history(), s.load.owners()
	home := map[string]string{}
	for _, m := range s.members {
		for node := range h.at(m.Name, time.Now()) {
			home[node] = m.Name
		}
	}
	where := map[string]int{}
	for p, nodes := range s.load.stuck() {
		for _, n := range nodes {
			where[fmt.Sprintf("shard %d of %s, nodes at %q:", p, owners[p], home[n])]++
		}
	}
	if len(where) > 0 {
		s.say("plain jobs are open %v after the last was submitted: %s", stuckAfter, describe(where))
	}
}

// impair puts a wire before a member until all is healed.
func (s *stage) impair(m *member, rules ...netlab.Rule) error {
	w, err := s.lab.Impair(m.Name, rules...)
	if err == nil {
		s.wires = append(s.wires, w)
	}
	return err
}

func (s *stage) report(ctx context.Context) {
	for wait.Pause(ctx, 5*time.Second) {
		s.progress()
	}
}

func (s *stage) progress() {
	var who []string
	for _, m := range s.members {
		who = append(who, m.Status())
	}
	submitted, _, unsure := s.submit.Counts()
	assignments, outcomes := s.load.counts()
	s.say("records %d (unsure %d), outcomes %d/%d, open %d; %s; sessions %d", submitted, unsure, outcomes, assignments,
		assignments-outcomes, strings.Join(who, ", "), s.sessions())
}

func (s *stage) sessions() (n int64) {
	for _, f := range s.fleets {
		n += f.stats().Sessions
	}
	return n
}

// tearDown ends what is there, in whatever state it is.
func (s *stage) tearDown() {
	for _, w := range s.wires {
		_ = w.Close() // the lab goes with it
	}
	if s.launcher != nil {
		s.launcher.Close()
	}
	s.wg.Wait()
}

var bad = regexp.MustCompile(`panic: |fatal error: |DATA RACE|SIGSEGV`)

// panics looks through the members' logs for what no log of a sound one has.
func (s *stage) panics() {
	logs, _ := filepath.Glob(filepath.Join(s.dir, "m[0-9]*.log")) // the pattern is sound
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			s.fail("log of a member: %v", err)
			continue
		}
		if at := bad.FindIndex(b); at != nil {
			s.fail("%s: %s", path, strings.ReplaceAll(string(b[at[0]:min(len(b), at[0]+200)]), "\n", " | "))
		}
	}
}
