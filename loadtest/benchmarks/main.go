//go:build linux

// Command benchmarks runs the load test's scenarios one after the other on this machine,
// each with a broker and a server of its own as processes, and writes what
// docs/benchmarks holds: for each run a page and its figures as JSON, a page of all, and
// a README with a table.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

// session is a run of the benchmarks.
type session struct {
	roost, loadtest string // programs
	out             string // folder of the reports
	soak            time.Duration
	nodes           int
	set             []string // settings for every scenario
	serve           []string // more arguments for roost serve

	work string // folder for what is not kept
}

// run is main without the process around it.
func run(ctx context.Context, args []string) error {
	var s session
	var only []string
	f := pflag.NewFlagSet("benchmarks [flags] [-- flags of roost serve]", pflag.ContinueOnError)
	f.StringVar(&s.roost, "roost", "bin/roost", "the server to measure")
	f.StringVar(&s.loadtest, "loadtest", "bin/loadtest", "the load test")
	f.StringVar(&s.out, "out", "docs/benchmarks", "folder of the reports")
	f.DurationVar(&s.soak, "soak", 2*time.Minute, fmt.Sprintf("length of the soak; from %v on the server's memory has to stay flat", flatFrom))
	f.IntVar(&s.nodes, "nodes", 0, "how many nodes; 0: as each scenario says")
	f.StringArrayVar(&s.set, "set", nil, "key=value, a setting of every scenario that is run")
	f.StringSliceVar(&only, "only", nil, "run these only: names separated by commas")
	if err := f.Parse(args); err != nil {
		return err
	}
	s.serve = f.Args() // after --
	todo, err := chosen(only)
	if err != nil {
		return err
	}
	if s.soak < time.Second {
		return fmt.Errorf("--soak: %v; a second at least is expected", s.soak)
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if s.work, err = os.MkdirTemp("", "roost-benchmarks-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(s.work) }()
	began := time.Now()
	var bad []error
	for i, b := range todo {
		fmt.Fprintf(os.Stderr, "\n=== %d of %d, %v: %s: %s\n", i+1, len(todo), time.Since(began).Round(time.Second), b.name, b.what)
		if err := s.one(ctx, &b); err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", b.name, err))
		}
		if ctx.Err() != nil {
			bad = append(bad, errors.New("interrupted; the reports of what had ended are written"))
			break
		}
	}
	return errors.Join(append(bad, s.index())...)
}

func (s *session) file(name, ext string) string { return filepath.Join(s.out, name+ext) }
