package page

import (
	"fmt"
	"math"
	"slices"

	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// minJobs is how many outcomes an interval needs for a figure by job: processor time is
// measured in steps of 10 ms.
const minJobs = 50

// curve is what a chart over time shows of a sample; before is the sample before.
// NaN: nothing.
type curve struct {
	name string
	of   func(before, s *timeline.Sample) float64
	rare bool // left out of a run in which it is 0 throughout
}

// overTime is a chart whose values come from samples.
type overTime struct {
	title, note, yLabel string
	scale               scale
	curves              []curve
	main                int  // the curve that is compared with other runs'
	percentiles         bool // the plot by percentile comes behind it
}

// scale is the sort of a chart's y axis.
type scale int

const (
	counts scale = iota
	bytesScale
	logMs
)

// charts are the charts over time of a run, those without values left out.
func charts(s *report.Summary) []overTime {
	base := s.BaseRSS()
	return []overTime{
		{"Connected nodes", "Nodes with a session, as the nodes see it.", "nodes", counts, []curve{
			{name: "connected", of: func(_, s *timeline.Sample) float64 { return float64(s.Connected) }},
		}, 0, false},
		{"Connect rate", "Sessions opened, first ones and reconnects; and connections that ended against the nodes' will.", "a second", counts, []curve{
			{name: "opened", of: per(func(s *timeline.Sample) float64 { return float64(s.Sessions) })},
			{name: "broken", of: per(func(s *timeline.Sample) float64 { return float64(s.Broken) }), rare: true},
		}, 0, false},
		{"Jobs a second", "Assignments: one for each node that a job is for.", "jobs/s", counts, []curve{
			{name: "submitted", of: whenJobs(per(func(s *timeline.Sample) float64 { return float64(s.Submitted) }))},
			{name: "recorded", of: whenJobs(per(func(s *timeline.Sample) float64 { return float64(s.Recorded) }))},
		}, 1, false},
		{"Jobs under way", "Submitted, and their outcome not read yet.", "jobs", counts, []curve{
			{name: "under way", of: whenJobs(func(_, s *timeline.Sample) float64 { return float64(s.Submitted - s.Recorded) })},
		}, 0, false},
		{"Latency of the whole way", "From when the job was due, or handed to the Kafka client, until its outcome was read.", "ms, logarithmic", logMs, []curve{
			{name: "p50", of: ms(whole, p50)}, {name: "p99", of: ms(whole, p99)}, {name: "p99.9", of: ms(whole, p999)}, {name: "max", of: ms(whole, worst)},
		}, 1, true},
		{"Latency of the parts, p99", "To the node: until it had the job. To the outcome: from there until the outcome was read.", "ms, logarithmic", logMs, []curve{
			{name: "to the node", of: ms(deliver, p99)}, {name: "node to outcome", of: ms(commit, p99)},
		}, 0, false},
		{"Processor time", "Cores in use: user and system time by time passed.", "cores", counts, processors(s), 0, false},
		{"Server CPU a job", "Processor time of the servers by job recorded in the same interval.", "µs a job", counts, []curve{
			{name: "CPU a job", of: cpuPerJob},
		}, 0, false},
		{"Memory", "Resident memory.", "MiB", bytesScale, memories(s), 0, false},
		{"Server memory a node", "Growth of resident memory since before the first session, by node connected. Once there are jobs it holds their memory, too.", "bytes a node", counts, []curve{
			{name: "bytes a node", of: bytesPerNode(base, s.Account.Connected)},
		}, 0, false},
	}
}

// per is the rate at which a counter rises.
func per(count func(*timeline.Sample) float64) func(before, s *timeline.Sample) float64 {
	return func(before, s *timeline.Sample) float64 {
		if before == nil || s.AtMs <= before.AtMs {
			return math.NaN()
		}
		return max(0, count(s)-count(before)) / float64(s.AtMs-before.AtMs) * 1e3
	}
}

// whenJobs shows nothing before the first job.
func whenJobs(f func(before, s *timeline.Sample) float64) func(before, s *timeline.Sample) float64 {
	return func(before, s *timeline.Sample) float64 {
		if s.Submitted == 0 {
			return math.NaN()
		}
		return f(before, s)
	}
}

func whole(s *timeline.Sample) *timeline.Latency   { return s.Whole }
func deliver(s *timeline.Sample) *timeline.Latency { return s.Deliver }
func commit(s *timeline.Sample) *timeline.Latency  { return s.Commit }

func p50(l *timeline.Latency) float64   { return l.P50Ms }
func p99(l *timeline.Latency) float64   { return l.P99Ms }
func p999(l *timeline.Latency) float64  { return l.P999Ms }
func worst(l *timeline.Latency) float64 { return l.MaxMs }

func ms(which func(*timeline.Sample) *timeline.Latency, value func(*timeline.Latency) float64) func(_, s *timeline.Sample) float64 {
	return func(_, s *timeline.Sample) float64 {
		l := which(s)
		if l == nil || l.Count == 0 {
			return math.NaN()
		}
		return value(l)
	}
}

// cores is the processor time of a process by time passed.
func cores(of func(*timeline.Sample) *timeline.Process) func(before, s *timeline.Sample) float64 {
	return func(before, s *timeline.Sample) float64 {
		if before == nil || s.AtMs <= before.AtMs {
			return math.NaN()
		}
		a, b := of(before), of(s)
		if a == nil || b == nil || b.RSSBytes == 0 || b.CPUMs < a.CPUMs {
			return math.NaN()
		}
		return float64(b.CPUMs-a.CPUMs) / float64(s.AtMs-before.AtMs)
	}
}

// processors has a line for each server, as far as lines can be told apart, and one for
// the load.
func processors(s *report.Summary) (out []curve) {
	for i, name := range servers(s) {
		out = append(out, curve{name: name, of: cores(server(i))})
	}
	return append(out, curve{name: "load", of: cores(func(s *timeline.Sample) *timeline.Process { return &s.Load })})
}

func memories(s *report.Summary) (out []curve) {
	of := func(which func(*timeline.Sample) *timeline.Process) func(_, s *timeline.Sample) float64 {
		return func(_, s *timeline.Sample) float64 {
			if p := which(s); p != nil && p.RSSBytes > 0 {
				return float64(p.RSSBytes)
			}
			return math.NaN()
		}
	}
	for i, name := range servers(s) {
		out = append(out, curve{name: name, of: of(server(i))})
	}
	return append(out, curve{name: "load", of: of(func(s *timeline.Sample) *timeline.Process { return &s.Load })})
}

// servers are the names of the servers of a run, at most as many as a chart has styles
// beside the load's.
func servers(s *report.Summary) (names []string) {
	for i := range s.Samples {
		for k := len(names); k < len(s.Samples[i].Servers) && k < styles-1; k++ {
			name := s.Samples[i].Servers[k].Name
			if name == "" {
				name = "server"
				if k > 0 {
					name = fmt.Sprintf("server %d", k+1)
				}
			}
			names = append(names, name)
		}
	}
	return names
}

func server(i int) func(*timeline.Sample) *timeline.Process {
	return func(s *timeline.Sample) *timeline.Process {
		if i >= len(s.Servers) {
			return nil
		}
		return &s.Servers[i]
	}
}

func cpuPerJob(before, s *timeline.Sample) float64 {
	if before == nil {
		return math.NaN()
	}
	jobs := s.Recorded - before.Recorded
	used, ok := report.UsedMs(before, s)
	if !ok || jobs < minJobs {
		return math.NaN()
	}
	return float64(used) * 1e3 / float64(jobs)
}

// bytesPerNode says nothing while few nodes are connected: what the server needs for
// itself would be shared among them.
func bytesPerNode(base int64, most int) func(_, s *timeline.Sample) float64 {
	return func(_, s *timeline.Sample) float64 {
		rss, ok := report.TotalRSS(s)
		if !ok || base == 0 || s.Connected == 0 || s.Connected < most/2 {
			return math.NaN()
		}
		return max(0, float64(rss-base)/float64(s.Connected))
	}
}

// values are what a curve shows of a run, by time in seconds.
func (c *curve) values(samples []timeline.Sample) (x, y []float64) {
	for i := range samples {
		var before *timeline.Sample
		if i > 0 {
			before = &samples[i-1]
		}
		x = append(x, float64(samples[i].AtMs)/1e3)
		y = append(y, c.of(before, &samples[i]))
	}
	return x, y
}

// span is from the smallest to the largest value of lines that is a number.
func span(lines []line) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for i := range lines {
		for _, v := range lines[i].y {
			if !math.IsNaN(v) {
				lo, hi = min(lo, v), max(hi, v)
			}
		}
	}
	return lo, hi
}

