//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/clustertest/netlab"
)

// runner runs scenarios, one after the other.
type runner struct {
	opt     *options
	lab     *netlab.Lab
	dir     string
	started time.Time
	can     features

	mu  sync.Mutex
	out io.Writer
}

// say prints a line about what goes on.
func (r *runner) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%7.1fs  %s\n", time.Since(r.started).Seconds(), fmt.Sprintf(format, args...))
}

// outcome is what came of a scenario.
type outcome struct {
	Name    string             `json:"scenario"`
	Result  string             `json:"result"`            // ok, failed, or skipped
	Why     []string           `json:"why,omitempty"`     // it failed or was skipped
	Figures map[string]float64 `json:"figures,omitempty"` // by what was measured
	Report  *checker.Report    `json:"report,omitempty"`
	Seconds float64            `json:"seconds"`

	shown []string // the figures, for people
}

// Results.
const (
	passed  = "ok"
	failed  = "failed"
	skipped = "skipped"
)

// run is "clustertest run", on the host ctl.
func run(ctx context.Context, o *options, out io.Writer) error {
	dir, err := os.MkdirTemp("", "roost-clustertest-")
	if err != nil {
		return err
	}
	r := &runner{opt: o, lab: netlab.Open(o.owner, hosts...), dir: dir, out: out, started: time.Now()}
	if r.can, err = probe(ctx, o); err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, %s broker, %d x %d nodes, %d records a second; logs in %s\n", o.Seed, o.Kafka, nodeHosts, o.nodes, o.Rate, dir)
	for _, lack := range r.can.lacks() {
		fmt.Fprintln(out, "  the binary has no", lack)
	}
	var all []*outcome
	for _, s := range scenarios {
		if len(o.only) > 0 && !slices.Contains(o.only, s.name) {
			continue
		}
		all = append(all, r.scenario(ctx, s))
		if ctx.Err() != nil {
			break
		}
	}
	bad := false
	if ctx.Err() == nil { // else the last was not made to its end
		bad = slices.ContainsFunc(all, func(o *outcome) bool { return o.Result == failed })
		err = r.conclude(all)
	}
	if o.Keep || bad {
		fmt.Fprintf(os.Stderr, "clustertest: seed %d; logs and data are kept in %s\n", o.Seed, dir)
	} else if e := os.RemoveAll(dir); e != nil {
		err = errors.Join(err, e)
	}
	if bad {
		err = errors.Join(err, errBad)
	}
	return errors.Join(err, ctx.Err())
}

// scenario runs one with a cluster of its own.
func (r *runner) scenario(ctx context.Context, s *scenario) *outcome {
	begin := time.Now()
	o := &outcome{Name: s.name, Result: passed, Figures: map[string]float64{}}
	if s.lacking != nil {
		if why := s.lacking(r); why != "" {
			o.Result, o.Why = skipped, []string{why}
			r.say("=== %s: skipped, %s", s.name, why)
			return o
		}
	}
	r.say("=== %s: %s", s.name, s.what)
	st := newStage(r, s, filepath.Join(r.dir, s.name), o)
	rep, err := st.whole(ctx)
	st.tearDown()
	if ctx.Err() != nil {
		return o
	}
	if err != nil {
		st.fail("it could not be run: %v", err)
	}
	if rep != nil {
		o.Report = rep
		if !rep.Sound() {
			st.fail("the checker found %d lost, %d duplicates, %d wrong; see %s", rep.Lost, rep.Duplicates, rep.Wrong, filepath.Join(st.dir, findingsFile))
			_ = os.WriteFile(filepath.Join(st.dir, findingsFile), []byte(strings.Join(rep.All, "\n")+"\n"), 0o600)
			r.mu.Lock()
			rep.Print(r.out)
			r.mu.Unlock()
		}
	}
	o.Seconds = time.Since(begin).Round(100 * time.Millisecond).Seconds()
	r.say("=== %s: %s after %.0f s", s.name, o.Result, o.Seconds)
	if o.Result == passed && !r.opt.Keep {
		_ = os.RemoveAll(st.dir) // the whole directory goes at the end
	}
	return o
}

// findingsFile has all that the checker found in a scenario.
const findingsFile = "findings.txt"

// conclude prints the table and the line of JSON.
func (r *runner) conclude(all []*outcome) error {
	fmt.Fprintln(r.out)
	w := tabwriter.NewWriter(r.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "scenario\tresult\tlost\ttwice\twrong\tassignments\tfigures")
	for _, o := range all {
		lost, twice, wrong, assignments := "-", "-", "-", "-"
		if o.Report != nil {
			lost, twice, wrong = fmt.Sprint(o.Report.Lost), fmt.Sprint(o.Report.Duplicates), fmt.Sprint(o.Report.Wrong)
			assignments = fmt.Sprint(o.Report.Assignments)
		}
		lines := slices.Concat(o.shown, prefixed("! ", o.Why))
		if len(lines) == 0 {
			lines = []string{""}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Name, o.Result, lost, twice, wrong, assignments, lines[0])
		for _, l := range lines[1:] {
			fmt.Fprintf(w, "\t\t\t\t\t\t%s\n", l)
		}
	}
	w.Flush()
	line, err := json.Marshal(map[string]any{
		"scenarios": all, "failed": count(all, failed), "skipped": count(all, skipped), "kafka": r.opt.Kafka,
		"nodes": r.opt.nodes * nodeHosts, "rate": r.opt.Rate, "seed": r.opt.Seed,
		"seconds": time.Since(r.started).Round(100 * time.Millisecond).Seconds(),
	})
	if err == nil {
		fmt.Fprintf(r.out, "\n%s\n", line)
	}
	return err
}

func prefixed(prefix string, lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, prefix+l)
	}
	return out
}

func count(all []*outcome, result string) (n int) {
	for _, o := range all {
		if o.Result == result {
			n++
		}
	}
	return n
}
