//go:build linux

package steps

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/wait"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

// Plan says how much of what.
type Plan struct {
	Nodes     int           `json:"nodes"`
	Early     int           `json:"early"` // nodes that the first jobs are for; 0: no such step
	Storm     float64       `json:"storm"` // fraction of the nodes that are cut at once
	Heartbeat time.Duration `json:"heartbeat"`
	Hold      time.Duration `json:"hold"`
	Window    int           `json:"window"` // jobs under way
	Size      int           `json:"size"`   // bytes of a job's args
	Patience  time.Duration `json:"patience"`
}

// Validate refuses what cannot work, naming the flag.
func (p *Plan) Validate() error {
	switch {
	case p.Nodes < 1 || p.Nodes > 2_000_000:
		return fmt.Errorf("--nodes: %d; allowed are 1 to 2000000", p.Nodes)
	case p.Early < 0 || p.Early > p.Nodes:
		return fmt.Errorf("--early: %d; allowed are 0 to --nodes, %d", p.Early, p.Nodes)
	case p.Storm < 0 || p.Storm > 1:
		return fmt.Errorf("--storm: %v; allowed are 0 to 1", p.Storm)
	case p.Heartbeat < time.Second:
		return fmt.Errorf("--heartbeat: %v; at least 1s is needed", p.Heartbeat)
	case p.Hold < 0:
		return fmt.Errorf("--hold: %v; it cannot be negative", p.Hold)
	case p.Window < 1:
		return fmt.Errorf("--window: %d; at least 1 is needed", p.Window)
	case p.Patience <= 0:
		return fmt.Errorf("--patience: %v; a positive duration is expected", p.Patience)
	}
	return nil
}

// Env is what the steps are done with. The caller ends group and servers, unless Drain has.
type Env struct {
	Group   nodes.Group
	IDs     []string // of all nodes, in the order in which Ramp connects them
	Brokers []string
	PIDs    []int // of the servers
	// Drain has nodes leave, ends the servers by SIGTERM, and returns how many ended with
	// exit code 0.
	Drain func(ctx context.Context, show func(string)) (ok int, err error)
	// Kernel returns the memory that the kernel uses, in bytes; nil: unknown.
	Kernel func() (int64, error)

	Step func(name string) // a step begins
	Show func(text string) // how far it is, about once in five seconds
}

// showEvery is how often a step tells how far it is.
const showEvery = 5 * time.Second

// run is the state of one Run.
type run struct {
	Plan
	Env
	a       *Account
	began   time.Time
	stepAt  time.Time
	rampS   float64
	kernel0 int64
}

// Run does the steps and returns the account. What a server did not keep is in Problems;
// an error means that a step could not be done. The account is what there is by then.
func Run(ctx context.Context, p Plan, e Env) (*Account, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	r := &run{Plan: p, Env: e, began: time.Now(), a: &Account{Nodes: p.Nodes, EarlyNodes: p.Early, Servers: len(e.PIDs),
		ByOutcome: map[string]int64{}, Closes: map[string]uint64{}, Problems: []string{}}}
	err := r.all(ctx)
	r.endStep()
	r.a.TookS = time.Since(r.began).Seconds()
	r.a.Interrupted = ctx.Err() != nil
	return r.a, err
}