// axisOf is the y axis for a span, and the unit for its label.
func axisOf(kind scale, lo, hi float64, label string) (axis, string) {
	switch kind {
	case logMs:
		return logarithmic(max(lo, 0.01), max(hi, 0.02)), label
	case bytesScale:
		if hi >= 4<<30 {
			return linear(hi, 1<<30, 5), "GiB"
		}
		return linear(hi, 1<<20, 5), "MiB"
	}
	return linear(hi, 1, 5), label
}

// draw makes the chart of a run.
func (o *overTime) draw(s *report.Summary, bands []band) *chart {
	c := &chart{title: o.title, note: o.note, bands: bands}
	for i := range o.curves {
		x, y := o.curves[i].values(s.Samples)
		l := line{name: o.curves[i].name, style: i % styles, x: x, y: y}
		if (&chart{lines: []line{l}}).empty() || i > 0 && o.curves[i].rare && zero(y) {
			continue
		}
		c.lines = append(c.lines, l)
	}
	c.overTime(o, length(s))
	return c
}

// zero tells whether values are 0, as far as there are any.
func zero(y []float64) bool {
	return !slices.ContainsFunc(y, func(v float64) bool { return v > 0 })
}

// overTime gives the chart its axes.
func (c *chart) overTime(o *overTime, seconds float64) {
	if c.empty() {
		return
	}
	var unit string
	c.x, unit = duration(seconds)
	c.xLabel = "time since the start, " + unit
	lo, hi := span(c.lines)
	c.y, c.yLabel = axisOf(o.scale, lo, hi, o.yLabel)
}

