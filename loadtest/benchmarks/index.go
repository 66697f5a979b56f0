//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/report/page"
)

// index writes the page of all runs and the README, from whatever there is: those of
// an earlier time, too.
func (s *session) index() error {
	var runs []*report.Summary
	var which []benchmark
	for _, b := range plan {
		r, err := report.Load(s.file(b.name, ".json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		runs, which = append(runs, r), append(which, b)
	}
	if len(runs) == 0 {
		return nil
	}
	if err := s.write("index.html", func(w io.Writer) error { return page.Render(w, runs) }); err != nil {
		return err
	}
	return s.write("README.md", func(w io.Writer) error {
		_, err := io.WriteString(w, readme(which, runs, s.has("peers.md")))
		return err
	})
}

// has tells whether a file is in the folder.
func (s *session) has(name string) bool {
	_, err := os.Stat(filepath.Join(s.out, name))
	return err == nil
}

// readme is the folder's README.
func readme(which []benchmark, runs []*report.Summary, peers bool) string {
	var b strings.Builder
	b.WriteString(`# Benchmarks

Made by ` + "`make benchmarks`" + `: server, broker and load on one machine, which share its processors.
Compare figures of one machine only. What they mean: [LOADTEST.md](../LOADTEST.md).

`)
	fmt.Fprintf(&b, "| run | question | nodes | connects/s | jobs/s | p50 ms | p99 ms | p99 to node ms | p99 to outcome ms | server CPU µs a job | server B an idle node | lost | twice |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for i, r := range runs {
		f, a := &r.Figures, &r.Account
		p50, p99 := "", ""
		if f.Whole != nil {
			p50, p99 = ms(f.Whole.P50Ms), ms(f.Whole.P99Ms)
		}
		fmt.Fprintf(&b, "| [%s](%s.html) | %s | %d | %s | %s | %s | %s | %s | %s | %s | %s | %d | %d |\n",
			which[i].name, which[i].name, which[i].what, a.Connected, positive(f.ConnectPerS), positive(f.JobsPerS), p50, p99,
			part(f.Deliver), part(f.Commit), value("%.1f", f.ServerCPUUs), value("%d", f.BytesPerNode), a.Lost, a.Duplicates)
	}
	b.WriteString("\nJobs a second and CPU are of the phase with most jobs; latencies are of all jobs. [All on one page](index.html);\n" +
		"the figures of each run are in the JSON file of its name, by the keys of `summary.json`.\n")
	if peers {
		b.WriteString("Beside other servers, by `make peers`: [peers.md](peers.md).\n")
	}
	for _, r := range runs {
		for _, p := range r.Problems {
			fmt.Fprintf(&b, "\n**%s: %s**\n", r.Meta.Scenario, p)
		}
	}
	m := runs[len(runs)-1].Meta
	fmt.Fprintf(&b, "\n## Where\n\n%s, %d cores, %.0f GiB, %s; %s\n", m.Machine.CPU, m.Machine.Cores,
		float64(m.Machine.MemoryBytes)/(1<<30), m.Machine.Kernel, versions(m.Versions))
	b.WriteString("\n## To repeat it\n\n```sh\nmake benchmarks                          # all of it\nmake benchmarks SOAK=2h                  # with a long soak\n" +
		"make benchmarks BENCHMARKS=jobs,storm    # some\n```\n\nEach page has the command of its run alone, for a server that you have started, its seed and its scenario:\n\n```sh\n" +
		"bin/roost broker &\nbin/roost serve --kafka 127.0.0.1:7492 --unsafe-embedded-broker &\n" +
		"bin/loadtest run jobs --server-pid \"$(pgrep -f 'roost serve')\" --out report\n```\n")
	return b.String()
}

// versions lists what took part.
func versions(v map[string]string) string {
	var all []string
	for _, k := range []string{"server", "loadtest", "broker"} {
		if v[k] != "" {
			all = append(all, k+" "+v[k])
		}
	}
	if v["server"] == "" && v["go"] != "" {
		all = append(all, v["go"])
	}
	return strings.Join(all, "; ") + "."
}

func value[T any](format string, v *T) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf(format, *v)
}

func positive(v float64) string {
	if v <= 0 {
		return ""
	}
	return fmt.Sprintf("%.0f", v)
}

func part(s *report.Spread) string {
	if s == nil {
		return ""
	}
	return ms(s.P99Ms)
}

func ms(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
