//go:build linux

package live

import (
	"fmt"

	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// historyLength is how many values the sparkline keeps.
const historyLength = 60

// rateSpan is the shortest time, in seconds, of which rates are shown: samples at the
// border of two phases may be next to each other.
const rateSpan = 0.4

// model is what the view knows: the last sample, and what it says beside those before.
type model struct {
	s        timeline.Sample
	before   timeline.Sample // from which rates count
	any      bool
	connects float64 // a second
	jobsPerS float64
	history  []float64 // of jobs a second
	cpu      float64   // cores that all servers use
	cpuKnown bool
	loadCPU  float64
	usPerJob float64
	baseRSS  int64 // of all servers, before the first session
	whole    string
	parts    string
}

// add takes the next sample.
func (m *model) add(s *timeline.Sample) {
	before, had := m.before, m.any
	m.s, m.any = *s, true
	if s.Sessions == 0 || !had {
		m.baseRSS = rss(s.Servers)
	}
	if s.Whole != nil {
		m.whole = latency(s.Whole)
		m.parts = "p99: " + ms99(s.Deliver) + " to the node, " + ms99(s.Commit) + " from there to the outcome"
	}
	dt := float64(s.AtMs-before.AtMs) / 1e3
	if had && dt < rateSpan {
		return
	}
	m.before = *s
	if !had {
		return
	}
	m.connects = float64(s.Sessions-min(before.Sessions, s.Sessions)) / dt
	m.jobsPerS = float64(s.Recorded-before.Recorded) / dt
	if m.history = append(m.history, m.jobsPerS); len(m.history) > historyLength {
		m.history = m.history[1:]
	}
	used := cpuMs(s.Servers) - cpuMs(before.Servers)
	m.cpuKnown = len(s.Servers) > 0 && len(s.Servers) == len(before.Servers) && used >= 0
	m.cpu = float64(used) / 1e3 / dt
	m.loadCPU = float64(s.Load.CPUMs-before.Load.CPUMs) / 1e3 / dt
	m.usPerJob = 0
	if n := s.Recorded - before.Recorded; n > 0 {
		m.usPerJob = float64(used) * 1e3 / float64(n)
	}
}

// jobs is the account so far.
func (m *model) jobs() string {
	s := fmt.Sprintf("%s/s  %s submitted, %s recorded, %s under way",
		rate(m.jobsPerS), report.Number(m.s.Submitted), report.Number(m.s.Recorded), report.Number(m.s.Submitted-m.s.Recorded))
	if m.s.Duplicates > 0 {
		s += fmt.Sprintf(", %s TWICE", report.Number(m.s.Duplicates))
	}
	if m.s.NotOK > 0 {
		s += fmt.Sprintf(", %s not ok", report.Number(m.s.NotOK))
	}
	return s
}

// servers is what the server processes use, or "" when none is measured.
func (m *model) servers() string {
	if len(m.s.Servers) == 0 {
		return ""
	}
	text := ""
	if m.cpuKnown {
		text = processes(m.cpu, rss(m.s.Servers))
	} else {
		text = bytesText(rss(m.s.Servers))
	}
	if m.usPerJob > 0 && m.cpuKnown {
		text += fmt.Sprintf("  %.1f us a job", m.usPerJob)
	}
	if grown := rss(m.s.Servers) - m.baseRSS; m.s.Connected > 0 && m.s.Submitted == 0 && grown > 0 {
		text += fmt.Sprintf("  %s bytes a node", report.Number(grown/int64(m.s.Connected)))
	}
	return text
}

// line is all of it in one, for logs.
func (m *model) line(phase string) string {
	s := &m.s
	if phase != "" {
		phase += "  "
	}
	text := fmt.Sprintf("%3d s  %sconnected %d, %.0f/s", s.AtMs/1000, phase, s.Connected, m.connects)
	if s.Broken > 0 {
		text += fmt.Sprintf(", %d broken", s.Broken)
	}
	if s.Submitted > 0 {
		text += fmt.Sprintf("  %.0f jobs/s, %d of %d recorded, %d twice", m.jobsPerS, s.Recorded, s.Submitted, s.Duplicates)
	}
	if s.Whole != nil {
		text += "  " + latency(s.Whole)
	}
	if len(s.Servers) > 0 {
		text += "  server " + m.servers()
	}
	return text
}

func cpuMs(ps []timeline.Process) (sum int64) {
	for _, p := range ps {
		sum += p.CPUMs
	}
	return sum
}

func rss(ps []timeline.Process) (sum int64) {
	for _, p := range ps {
		sum += p.RSSBytes
	}
	return sum
}

func processes(cores float64, rss int64) string {
	return fmt.Sprintf("%3.0f %% CPU  %s", cores*100, bytesText(rss))
}

func latency(l *timeline.Latency) string {
	return fmt.Sprintf("p50 %s  p99 %s  p99.9 %s  max %s", ms(l.P50Ms), ms(l.P99Ms), ms(l.P999Ms), ms(l.MaxMs))
}

func ms99(l *timeline.Latency) string {
	if l == nil {
		return "unknown"
	}
	return ms(l.P99Ms)
}

func ms(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.1f s", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}

func bytesText(n int64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func rate(v float64) string { return report.Number(int64(v + 0.5)) }
