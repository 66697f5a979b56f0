//go:build linux

package scenario

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/roost-server/roost/loadtest/internal/timeline"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

type histogram = *hdrhistogram.Histogram

// figures are what expectations are held against.
type figures struct {
	samples                        []timeline.Sample
	idle                           []timeline.Process // the servers before there were nodes
	whole, deliver, commit, others *timeline.Latency
	asked                          int
}

// check says what is not as expected.
func (f *figures) check(e *Expect) (wrong []string) {
	most := func(what string, got, limit float64, unit string) {
		if limit > 0 && got > limit {
			wrong = append(wrong, fmt.Sprintf("%s is %.3g%s; at most %.3g%s was expected", what, got, unit, limit, unit))
		}
	}
	least := func(what string, got, limit float64, unit string) {
		if limit > 0 && got < limit {
			wrong = append(wrong, fmt.Sprintf("%s is %.4g%s; at least %.4g%s was expected", what, got, unit, limit, unit))
		}
	}
	p99 := func(what string, l *timeline.Latency, limit float64) {
		switch {
		case limit > 0 && l == nil:
			wrong = append(wrong, what+" is unknown: nothing ended")
		case l != nil:
			most(what, l.P99Ms, limit, " ms")
		}
	}
	if f.whole != nil {
		most("p50", f.whole.P50Ms, e.P50Ms, " ms")
		most("p99.9", f.whole.P999Ms, e.P999Ms, " ms")
	}
	p99("p99", f.whole, e.P99Ms)
	p99("p99 until delivered", f.deliver, e.DeliverP99Ms)
	p99("p99 from delivered to recorded", f.commit, e.CommitP99Ms)
	p99("p99 of nodes that were not cut", f.others, e.OthersP99Ms)
	first, last := &f.samples[0], &f.samples[len(f.samples)-1]
	seconds := max(float64(last.AtMs-first.AtMs), 1) / 1000
	least("recorded", float64(last.Recorded-first.Recorded)/seconds, e.JobsPerS, " a second")
	least("connected", float64(last.Sessions-first.Sessions)/seconds, e.ConnectPerS, " a second")
	if e.Connected != nil && float64(last.Connected) < *e.Connected*float64(f.asked) {
		wrong = append(wrong, fmt.Sprintf("%d of %d nodes are connected at the end; %.4g %% were expected", last.Connected, f.asked, 100**e.Connected))
	}
	return append(wrong, f.memory(e)...)
}

// memory says what is not as expected of the servers' memory.
func (f *figures) memory(e *Expect) (wrong []string) {
	if e.RSSGrowthPercent == 0 && e.RSSBytesPerNode == 0 {
		return nil
	}
	quarter := max(1, len(f.samples)/4)
	before, after := median(f.samples[:quarter]), median(f.samples[len(f.samples)-quarter:])
	if growth := 100 * (after - before) / max(before, 1); e.RSSGrowthPercent > 0 && growth > e.RSSGrowthPercent {
		wrong = append(wrong, fmt.Sprintf("the servers' memory grew by %.2f %%, from %.1f to %.1f MiB; at most %.3g %% was expected", growth, before/(1<<20), after/(1<<20), e.RSSGrowthPercent))
	}
	connected := f.samples[len(f.samples)-1].Connected
	if e.RSSBytesPerNode > 0 && connected > 0 {
		idle := sum(f.idle)
		if each := (after - idle) / float64(connected); each > e.RSSBytesPerNode {
			wrong = append(wrong, fmt.Sprintf("a node takes %.0f B of the servers' memory; at most %.0f B was expected", each, e.RSSBytesPerNode))
		}
	}
	return wrong
}

func sum(ps []timeline.Process) (bytes float64) {
	for _, p := range ps {
		bytes += float64(p.RSSBytes)
	}
	return bytes
}

