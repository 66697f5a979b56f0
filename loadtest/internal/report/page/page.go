// Package page draws a run, or several beside each other, as one HTML file that needs
// nothing else: no script, font, style or picture from anywhere. The pictures are SVG,
// made here; a small script of the page's own reads values off them under the pointer,
// and nothing is missing without it.
package page

import (
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/roost-server/roost/loadtest/internal/report"
)

//go:embed page.tmpl page.css page.js
var files embed.FS

var tmpl = template.Must(template.New("page.tmpl").Funcs(template.FuncMap{
	"css": func() template.CSS { return template.CSS(file("page.css")) },
	"js":  func() template.JS { return template.JS(file("page.js")) },
	"inc": func(i int) int { return i + 1 },
}).ParseFS(files, "page.tmpl"))

func file(name string) string {
	b, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(b)
}

// Render writes the page of the runs; there must be one at least. The runs are not
// changed.
func Render(w io.Writer, runs []*report.Summary) error {
	if len(runs) == 0 {
		return errors.New("page: there are no runs to draw")
	}
	return tmpl.Execute(w, newPage(runs))
}

// pageView is what the template shows.
type pageView struct {
	Title    string
	Runs     []runView
	Compared []*chart // charts with a line for each run; none for a single one
}

// Several tells whether runs are compared.
func (p *pageView) Several() bool { return len(p.Runs) > 1 }

func newPage(runs []*report.Summary) *pageView {
	p := &pageView{Title: "Roost load test: " + runs[0].Meta.Scenario}
	names := labels(runs)
	for i, r := range runs {
		p.Runs = append(p.Runs, newRun(r, names[i], i+1))
	}
	if p.Several() {
		p.Title = "Roost load tests"
		p.Compared = compare(runs, names)
	}
	return p
}

// labels names runs apart: by their scenario, and a number where that is not enough.
func labels(runs []*report.Summary) []string {
	times := map[string]int{}
	for _, r := range runs {
		times[r.Meta.Scenario]++
	}
	seen := map[string]int{}
	var names []string
	for _, r := range runs {
		name := r.Meta.Scenario
		if name == "" {
			name = "run"
		}
		if seen[r.Meta.Scenario]++; times[r.Meta.Scenario] > 1 {
			name = fmt.Sprintf("%s %d", name, seen[r.Meta.Scenario])
		}
		names = append(names, name)
	}
	return names
}

// compare makes the charts with a line for each run. Those over time are of use only
// between runs of one scenario.
func compare(runs []*report.Summary, names []string) (out []*chart) {
	var wholes, delivers, commits []named
	for i, r := range runs {
		wholes = append(wholes, named{names[i], r.Figures.Whole})
		delivers = append(delivers, named{names[i], r.Figures.Deliver})
		commits = append(commits, named{names[i], r.Figures.Commit})
	}
	out = append(out,
		percentilePlot("Latency of the whole way by percentile", "All jobs of each run.", wholes),
		percentilePlot("Latency to the node by percentile", "Until the node had the job.", delivers),
		percentilePlot("Latency from node to outcome by percentile", "From there until the outcome was read.", commits))
	same := !slices.ContainsFunc(runs, func(r *report.Summary) bool { return r.Meta.Scenario != runs[0].Meta.Scenario })
	if same {
		out = append(out, overlays(runs, names)...)
	}
	return slices.DeleteFunc(out, (*chart).empty)
}

// overlays draw the main curve of each chart over time for every run.
func overlays(runs []*report.Summary, names []string) (out []*chart) {
	all := make([][]overTime, len(runs))
	seconds := 0.0
	for i, r := range runs {
		all[i] = charts(r)
		seconds = max(seconds, length(r))
	}
	for k := range all[0] {
		o := &all[0][k]
		c := &chart{title: o.title, note: o.note}
		if len(o.curves) > 1 {
			c.title += ": " + o.curves[o.main].name
		}
		for i, r := range runs {
			x, y := all[i][k].curves[o.main].values(r.Samples)
			c.lines = append(c.lines, line{name: names[i], style: i % styles, x: x, y: y})
		}
		c.overTime(o, seconds)
		out = append(out, c)
	}
	return out
}

// runView is a run for the template.
type runView struct {
	*report.Summary
	Label  string
	Number int
	Charts []*chart
}

func newRun(s *report.Summary, label string, number int) runView {
	r := runView{Summary: s, Label: label, Number: number}
	b := bands(s)
	over := charts(s)
	for i := range over {
		r.Charts = append(r.Charts, over[i].draw(s, b))
		if over[i].percentiles {
			r.Charts = append(r.Charts, percentilePlot("Latency by percentile",
				"All jobs of the run. Whole: until the outcome was read; its parts do not add up.",
				[]named{{"whole", s.Figures.Whole}, {"to the node", s.Figures.Deliver}, {"node to outcome", s.Figures.Commit}}))
		}
	}
	r.Charts = slices.DeleteFunc(r.Charts, (*chart).empty)
	return r
}

// OK is the verdict.
func (r runView) OK() bool {
	return len(r.Problems) == 0 && r.Account.Lost == 0 && r.Account.Duplicates == 0
}

// Started is when the run began.
func (r runView) Started() string {
	if r.Meta.StartedAt.IsZero() {
		return ""
	}
	return r.Meta.StartedAt.UTC().Format("2006-01-02 15:04 UTC")
}

