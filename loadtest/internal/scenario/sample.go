//go:build linux

package scenario

import (
	"os"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/timeline"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

// sampling takes a sample now and each second until it is stopped.
func (e *engine) sampling() (stop func()) {
	e.sample()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				e.sample()
			}
		}
	}()
	return func() { close(quit); <-done; e.sample() }
}

func (e *engine) sample() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.look()
}

// look takes a sample; mu is held.
func (e *engine) look() {
	st := e.env.Group.Stats()
	s := timeline.Sample{AtMs: e.ms()}
	s.Connected, s.Sessions, s.Broken = st.Connected, st.Sessions, broken(&st)
	s.Delivered, s.Answered, s.Unacked = int64(st.Jobs), int64(st.Results), st.Unacked
	e.most = max(e.most, st.Connected)
	if e.tookMs == 0 {
		e.tookMs = st.ConnectTook.Milliseconds()
	}
	if e.load != nil {
		t := e.load.Totals()
		s.Submitted, s.Recorded, s.Duplicates, s.NotOK = t.Submitted-t.ProduceFailed, t.Outcomes, t.Duplicates, t.NotOK
		l := e.load.Look()
		e.phase.Add(l)
		e.all.Add(l)
		s.Whole, s.Deliver, s.Commit = e.latency(l.Whole), e.latency(l.Deliver), e.latency(l.Commit)
	}
	for i := range e.env.Servers {
		s.Servers = append(s.Servers, e.server(i))
	}
	s.Load = st.Load
	if len(e.env.Meta.Workers) > 0 { // the nodes are in other processes
		s.Load.CPUMs += proc.SelfCPU().Milliseconds()
		s.Load.RSSBytes += e.rss.of(os.Getpid())
	}
	e.tl.Samples = append(e.tl.Samples, s)
	if e.env.OnSample != nil {
		e.env.OnSample(&e.tl.Samples[len(e.tl.Samples)-1])
	}
}

// broken is how many connections ended or failed other than by the test's own will.
func broken(st *nodes.Stats) uint64 {
	n := st.Dropped + st.DialErrors + st.OpenTimeouts + st.BadFrames
	for _, k := range st.Closes {
		n += k
	}
	return n
}

func (e *engine) latency(h histogram) *timeline.Latency {
	l, err := timeline.NewLatency(h)
	if err != nil {
		e.problems = append(e.problems, err.Error())
	}
	return l
}

// server reads what a server process has used.
func (e *engine) server(i int) timeline.Process {
	srv := e.env.Servers[i]
	p := timeline.Process{Name: srv.Name, CPUMs: e.cpu[i]}
	cpu, err := proc.CPU(srv.PID)
	if err != nil {
		if !e.gone[i] {
			e.gone[i] = true
			e.problems = append(e.problems, "the server's process has ended: "+err.Error())
		}
		return p
	}
	e.cpu[i] = cpu.Milliseconds()
	p.CPUMs, p.RSSBytes = e.cpu[i], e.rss.of(srv.PID)
	return p
}

// rssReader reads resident memory: exactly while that costs little, which grows with
// the process.
type rssReader struct{ quick map[int]bool }

// exactAtMost is how long an exact reading may take.
const exactAtMost = 5 * time.Millisecond

func (r *rssReader) of(pid int) int64 {
	if r.quick[pid] {
		n, _ := proc.QuickRSS(pid) // 0: it is gone
		return n
	}
	began := time.Now()
	n, err := proc.RSS(pid)
	if err == nil && time.Since(began) > exactAtMost && n > exactBelow {
		if r.quick == nil {
			r.quick = map[int]bool{}
		}
		r.quick[pid] = true
	}
	return n
}

// exactBelow is the memory of which the quick reading's error would be too large a part.
const exactBelow = 256 << 20

// beginPhase notes that a phase begins with the last sample of the one before.
func (e *engine) beginPhase(p *Phase) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.tl.Samples[e.first].AtMs
	e.tl.Phases = append(e.tl.Phases, timeline.Phase{Name: p.Name, BeginMs: at, EndMs: at})
}

// endPhase takes the sample at which it ends, and looks whether it kept what is expected
// of it.
func (e *engine) endPhase(p *Phase, complete bool) {
	if e.load != nil {
		e.load.Compare(nil)
	}
	e.mu.Lock()
	e.look()
	last := len(e.tl.Samples) - 1
	t := &e.tl.Phases[len(e.tl.Phases)-1]
	t.EndMs = e.tl.Samples[last].AtMs
	t.Whole, t.Deliver, t.Commit, t.Others = e.brief(e.phase.Whole), e.brief(e.phase.Deliver), e.brief(e.phase.Commit), e.brief(e.phase.Others)
	f := figures{
		samples: e.tl.Samples[e.first : last+1], idle: e.tl.Samples[0].Servers,
		whole: t.Whole, deliver: t.Deliver, commit: t.Commit, others: t.Others, asked: e.asked,
	}
	e.first, e.phase = last, workload.NewLatencies()
	e.mu.Unlock()
	if complete {
		for _, s := range f.check(&p.Expect) {
			e.problem("phase %s: %s", p.Name, s)
		}
	}
}

// brief is a latency without its buckets.
func (e *engine) brief(h histogram) *timeline.Latency {
	l := e.latency(h)
	if l != nil {
		l.Buckets = nil
	}
	return l
}
