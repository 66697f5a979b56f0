package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

const (
	// idleSeconds is how long nodes have to be idle for a figure by node: just after they
	// have connected memory holds what connecting them took.
	idleSeconds = 5
	// minIntervalMs is the shortest interval of a summary's samples: processor time moves
	// in steps of 10 ms, and a phase may begin just after a sample was taken.
	minIntervalMs = 500
	// curveSteps is how many points the curve of a distribution has for each factor of
	// ten by which it comes closer to 100 %.
	curveSteps = 8
	// mostly is the share of the most nodes ever connected from which on all count as
	// connected, for figures by node.
	mostly = 0.9
)

// Summarize makes the summary of a run. It does not change t.
func Summarize(t *timeline.Timeline) (*Summary, error) {
	s := &Summary{Timeline: *t, Parts: []PhaseFigures{}}
	base := baseRSS(t.Samples)
	for _, p := range t.Phases {
		f, err := figures(t.Samples, p.BeginMs, p.EndMs, base)
		if err != nil {
			return nil, fmt.Errorf("phase %s: %w", p.Name, err)
		}
		s.Parts = append(s.Parts, PhaseFigures{p.Name, f})
	}
	var err error
	if s.Figures, err = figures(t.Samples, 0, math.MaxInt64, base); err != nil {
		return nil, err
	}
	s.Figures.represent(s.Parts)
	if ms := t.Account.ConnectTookMs; ms > 0 && len(s.Parts) > 0 && s.Parts[0].Connected == t.Account.Connected { // in one ramp
		s.Figures.ConnectPerS = float64(t.Account.Connected) / float64(ms) * 1e3
	}
	if s.Samples, err = thin(t.Samples, maxSamples); err != nil {
		return nil, err
	}
	return s, nil
}

// represent takes what the average over a run would hide from the phases that show it:
// the one with most jobs, and the last one with the nodes connected.
func (f *Figures) represent(parts []PhaseFigures) {
	for i := range parts {
		p := &parts[i].Figures
		if p.BytesPerNode != nil && float64(p.Connected) >= mostly*float64(mostConnected(parts)) {
			f.BytesPerNode = p.BytesPerNode
		}
	}
	if len(parts) == 0 {
		return
	}
	most := slices.MaxFunc(parts, func(a, b PhaseFigures) int { return cmp.Compare(a.Recorded, b.Recorded) })
	if most.Recorded > 0 {
		f.JobsPerS, f.SubmittedPerS, f.ServerCPUUs = most.JobsPerS, most.SubmittedPerS, most.ServerCPUUs
	}
}

func mostConnected(parts []PhaseFigures) (n int) {
	for i := range parts {
		n = max(n, parts[i].Connected)
	}
	return n
}

// figures are of the samples from one moment to another. base is the servers' memory
// before the first session, 0: unknown.
func figures(samples []timeline.Sample, beginMs, endMs, base int64) (f Figures, err error) {
	part := between(samples, beginMs, endMs)
	if len(part) == 0 {
		return f, nil
	}
	a, b := &part[0], &part[len(part)-1]
	f.Seconds = float64(b.AtMs-a.AtMs) / 1e3
	f.Connected, f.Recorded = b.Connected, b.Recorded-a.Recorded
	f.ConnectPerS = connectPerS(part)
	if f.Seconds > 0 {
		f.SubmittedPerS = float64(b.Submitted-a.Submitted) / f.Seconds
		f.JobsPerS = float64(f.Recorded) / f.Seconds
	}
	for _, l := range []struct {
		to   **Spread
		from func(*timeline.Sample) *timeline.Latency
	}{
		{&f.Whole, func(s *timeline.Sample) *timeline.Latency { return s.Whole }},
		{&f.Deliver, func(s *timeline.Sample) *timeline.Latency { return s.Deliver }},
		{&f.Commit, func(s *timeline.Sample) *timeline.Latency { return s.Commit }},
	} {
		var parts []*timeline.Latency
		for i := 1; i < len(part); i++ {
			parts = append(parts, l.from(&part[i]))
		}
		if *l.to, err = spread(parts); err != nil {
			return f, err
		}
	}
	f.processes(part, base)
	return f, nil
}

// between returns the samples of a phase: the first is the state in which it began.
func between(samples []timeline.Sample, beginMs, endMs int64) []timeline.Sample {
	first, last := -1, -1
	for i := range samples {
		if samples[i].AtMs <= beginMs || first < 0 {
			first = i
		}
		if samples[i].AtMs <= endMs {
			last = i
		}
	}
	if first < 0 || last < first {
		return nil
	}
	return samples[first : last+1]
}

// connectPerS counts only the time in which sessions were opened.
func connectPerS(part []timeline.Sample) float64 {
	var sessions uint64
	var ms int64
	for i := 1; i < len(part); i++ {
		if n := part[i].Sessions - part[i-1].Sessions; part[i].Sessions > part[i-1].Sessions {
			sessions, ms = sessions+n, ms+part[i].AtMs-part[i-1].AtMs
		}
	}
	if ms <= 0 {
		return 0
	}
	return float64(sessions) / float64(ms) * 1e3
}

// spread adds distributions up. It returns nil when nothing was measured.
func spread(parts []*timeline.Latency) (*Spread, error) {
	l, err := timeline.Add(parts...)
	if err != nil || l == nil {
		return nil, err
	}
	s := &Spread{Count: l.Count, P50Ms: l.P50Ms, P99Ms: l.P99Ms, P999Ms: l.P999Ms, MaxMs: l.MaxMs}
	h, err := l.Histogram()
	if err != nil {
		return nil, err
	}
	for i := 0; ; i++ {
		far := math.Pow(10, -float64(i)/curveSteps) // from 100 %, as a share
		if far*float64(l.Count) < 1 {
			break
		}
		p := math.Round((1-far)*1e8) / 1e6
		s.Curve = append(s.Curve, Point{p, float64(h.ValueAtPercentile(p)) / 1e3})
	}
	s.Curve = append(s.Curve, Point{100, l.MaxMs})
	return s, nil
}

