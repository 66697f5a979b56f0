package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Table writes the summary for people.
func (s *Summary) Table(w io.Writer) error {
	a, f := &s.Account, &s.Figures
	rows := []row{
		{"scenario", fmt.Sprintf("%s, seed %d, %.0f s", s.Meta.Scenario, s.Meta.Seed, f.Seconds)},
		{"nodes", fmt.Sprintf("%d of %d connected at the most, %.0f connects a second", a.Connected, a.Nodes, f.ConnectPerS)},
	}
	if a.Jobs > 0 {
		rows = append(rows,
			row{"jobs", fmt.Sprintf("%d, %.0f outcomes a second", a.Jobs, f.JobsPerS)},
			row{"latency", f.Whole.String()},
			row{"  to the node", f.Deliver.String()},
			row{"  node to outcome", f.Commit.String()},
			row{"account", fmt.Sprintf("%d submitted, %d delivered, %d answered, %d recorded, %d lost, %d twice",
				a.Submitted, a.Delivered, a.Answered, a.Recorded, a.Lost, a.Duplicates)},
			row{"outcomes", outcomes(a.Outcomes)})
	}
	if f.ServerRSS != nil {
		text := fmt.Sprintf("%.1f MiB, at most %.1f MiB", float64(*f.ServerRSS)/(1<<20), float64(*f.ServerPeakRSS)/(1<<20))
		if f.BytesPerNode != nil {
			text += fmt.Sprintf(", %d bytes an idle node", *f.BytesPerNode)
		}
		rows = append(rows, row{"server memory", text})
	}
	if f.ServerCores != nil {
		text := fmt.Sprintf("%.2f cores", *f.ServerCores)
		if f.ServerCPUUs != nil {
			text += fmt.Sprintf(", %.1f us a job", *f.ServerCPUUs)
		}
		rows = append(rows, row{"server CPU", text})
	}
	for _, st := range s.Storms {
		rows = append(rows, row{"storm", fmt.Sprintf("%d sockets cut: all nodes back after %s, all jobs recorded after %s",
			st.Cut, After(st.ReconnectedMs), After(st.RecoveredMs))})
	}
	if s.Interrupted {
		rows = append(rows, row{"interrupted", "these are the figures so far"})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	return s.phases(w)
}

// phases writes a line for each phase.
func (s *Summary) phases(w io.Writer) error {
	if len(s.Parts) == 0 {
		return nil
	}
	rows := []row{{"\nphase", "   s  connected  connects/s    jobs/s    p50 ms    p99 ms   us/job  B/node"}}
	for i := range s.Parts {
		p := &s.Parts[i]
		p50, p99 := "-", "-"
		if p.Whole != nil {
			p50, p99 = fmt.Sprintf("%.1f", p.Whole.P50Ms), fmt.Sprintf("%.1f", p.Whole.P99Ms)
		}
		rows = append(rows, row{p.Name, fmt.Sprintf("%4.0f  %9d  %10.0f  %8.0f  %8s  %8s  %7s  %6s",
			p.Seconds, p.Connected, p.ConnectPerS, p.JobsPerS, p50, p99, optional("%.1f", p.ServerCPUUs), optional("%d", p.BytesPerNode))})
	}
	return table(w, rows)
}

// After is a time that something took, -1 being never.
func After(ms int64) string {
	if ms < 0 {
		return "never"
	}
	return fmt.Sprintf("%.2f s", float64(ms)/1e3)
}

func optional[T any](format string, v *T) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v)
}

// String is the distribution for people.
func (s *Spread) String() string {
	if s == nil {
		return "unknown"
	}
	return Latency{s.P50Ms, s.P99Ms, s.P999Ms, s.MaxMs}.String()
}

// outcomes writes counts by their word, the most first.
func outcomes(m map[string]int64) string {
	var words []string
	for w := range m {
		words = append(words, w)
	}
	slices.SortFunc(words, func(a, b string) int {
		if d := m[b] - m[a]; d != 0 {
			return int(min(max(d, -1), 1))
		}
		return strings.Compare(a, b)
	})
	for i, w := range words {
		words[i] = fmt.Sprintf("%d %s", m[w], w)
	}
	return strings.Join(words, ", ")
}

// Number writes 1234567 as 1,234,567.
func Number[T int | int64 | uint64](n T) string {
	s := fmt.Sprint(n)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}