func (r *run) all(ctx context.Context) error {
	var err error
	if r.a.ServerRSSBefore, err = r.rss(); err != nil {
		return err
	}
	if r.Kernel != nil {
		if r.kernel0, err = r.Kernel(); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{r.early, r.rest, r.hold, r.full, r.storm, r.drain} {
		if err := errors.Join(step(ctx), ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) step(format string, args ...any) {
	r.endStep()
	name := fmt.Sprintf(format, args...)
	r.a.Steps = append(r.a.Steps, Step{Name: name})
	r.stepAt = time.Now()
	r.Step(name)
}

// endStep notes how long the present step took.
func (r *run) endStep() {
	if n := len(r.a.Steps); n > 0 && r.a.Steps[n-1].TookS == 0 {
		r.a.Steps[n-1].TookS = time.Since(r.stepAt).Seconds()
	}
}

func (r *run) problem(format string, args ...any) {
	r.a.Problems = append(r.a.Problems, fmt.Sprintf(format, args...))
}

// early connects the first nodes and gives each one job.
func (r *run) early(ctx context.Context) error {
	if r.Early == 0 {
		return nil
	}
	if err := r.ramp(ctx, r.Early); err != nil {
		return err
	}
	f, err := r.jobs(ctx, r.Early)
	if err == nil {
		r.a.CPUPerJobEarlyUs = perJob(f)
	}
	return err
}

// rest connects all others.
func (r *run) rest(ctx context.Context) error {
	if err := r.ramp(ctx, r.Nodes); err != nil {
		return err
	}
	s := r.Group.Stats()
	r.a.Connected = s.Connected
	if r.rampS > 0 {
		r.a.ConnectPerS = float64(r.Nodes) / r.rampS
	}
	return nil
}

// ramp connects nodes up to a number, and waits for them.
func (r *run) ramp(ctx context.Context, to int) error {
	r.step("connect nodes up to %d", to)
	began := time.Now()
	if err := r.Group.Ramp(ctx, to, 0); err != nil {
		return err
	}
	err := r.await(ctx, fmt.Sprintf("connected %%d of %d", to), to, func(s *nodes.Stats) int { return s.Connected })
	r.rampS += time.Since(began).Seconds()
	return err
}

// await waits until a number is reached, shows it, and gives up when there is no progress.
func (r *run) await(ctx context.Context, format string, to int, number func(*nodes.Stats) int) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, lastAt, shown, shownN := -1, time.Now(), time.Now(), 0
	for {
		s := r.Group.Stats()
		n := number(&s)
		if n == to {
			return nil
		}
		if n != last {
			last, lastAt = n, time.Now()
		}
		if d := time.Since(shown); d >= showEvery {
			r.Show(fmt.Sprintf(format+", %.0f a second; %s%s", n, float64(n-shownN)/d.Seconds(), r.memory(), note(&s)))
			shown, shownN = time.Now(), n
		}
		if s.Dead > 0 || time.Since(lastAt) > r.Patience {
			return fmt.Errorf(format+", and no more: %d were told never to come back, %d dials failed, %d were not welcomed in time; %s",
				n, s.Dead, s.DialErrors, s.OpenTimeouts, s.LastError)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// note is what went wrong so far, for people.
func note(s *nodes.Stats) string {
	if s.Dropped+s.DialErrors+s.OpenTimeouts+s.BadFrames == 0 && len(s.Closes) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d dropped, %d dials failed, %d not welcomed in time, %d bad frames, sent away: %s; %s",
		s.Dropped, s.DialErrors, s.OpenTimeouts, s.BadFrames, words(s.Closes), s.LastError)
}

// memory is the servers', for people.
func (r *run) memory() string {
	n, err := r.rss()
	if err != nil {
		return err.Error()
	}
	return "servers " + mib(n)
}

// hold waits while nodes say heartbeats, and reads the memory.
func (r *run) hold(ctx context.Context) error {
	r.step("hold for %v", r.Hold)
	before := r.Group.Stats()
	cpu, err := r.cpu()
	if err != nil {
		return err
	}
	began, shown := time.Now(), time.Now()
	for time.Since(began) < r.Hold {
		if !wait.Pause(ctx, min(time.Second, r.Hold-time.Since(began))) {
			return ctx.Err()
		}
		if time.Since(shown) >= showEvery {
			shown = time.Now()
			s := r.Group.Stats()
			r.Show(fmt.Sprintf("%d connected, %d pings, %d pongs; %s%s", s.Connected, s.Pings, s.Pongs, r.memory(), note(&s)))
		}
	}
	used, err := r.cpu()
	if err != nil {
		return err
	}
	if took := time.Since(began).Seconds(); took > 0 {
		r.a.IdleCPUPercent = 100 * (used - cpu).Seconds() / took
	}
	after := r.Group.Stats()
	if after.Connected != r.Nodes || after.Sessions != before.Sessions {
		r.problem("%d of %d nodes were connected after they were held, and %d had come back: %s", after.Connected, r.Nodes, after.Sessions-before.Sessions, after.LastError)
	}
	return r.weigh()
}

// weigh enters the memory that all nodes take.
func (r *run) weigh() error {
	var err error
	if r.a.ServerRSS, err = r.rss(); err != nil {
		return err
	}
	n := float64(r.Nodes)
	r.a.BytesPerNode = float64(r.a.ServerRSS) / n
	r.a.BytesPerNodeMore = float64(r.a.ServerRSS-r.a.ServerRSSBefore) / n
	if r.a.LoadRSS = r.Group.Stats().Load.RSSBytes; r.a.LoadRSS == 0 {
		if r.a.LoadRSS, err = proc.RSS(os.Getpid()); err != nil {
			return err
		}
	}
	if r.Kernel != nil {
		k, err := r.Kernel()
		if err != nil {
			return err
		}
		r.a.KernelBytes = k - r.kernel0
		r.a.KernelPerNode = float64(r.a.KernelBytes) / n
	}
	return nil
}

// full gives each node one job.
func (r *run) full(ctx context.Context) error {
	f, err := r.jobs(ctx, r.Nodes)
	if err != nil {
		return err
	}
	r.a.CPUPerJobUs, r.a.FullOutcomes = perJob(f), f.Outcomes
	r.a.ServerRSSAfterJobs, err = r.rss()
	return err
}

// jobs gives each of the first nodes one job and waits for the outcomes.
func (r *run) jobs(ctx context.Context, n int) (*workload.Figures, error) {
	r.step("one job to each of %d nodes", n)
	shown := time.Now()
	f, err := workload.Run(ctx, workload.Config{
		Brokers: r.Brokers, TopicPrefix: "roost.", NodeIDs: r.IDs[:n], Window: min(r.Window, n), Jobs: int64(n),
		Drain: r.Patience, Size: r.Size, ServerCPU: r.cpu,
		Progress: func(p workload.Progress) {
			if time.Since(shown) >= showEvery {
				shown = time.Now()
				r.Show(fmt.Sprintf("%d of %d have their outcome, %.0f a second, %d twice, %d not ok; %s", p.Counts.Outcomes, n, p.JobsPerS, p.Counts.Duplicates, p.Counts.NotOK, r.memory()))
			}
		},
	})
	if err != nil {
		return nil, err
	}
	r.a.Jobs += f.Produced
	r.a.Outcomes += f.Outcomes
	r.a.Lost += f.Lost
	r.a.Twice += f.Duplicates
	r.a.Corrupt += f.Corrupt
	for k, v := range f.ByOutcome {
		r.a.ByOutcome[k] += v
	}
	if f.Outcomes != int64(n) || f.Lost+f.Duplicates+f.NotOK+f.Corrupt+f.Unreadable+f.ProduceFailed > 0 {
		r.problem("one job to each of %d nodes: %d outcomes, %d lost, %d twice, %d not ok, %d not what was sent, %d unreadable, %d not produced: %s",
			n, f.Outcomes, f.Lost, f.Duplicates, f.NotOK, f.Corrupt, f.Unreadable, f.ProduceFailed, f.LastError)
	}
	return f, nil
}

func perJob(f *workload.Figures) float64 {
	if f.MeasuredJobs == 0 {
		return 0
	}
	return float64(f.ServerCPU.Microseconds()) / float64(f.MeasuredJobs)
}

// storm cuts sockets and waits until their nodes are back.
func (r *run) storm(ctx context.Context) error {
	if r.Storm == 0 {
		return nil
	}
	r.step("cut %.0f %% of the nodes at once", 100*r.Storm)
	before, began := r.Group.Stats(), time.Now()
	n, err := r.Group.Cut(ctx, r.Storm)
	if err != nil {
		return err
	}
	r.a.Cut = n
	want := int(before.Sessions) + n
	err = r.await(ctx, fmt.Sprintf("%%d sessions of %d", want), want, func(s *nodes.Stats) int {
		if s.Connected < r.Nodes {
			return min(int(s.Sessions), want-1)
		}
		return int(s.Sessions)
	})
	r.a.CutBackS = time.Since(began).Seconds()
	return err
}

// drain ends the servers in good order.
func (r *run) drain(ctx context.Context) error {
	s := r.Group.Stats()
	r.a.Delivered, r.a.Answered, r.a.Pings, r.a.Dropped = s.Jobs, s.Results, s.Pings, s.Dropped
	maps.Copy(r.a.Closes, s.Closes)
	r.a.Reconnects = s.Sessions - min(s.Sessions, uint64(r.Nodes))
	if s.Dropped > 0 || s.BadFrames > 0 {
		r.problem("%d connections were ended without CLOSE, %d frames were bad: %s", s.Dropped, s.BadFrames, s.LastError)
	}
	for _, pid := range r.PIDs {
		n, err := proc.PeakRSS(pid)
		if err != nil {
			return err
		}
		r.a.ServerRSSPeak += n
	}
	r.a.ServerRSSPeak = max(r.a.ServerRSSPeak, r.a.ServerRSS, r.a.ServerRSSAfterJobs) // the kernel's mark lags by some pages
	r.step("drain")
	began := time.Now()
	ok, err := r.Drain(ctx, r.Show)
	r.a.ServersOK, r.a.DrainedS = ok, time.Since(began).Seconds()
	if err != nil {
		return err
	}
	if ok != r.a.Servers {
		r.problem("%d of %d servers ended with exit code 0", ok, r.a.Servers)
	}
	return nil
}

func (r *run) rss() (sum int64, err error) {
	for _, pid := range r.PIDs {
		n, err := proc.RSS(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (r *run) cpu() (sum time.Duration, err error) {
	for _, pid := range r.PIDs {
		d, err := proc.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}
