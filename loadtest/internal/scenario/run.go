//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/timeline"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

const (
	lookEvery   = 20 * time.Millisecond // at what a phase waits for
	sampleEvery = time.Second
	steerEvery  = 200 * time.Millisecond // at rates that change
	// abortDrain is how long no outcome may come after an early end.
	abortDrain = 5 * time.Second
	// duplicateGrace is how long a run that has every outcome listens for second ones.
	duplicateGrace = 500 * time.Millisecond
	// workersTell is how old what nodes in other processes tell may be.
	workersTell = time.Second
	// lastWords bounds what is asked of the nodes after an early end.
	lastWords = 5 * time.Second
)

// engine is the state of one Run.
type engine struct {
	sc    *Scenario
	env   Env
	load  *workload.Load // nil: the scenario has no jobs
	began time.Time
	asked int    // nodes that ramps asked for
	cuts  uint64 // calls of Cut
	churn float64
	slow  float64

	storms []*storm

	mu       sync.Mutex // of what samples change
	tl       *timeline.Timeline
	phase    *workload.Latencies // of the phase that runs
	all      *workload.Latencies
	first    int // sample at which it began
	most     int // nodes connected at a time
	tookMs   int64
	cpu      map[int]int64 // of servers, for when one is gone
	gone     map[int]bool
	rss      rssReader
	problems []string
}

// Run plays a scenario: its phases one after the other, then it waits for what is still
// due. An error means that it could not be run; what the server did not keep is in
// Problems of what is returned. When ctx ends the run ends early, and is accounted all
// the same. It leaves nothing running but the group, which has all its nodes read again.
func Run(ctx context.Context, sc *Scenario, env Env) (*timeline.Timeline, error) {
	e := &engine{
		sc: sc, env: env, began: time.Now(), phase: workload.NewLatencies(), all: workload.NewLatencies(),
		cpu: map[int]int64{}, gone: map[int]bool{}, tl: &timeline.Timeline{Meta: env.Meta, Problems: []string{}},
	}
	if n := env.Spec.NumberOf(); n < sc.Nodes {
		return nil, fmt.Errorf("scenario %s needs %d nodes, and the group has %d", sc.Name, sc.Nodes, n)
	}
	if key := sc.needsServers(); key != "" && len(env.Servers) == 0 {
		return nil, fmt.Errorf("scenario %s expects %s: --server-pid is needed, or --set %s=0", sc.Name, key, key)
	}
	if e.env.Spec.NodePrefix == "" {
		e.env.Spec.NodePrefix = nodes.DefaultPrefix
	}
	if sc.HasJobs() {
		if len(env.Brokers) == 0 {
			return nil, fmt.Errorf("scenario %s has jobs: --kafka is needed", sc.Name)
		}
		var err error
		if e.load, err = workload.Open(ctx, workload.LoadConfig{Brokers: env.Brokers, TopicPrefix: env.TopicPrefix, Names: &e.env.Spec}); err != nil {
			return nil, err
		}
		defer e.load.Close()
	}
	m := &e.tl.Meta
	m.Scenario, m.YAML, m.Seed, m.StartedAt = sc.Name, sc.YAML, sc.Seed, e.began.UTC()

	stop := e.sampling()
	e.phases(ctx)
	e.drain(ctx)
	stop()
	e.account(ctx)
	return e.tl, nil
}

func (e *engine) ms() int64 { return time.Since(e.began).Milliseconds() }

func (e *engine) problem(format string, args ...any) {
	e.mu.Lock()
	e.problems = append(e.problems, fmt.Sprintf(format, args...))
	e.mu.Unlock()
}

// phases plays them all, until ctx ends or the group fails.
func (e *engine) phases(ctx context.Context) {
	for i := range e.sc.Phases {
		p := &e.sc.Phases[i]
		if err := e.play(ctx, i, p); err != nil {
			e.tl.Interrupted = true
			if ctx.Err() == nil {
				e.problem("phase %s: %v", p.Name, err)
			}
			break
		}
	}
	// Whatever a phase left behind: the nodes are told even when ctx has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if err := errors.Join(e.setChurn(ctx, 0), e.setSlow(ctx, 0)); err != nil && !e.tl.Interrupted {
		e.problem("%v", err)
	}
}

// play plays one phase. An error ends the run: of ctx, or of the group.
func (e *engine) play(ctx context.Context, i int, p *Phase) error {
	if e.env.OnPhase != nil {
		e.mu.Lock()
		e.env.OnPhase(p.Name, p.Duration)
		e.mu.Unlock()
	}
	e.beginPhase(p)
	before := e.asked
	err := e.begin(ctx, p)
	var streams []*workload.Stream
	if err == nil {
		streams, err = e.streams(i, p, before)
	}
	if err == nil {
		err = e.wait(ctx, p, streams)
	}
	for _, s := range streams {
		s.Stop()
	}
	e.endPhase(p, err == nil)
	return err
}

// begin does what happens at the start of a phase.
func (e *engine) begin(ctx context.Context, p *Phase) error {
	if err := e.setSlow(ctx, p.Slow); err != nil {
		return err
	}
	if r := p.Ramp; r != nil {
		e.asked = max(e.asked, r.To.Of(e.sc.Nodes))
	}
	if err := e.steer(ctx, p, 0); err != nil {
		return err
	}
	if p.Storm > 0 {
		return e.cut(ctx, p)
	}
	return nil
}