// length is how long a run took, in seconds.
func length(s *report.Summary) float64 {
	ms := int64(1)
	if n := len(s.Samples); n > 0 {
		ms = max(ms, s.Samples[n-1].AtMs)
	}
	for _, p := range s.Phases {
		ms = max(ms, p.EndMs)
	}
	return float64(ms) / 1e3
}

func bands(s *report.Summary) (out []band) {
	for i, p := range s.Phases {
		out = append(out, band{p.Name, i + 1, float64(p.BeginMs) / 1e3, float64(p.EndMs) / 1e3})
	}
	return out
}

// named is a distribution for a percentile plot.
type named struct {
	name   string
	spread *report.Spread
}

// percentilePlot draws distributions over how far a percentile is from 100.
func percentilePlot(title, note string, all []named) *chart {
	c := &chart{title: title, note: note, xLabel: "share of the jobs that took no longer", yLabel: "ms, logarithmic"}
	far := 0.0
	for _, n := range all {
		if n.spread == nil || len(n.spread.Curve) == 0 {
			continue
		}
		end := math.Log10(float64(max(n.spread.Count, 1)))
		far = max(far, end)
		l := line{name: n.name, style: len(c.lines) % styles}
		for _, p := range n.spread.Curve {
			x := end
			if p.Percentile < 100 {
				x = min(end, -math.Log10(1-p.Percentile/100))
			}
			l.x, l.y = append(l.x, x), append(l.y, max(p.Ms, 0.001))
		}
		c.lines = append(c.lines, l)
	}
	if c.empty() {
		return c
	}
	c.x = percentiles(far)
	lo, hi := span(c.lines)
	c.y, _ = axisOf(logMs, lo, hi, "")
	return c
}
