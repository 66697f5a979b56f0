//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is one peer with one shape.
type row struct {
	Peer    string `json:"peer"`
	About   string `json:"about"`
	Version string `json:"version,omitempty"`
	shape
	run                        // the median of each figure over the runs
	Ratio   map[string]float64 `json:"cpu_ratio,omitempty"` // processor time by job, to that of other peers
	Missing string             `json:"missing,omitempty"`
	Runs    []run              `json:"runs,omitempty"`
}

// report is everything that was measured.
type report struct {
	Machine  string  `json:"machine"`
	Kernel   string  `json:"kernel"`
	CPUs     int     `json:"cpus"`
	When     string  `json:"when"`
	Command  string  `json:"command"`
	Body     int     `json:"job_bytes"`
	Rounds   int     `json:"rounds"`
	SettleS  float64 `json:"settle_s"`
	MeasureS float64 `json:"measured_s"`
	Rows     []*row  `json:"rows"`
}

// floors are what the others are compared with.
var floors = []string{"gnetraw", "mosquitto"}

// finish fills in medians and ratios.
func (r *report) finish() {
	for _, x := range r.Rows {
		x.median()
	}
	for _, x := range r.Rows {
		for _, f := range r.Rows {
			if slices.Contains(floors, f.Peer) && f.Nodes == x.Nodes && f.CPUUsPerJob > 0 && x.CPUUsPerJob > 0 {
				if x.Ratio == nil {
					x.Ratio = map[string]float64{}
				}
				x.Ratio[f.Peer] = x.CPUUsPerJob / f.CPUUsPerJob
			}
		}
	}
}

// median takes the middle of each figure over the runs that ended well, or what went
// wrong when none did. Jobs and what was lost of them are added up.
func (x *row) median() {
	var good []run
	x.run = run{}
	for _, r := range x.Runs {
		if r.Error == "" {
			good = append(good, r)
		} else {
			x.Error = r.Error
		}
		x.Jobs, x.Lost, x.Strange = x.Jobs+r.Jobs, x.Lost+r.Lost, x.Strange+r.Strange
	}
	if len(good) == 0 {
		return
	}
	middle := func(of func(*run) *float64) {
		all := make([]float64, len(good))
		for i := range good {
			all[i] = *of(&good[i])
		}
		slices.Sort(all)
		n := len(all)
		*of(&x.run) = (all[(n-1)/2] + all[n/2]) / 2
	}
	for _, of := range []func(*run) *float64{
		func(r *run) *float64 { return &r.BytesPerNode }, func(r *run) *float64 { return &r.ConnectPerS },
		func(r *run) *float64 { return &r.ConnectCPUUs }, func(r *run) *float64 { return &r.JobsPerS },
		func(r *run) *float64 { return &r.P50Ms }, func(r *run) *float64 { return &r.P99Ms },
		func(r *run) *float64 { return &r.CPUUsPerJob }, func(r *run) *float64 { return &r.LoadCPUUs },
		func(r *run) *float64 { return &r.ServerCPUShare },
	} {
		middle(of)
	}
}

var heads = []string{"peer", "nodes", "window", "B a node", "connects/s", "CPU us a connect", "jobs/s", "p50 ms", "p99 ms", "CPU us a job", "to gnetraw", "to mosquitto", "lost"}

// cells are a row's, as they are shown.
func (x *row) cells() []string {
	number := func(format string, v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf(format, v)
	}
	out := []string{x.Peer, fmt.Sprint(x.Nodes), fmt.Sprint(x.Window)}
	if x.JobsPerS == 0 {
		return append(out, "-", "-", "-", "-", "-", "-", "-", "-", "-", "-")
	}
	return append(out, number("%.0f", x.BytesPerNode), number("%.0f", x.ConnectPerS), number("%.1f", x.ConnectCPUUs), number("%.0f", x.JobsPerS),
		number("%.2f", x.P50Ms), number("%.2f", x.P99Ms), number("%.2f", x.CPUUsPerJob),
		number("%.2f", x.Ratio["gnetraw"]), number("%.2f", x.Ratio["mosquitto"]), fmt.Sprint(x.Lost+x.Strange))
}

// notes say what the table does not show.
func (r *report) notes() (out []string) {
	seen := map[string]bool{}
	for _, x := range r.Rows {
		switch {
		case x.Missing != "" && !seen[x.Peer]:
			out = append(out, fmt.Sprintf("%s is missing: %s", x.Peer, x.Missing))
		case x.Missing == "" && x.Error != "":
			out = append(out, fmt.Sprintf("%s, %d nodes, failed: %s", x.Peer, x.Nodes, x.Error))
		}
		seen[x.Peer] = true
	}
	return out
}

// text writes the table for a terminal.
func (r *report) text(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, strings.Join(heads, "\t")+"\t")
	for i, x := range r.Rows {
		if i > 0 && r.Rows[i-1].Nodes != x.Nodes {
			fmt.Fprintln(t, strings.Repeat("\t", len(heads)))
		}
		fmt.Fprintln(t, strings.Join(x.cells(), "\t")+"\t")
	}
	_ = t.Flush()
	for _, n := range r.notes() {
		fmt.Fprintln(w, n)
	}
}

// markdown writes the table as a page.
func (r *report) markdown(w io.Writer) {
	fmt.Fprintf(w, "# Peers, side by side\n\nMade by `%s` on %s: %s, %d processors, Linux %s. Medians of %d rounds, %.0f s each.\n"+
		"How it is measured, and what each server is: [LOADTEST.md](../LOADTEST.md#peers).\n",
		r.Command, r.When, r.Machine, r.CPUs, r.Kernel, r.Rounds, r.MeasureS)
	nodes := -1
	for _, x := range r.Rows {
		if x.Nodes != nodes {
			nodes = x.Nodes
			fmt.Fprintf(w, "\n## %d nodes\n\n| %s |\n|---%s|\n", nodes, strings.Join(heads, " | "), strings.Repeat("|---:", len(heads)-1))
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(x.cells(), " | "))
	}
	fmt.Fprint(w, "\n## Versions\n\n| peer | what it is | version |\n|---|---|---|\n")
	seen := map[string]bool{}
	for _, x := range r.Rows {
		if !seen[x.Peer] {
			seen[x.Peer] = true
			fmt.Fprintf(w, "| %s | %s | %s |\n", x.Peer, x.About, x.Version)
		}
	}
	for _, n := range r.notes() {
		fmt.Fprintf(w, "\n%s\n", n)
	}
}