// steer sets the rates of nodes, share of the phase being over.
func (e *engine) steer(ctx context.Context, p *Phase, share float64) error {
	if r := p.Ramp; r != nil && (share == 0 || r.Rate.From != r.Rate.To) {
		perS := r.Rate.At(share)
		if !r.Rate.Zero() {
			perS = max(perS, 1) // 0 would be without any limit
		}
		if err := e.env.Group.Ramp(ctx, e.asked, perS); err != nil {
			return err
		}
	}
	return e.setChurn(ctx, p.Churn.At(share))
}

func (e *engine) setChurn(ctx context.Context, perS float64) error {
	if perS == e.churn {
		return nil
	}
	e.churn = perS
	return e.env.Group.Churn(ctx, perS)
}

func (e *engine) setSlow(ctx context.Context, fraction float64) error {
	if fraction == e.slow {
		return nil
	}
	e.slow = fraction
	return e.env.Group.Slow(ctx, fraction)
}

// streams starts the jobs of a phase. They are for the nodes that were asked for before
// it, or in it when there were none.
func (e *engine) streams(i int, p *Phase, before int) (out []*workload.Stream, err error) {
	n := before
	if n == 0 {
		n = e.asked
	}
	for _, j := range []*Jobs{p.Jobs, p.Once} {
		if j == nil {
			continue
		}
		pace := j.pace(p, n)
		pace.Begin = int(nodes.Mix(e.sc.Seed^uint64(i)) % uint64(n))
		if j == p.Once {
			pace.Jobs = e.load.Rounds(pace)
		}
		s, err := e.load.Start(pace)
		if err != nil {
			return out, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (j *Jobs) pace(p *Phase, n int) workload.Pace {
	pace := workload.Pace{
		Rate: j.Rate.From, RateTo: j.Rate.To, Over: p.Duration, Window: j.Window, Nodes: n, Selected: j.Count,
		Size: j.Size, RunFor: j.RunFor, Attempts: j.Attempts, TTL: j.TTL,
	}
	switch j.Target {
	case TargetFanout:
		pace.Target = workload.AllNodes
	case TargetSelect:
		pace.Target = workload.Selected
	}
	return pace
}

// wait lets a phase go on until it is over.
func (e *engine) wait(ctx context.Context, p *Phase, streams []*workload.Stream) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	began, steered := time.Now(), time.Now()
	for {
		over := time.Since(began) >= p.Duration
		st := e.env.Group.Stats()
		e.watchStorms(&st)
		switch {
		case p.Until != "" && e.reached(p.Until, &st, streams):
			return nil
		case over && p.Until != "":
			e.problem("phase %s is not %s after %s: %s", p.Name, p.Until, brief(p.Duration), e.missing(p.Until, &st))
			return nil
		case over:
			return nil
		}
		if time.Since(steered) >= steerEvery {
			steered = time.Now()
			if err := e.steer(ctx, p, time.Since(began).Seconds()/p.Duration.Seconds()); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// reached reports whether a phase has what it waits for.
func (e *engine) reached(u Until, st *nodes.Stats, streams []*workload.Stream) bool {
	if u == UntilSettled {
		n := len(e.storms) // what the nodes tell may be older than a storm
		return st.Connected+st.Dead >= e.asked && (n == 0 || e.storms[n-1].ReconnectedMs >= 0 || e.churn > 0)
	}
	for _, s := range streams {
		select {
		case <-s.Done():
		default:
			return false
		}
	}
	return e.load == nil || e.load.Open() == 0
}

// missing says what a phase has waited for in vain.
func (e *engine) missing(u Until, st *nodes.Stats) string {
	if u == UntilSettled {
		return fmt.Sprintf("%d of %d nodes are connected: %s", st.Connected, e.asked, st.LastError)
	}
	return fmt.Sprintf("%d assignments have no outcome", e.load.Open())
}

// drain waits for what is still due: the outcomes of all jobs, and nodes that come back.
func (e *engine) drain(ctx context.Context) {
	if e.env.OnPhase != nil && !e.tl.Interrupted {
		e.mu.Lock()
		e.env.OnPhase("drain", e.sc.Drain)
		e.mu.Unlock()
	}
	patience, grace := e.sc.Drain, duplicateGrace
	if len(e.env.Meta.Workers) > 0 {
		grace += workersTell
	}
	newsAt, complete := time.Now(), time.Time{}
	var news [2]int64
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for range tick.C {
		if e.tl.Interrupted || ctx.Err() != nil {
			patience = min(abortDrain, e.sc.Drain)
		}
		st := e.env.Group.Stats()
		e.watchStorms(&st)
		open, done := int64(0), int64(0)
		if e.load != nil {
			open, done = e.load.Open(), e.load.Submitted()
		}
		if now := [2]int64{done - open, int64(st.Connected)}; now != news {
			news, newsAt = now, time.Now()
		}
		away := st.Connected+st.Dead < e.asked && !e.tl.Interrupted && ctx.Err() == nil
		if open > 0 || away {
			complete = time.Time{}
			if time.Since(newsAt) >= patience {
				return
			}
			continue
		}
		if complete.IsZero() {
			complete = time.Now()
		}
		if e.load == nil || time.Since(complete) >= grace {
			return
		}
	}
}