// processes fills in what processes used. A server that is gone, or was not there at
// first, makes its figures unknown.
func (f *Figures) processes(part []timeline.Sample, base int64) {
	a, b := &part[0], &part[len(part)-1]
	if f.Seconds > 0 && b.Load.CPUMs > 0 {
		cores := float64(b.Load.CPUMs-a.Load.CPUMs) / 1e3 / f.Seconds
		f.LoadCores = &cores
	}
	if used, ok := UsedMs(a, b); ok && f.Seconds > 0 {
		cores := float64(used) / 1e3 / f.Seconds
		f.ServerCores = &cores
		if f.Recorded > 0 {
			us := float64(used) * 1e3 / float64(f.Recorded)
			f.ServerCPUUs = &us
		}
	}
	var readings, peak = []int64{}, int64(0)
	for i := len(part) / 2; i < len(part); i++ {
		if n, ok := TotalRSS(&part[i]); ok {
			readings = append(readings, n)
		}
	}
	for i := range part {
		n, _ := TotalRSS(&part[i])
		peak = max(peak, n)
	}
	if len(readings) == 0 {
		return
	}
	slices.Sort(readings)
	steady := readings[len(readings)/2]
	f.ServerRSS, f.ServerPeakRSS = &steady, &peak
	if base > 0 && b.Connected > 0 && b.Submitted == 0 && f.Seconds >= idleSeconds {
		// Less than before: few nodes, and what the server's start took is free again.
		if each := (steady - base) / int64(b.Connected); each > 0 {
			f.BytesPerNode = &each
		}
	}
}

// UsedMs is the processor time that the servers used between two samples; not ok
// when one is gone or none is measured.
func UsedMs(a, b *timeline.Sample) (ms int64, ok bool) {
	if len(a.Servers) == 0 || len(a.Servers) != len(b.Servers) {
		return 0, false
	}
	for i := range b.Servers {
		d := b.Servers[i].CPUMs - a.Servers[i].CPUMs
		if d < 0 || b.Servers[i].RSSBytes == 0 {
			return 0, false
		}
		ms += d
	}
	return ms, true
}

// TotalRSS is the resident memory of all servers; not ok when one is gone or none is
// measured.
func TotalRSS(s *timeline.Sample) (sum int64, ok bool) {
	for _, p := range s.Servers {
		if p.RSSBytes == 0 {
			return 0, false
		}
		sum += p.RSSBytes
	}
	return sum, len(s.Servers) > 0
}

// baseRSS is the servers' memory before the first session, or 0 when that is unknown.
func baseRSS(samples []timeline.Sample) (base int64) {
	for i := range samples {
		if samples[i].Sessions > 0 {
			break
		}
		if n, ok := TotalRSS(&samples[i]); ok {
			base = n
		}
	}
	return base
}

// BaseRSS is the servers' memory before the first session, or 0 when that is unknown.
func (s *Summary) BaseRSS() int64 { return baseRSS(s.Samples) }

// thin merges adjacent samples until each is of an interval in which rates mean
// something, and there are no more than most, and takes the buckets off. The first stays
// as it is: memory is counted from it.
func thin(samples []timeline.Sample, most int) ([]timeline.Sample, error) {
	out := []timeline.Sample{}
	if len(samples) == 0 {
		return out, nil
	}
	last := samples[len(samples)-1].AtMs
	interval := max(minIntervalMs, (last-samples[0].AtMs)/int64(most-1)+1)
	ends, at := []int{1}, samples[0].AtMs // where intervals end: before these
	for i := 1; i < len(samples); i++ {
		if samples[i].AtMs-at >= interval {
			ends, at = append(ends, i+1), samples[i].AtMs
		}
	}
	switch rest := ends[len(ends)-1] < len(samples); {
	case rest && len(ends) > 1: // less than an interval: it is the last one's
		ends[len(ends)-1] = len(samples)
	case rest:
		ends = append(ends, len(samples))
	}
	out = append(out, bare(samples[0]))
	for i := 1; i < len(ends); i++ {
		s, err := merged(samples[ends[i-1]:ends[i]])
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// merged is the last of some samples, with the latencies of all.
func merged(all []timeline.Sample) (timeline.Sample, error) {
	s := bare(all[len(all)-1])
	if len(all) == 1 {
		return s, nil
	}
	err := merge(&s, all)
	return s, err
}

// merge makes the latencies of s those of all samples.
func merge(s *timeline.Sample, all []timeline.Sample) error {
	var whole, deliver, commit []*timeline.Latency
	for i := range all {
		whole, deliver, commit = append(whole, all[i].Whole), append(deliver, all[i].Deliver), append(commit, all[i].Commit)
	}
	for _, l := range []struct {
		to   **timeline.Latency
		from []*timeline.Latency
	}{{&s.Whole, whole}, {&s.Deliver, deliver}, {&s.Commit, commit}} {
		sum, err := timeline.Add(l.from...)
		if err != nil {
			return err
		}
		*l.to = withoutBuckets(sum)
	}
	return nil
}

// bare is a sample without buckets.
func bare(s timeline.Sample) timeline.Sample {
	s.Whole, s.Deliver, s.Commit = withoutBuckets(s.Whole), withoutBuckets(s.Deliver), withoutBuckets(s.Commit)
	return s
}

func withoutBuckets(l *timeline.Latency) *timeline.Latency {
	if l == nil {
		return nil
	}
	b := *l
	b.Buckets = nil
	return &b
}