// median is that of the servers' memory.
func median(samples []timeline.Sample) float64 {
	var all []float64
	for i := range samples {
		all = append(all, sum(samples[i].Servers))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// account closes the books.
func (e *engine) account(ctx context.Context) {
	e.tl.Interrupted = e.tl.Interrupted || ctx.Err() != nil
	st := e.env.Group.Stats()
	last := &e.tl.Samples[len(e.tl.Samples)-1]
	a := &e.tl.Account
	*a = timeline.Account{
		Nodes: e.sc.Nodes, Connected: e.most, Delivered: int64(st.Jobs), Answered: int64(st.Results),
		Outcomes: map[string]int64{}, ConnectTookMs: e.tookMs,
	}
	var t workload.Totals
	if e.load != nil {
		t = e.load.Totals()
		a.Jobs, a.Recorded, a.Lost, a.Duplicates, a.Outcomes = t.Jobs, t.Outcomes, t.Lost(), t.Duplicates, t.ByOutcome
		a.Submitted = a.Recorded + a.Lost
		last.Submitted, last.Recorded = a.Submitted, a.Recorded
	}
	x := &e.sc.Expect
	e.books(x, &t)
	e.count(int64(st.BadFrames), 0, "frames of the server broke the protocol: "+st.LastError)
	if !e.tl.Interrupted {
		f := figures{samples: e.tl.Samples, idle: e.tl.Samples[0].Servers, whole: e.latency(e.all.Whole), deliver: e.latency(e.all.Deliver),
			commit: e.latency(e.all.Commit), others: e.latency(e.all.Others), asked: e.asked}
		all := *x
		if all.Connected == nil {
			one := 1.0
			all.Connected = &one
		}
		wrong := f.check(&all)
		e.problems = append(e.problems, wrong...)
		if last.Connected < e.asked && len(wrong) > 0 {
			e.problems = append(e.problems, "the nodes' last error: "+st.LastError)
		}
		e.checkStorms()
	}
	for _, s := range e.storms {
		e.tl.Storms = append(e.tl.Storms, s.Storm)
	}
	e.tl.Problems = append(append(e.tl.Problems, e.problems...), st.Problems...)
}

// books says what a server may not do with jobs.
func (e *engine) books(x *Expect, t *workload.Totals) {
	limit := func(v *int64) int64 {
		if v == nil {
			return 0
		}
		return *v
	}
	more := ""
	if t.LastError != "" {
		more = ": " + t.LastError
	}
	e.count(t.Lost(), limit(x.Lost), "assignments have no outcome")
	e.count(t.Duplicates, limit(x.Duplicates), "outcomes came twice")
	e.count(t.NotOK, limit(x.NotOK), "outcomes are not ok"+more)
	e.count(t.Corrupt, 0, "outputs are not the job's args"+more)
	e.count(t.Unreadable, 0, "result records cannot be read"+more)
	e.count(t.ProduceFailed, 0, "assignments could not be produced"+more)
}

func (e *engine) count(n, limit int64, what string) {
	if n > limit {
		e.problems = append(e.problems, fmt.Sprintf("%d %s", n, what))
	}
}

// checkStorms looks whether all came back in time.
func (e *engine) checkStorms() {
	for _, s := range e.storms {
		for _, x := range []*Expect{&s.phase.Expect, &e.sc.Expect} {
			e.within(s, s.ReconnectedMs, x.ReconnectedWithin, "all nodes were connected again")
			e.within(s, s.RecoveredMs, x.RecoveredWithin, "all that was submitted before was recorded")
		}
	}
}

func (e *engine) within(s *storm, tookMs int64, limit time.Duration, what string) {
	switch took := time.Duration(tookMs) * time.Millisecond; {
	case limit == 0:
	case tookMs < 0:
		e.problems = append(e.problems, fmt.Sprintf("storm of phase %s: it never came to it that %s; within %s was expected", s.Phase, what, brief(limit)))
	case took > limit:
		e.problems = append(e.problems, fmt.Sprintf("storm of phase %s: %s after %v; within %s was expected", s.Phase, what, took, brief(limit)))
	}
}