// Machine says what the run was on.
func (r runView) Machine() string {
	m := r.Meta.Machine
	return fmt.Sprintf("%s, %d cores, %.1f GiB, %s", m.CPU, m.Cores, float64(m.MemoryBytes)/(1<<30), m.Kernel)
}

// Command is what to type to run the same again.
func (r runView) Command() string {
	var words []string
	for _, w := range r.Meta.Command {
		words = append(words, quote(w))
	}
	return strings.Join(words, " ")
}

// quote writes a word as a POSIX shell takes it.
func quote(w string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_=.,:/@%+", c)
	}
	if w != "" && strings.IndexFunc(w, func(c rune) bool { return !plain(c) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// Tile is a figure of the header.
type Tile struct{ Value, Unit, Name string }

// Tiles are the figures that matter most.
func (r runView) Tiles() (out []Tile) {
	f, a := &r.Figures, &r.Account
	out = append(out, Tile{report.Number(a.Connected), "", "connected nodes"})
	if f.ConnectPerS > 0 {
		out = append(out, Tile{string(rate(f.ConnectPerS)), "/s", "connects"})
	}
	if a.Recorded > 0 {
		out = append(out, Tile{string(rate(f.JobsPerS)), "/s", "jobs"})
	}
	if f.Whole != nil {
		out = append(out, Tile{msText(f.Whole.P50Ms), "ms", "p50, whole"}, Tile{msText(f.Whole.P99Ms), "ms", "p99, whole"})
	}
	if f.ServerCPUUs != nil {
		out = append(out, Tile{fmt.Sprintf("%.1f", *f.ServerCPUUs), "µs", "CPU a job"})
	}
	if f.BytesPerNode != nil {
		out = append(out, Tile{report.Number(*f.BytesPerNode), "B", "an idle node"})
	}
	return out
}

// Cell is a cell of a table; a dash for what is unknown.
type Cell string

// Row are the cells of one set of figures, as in the head of the template's tables.
func (r runView) Row(f report.Figures) []Cell {
	cells := []Cell{
		Cell(fmt.Sprintf("%.0f", f.Seconds)), Cell(report.Number(f.Connected)),
		rate(f.ConnectPerS), rate(f.SubmittedPerS), rate(f.JobsPerS),
	}
	cells = append(cells, spread(f.Whole, true)...)
	cells = append(cells, spread(f.Deliver, false)...)
	cells = append(cells, spread(f.Commit, false)...)
	rss := Cell("–")
	if f.ServerRSS != nil {
		rss = Cell(fmt.Sprintf("%.1f", float64(*f.ServerRSS)/(1<<20)))
	}
	return append(cells, opt("%.2f", f.ServerCores), opt("%.1f", f.ServerCPUUs), rss, optNumber(f.BytesPerNode))
}

// Outcomes are the first outcomes by their word.
func (r runView) Outcomes() (rows [][2]string) {
	var words []string
	for w := range r.Account.Outcomes {
		words = append(words, w)
	}
	slices.Sort(words)
	for _, w := range words {
		rows = append(rows, [2]string{w, report.Number(r.Account.Outcomes[w])})
	}
	return rows
}

// StormView is a storm for the template.
type StormView struct {
	Phase, At, Cut, Reconnected, Recovered string
	Others, All                            Cell // p99 of the nodes that it did not hit, and of all
}

// StormRows are the moments at which sockets were cut.
func (r runView) StormRows() (rows []StormView) {
	for _, s := range r.Storms {
		v := StormView{
			Phase: s.Phase, At: fmt.Sprintf("%.1f s", float64(s.AtMs)/1e3), Cut: report.Number(s.Cut),
			Reconnected: report.After(s.ReconnectedMs), Recovered: report.After(s.RecoveredMs), Others: "–", All: "–",
		}
		for i := range r.Phases {
			p := &r.Phases[i]
			if p.Name != s.Phase || s.AtMs < p.BeginMs || s.AtMs > p.EndMs {
				continue
			}
			if p.Others != nil {
				v.Others = Cell(msText(p.Others.P99Ms) + " ms")
			}
			if p.Whole != nil {
				v.All = Cell(msText(p.Whole.P99Ms) + " ms")
			}
		}
		rows = append(rows, v)
	}
	return rows
}

// N writes a count with commas.
func (r runView) N(n any) string {
	switch n := n.(type) {
	case int:
		return report.Number(n)
	case int64:
		return report.Number(n)
	}
	return fmt.Sprint(n)
}

func spread(s *report.Spread, all bool) []Cell {
	switch {
	case s == nil && all:
		return []Cell{"–", "–", "–"}
	case s == nil:
		return []Cell{"–"}
	case all:
		return []Cell{Cell(msText(s.P50Ms)), Cell(msText(s.P99Ms)), Cell(msText(s.P999Ms))}
	}
	return []Cell{Cell(msText(s.P99Ms))}
}

func rate(v float64) Cell {
	switch {
	case v == 0:
		return "–"
	case v < 10:
		return Cell(fmt.Sprintf("%.1f", v))
	}
	return Cell(report.Number(int64(math.Round(v))))
}

func opt(format string, v *float64) Cell {
	if v == nil {
		return "–"
	}
	return Cell(fmt.Sprintf(format, *v))
}

func optNumber(v *int64) Cell {
	if v == nil {
		return "–"
	}
	return Cell(report.Number(*v))
}

// msText writes milliseconds with three digits or so.
func msText(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return report.Number(int64(math.Round(v)))
}
