package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// maxSamples is how many samples a summary keeps: more than a plot has room for.
const maxSamples = 300

// Summary is a run with its figures, for programs and for the page: a timeline without
// the distributions' buckets. A long run has its samples merged, to at most 300.
type Summary struct {
	timeline.Timeline
	Figures Figures        `json:"figures"`
	Parts   []PhaseFigures `json:"phase_figures"`
}

// PhaseFigures are the figures of one phase.
type PhaseFigures struct {
	Name string `json:"name"`
	Figures
}

// Figures are what a run, or a phase of it, comes to. What was not measured is null.
type Figures struct {
	Seconds       float64  `json:"seconds"`
	Connected     int      `json:"connected"`     // at the end
	ConnectPerS   float64  `json:"connect_per_s"` // while there were connects
	SubmittedPerS float64  `json:"submitted_per_s"`
	JobsPerS      float64  `json:"jobs_per_s"` // recorded; of a whole run: of the phase with most
	Recorded      int64    `json:"recorded"`
	Whole         *Spread  `json:"whole"`
	Deliver       *Spread  `json:"deliver"`
	Commit        *Spread  `json:"commit"`
	ServerCPUUs   *float64 `json:"server_cpu_us_per_job"` // of a whole run: of the phase with most
	ServerCores   *float64 `json:"server_cores"`
	LoadCores     *float64 `json:"load_cores"`
	ServerRSS     *int64   `json:"server_rss_bytes"` // at the end, of all servers
	ServerPeakRSS *int64   `json:"server_rss_peak_bytes"`
	BytesPerNode  *int64   `json:"server_rss_bytes_per_node"` // of idle nodes: growth since before the first session, before the first job
}

// Spread is a distribution without its buckets.
type Spread struct {
	Count  int64   `json:"count"`
	P50Ms  float64 `json:"p50_ms"`
	P99Ms  float64 `json:"p99_ms"`
	P999Ms float64 `json:"p999_ms"`
	MaxMs  float64 `json:"max_ms"`
	// Curve is the distribution by percentile, ever closer to 100.
	Curve []Point `json:"curve,omitempty"`
}

// Point is a percentile and its value.
type Point struct {
	Percentile float64 `json:"percentile"`
	Ms         float64 `json:"ms"`
}

// Load reads a timeline.json, a summary.json, or one of them from a folder.
func Load(name string) (*Summary, error) {
	b, err := os.ReadFile(name)
	if info, e := os.Stat(name); e == nil && info.IsDir() {
		b, err = os.ReadFile(filepath.Join(name, "timeline.json"))
		if errors.Is(err, fs.ErrNotExist) {
			b, err = os.ReadFile(filepath.Join(name, "summary.json"))
		}
	}
	if err != nil {
		return nil, err
	}
	s, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// parse tells a summary from a timeline by the figures, which it alone has.
func parse(b []byte) (*Summary, error) {
	var kind struct {
		Meta    *timeline.Meta  `json:"meta"`
		Figures json.RawMessage `json:"figures"`
	}
	if err := json.Unmarshal(b, &kind); err != nil {
		return nil, fmt.Errorf("no report: %w", err)
	}
	if kind.Meta == nil {
		return nil, errors.New(`no report: it has no "meta"; a timeline.json or summary.json of "loadtest run --out" is expected`)
	}
	var s Summary
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("no report: %w", err)
	}
	if kind.Figures != nil {
		return &s, nil
	}
	return Summarize(&s.Timeline)
}

// Create writes a file as a whole or not at all.
func Create(name string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".roost-report-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of no effect once it has its name
	err = fill(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
