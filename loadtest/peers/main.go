//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// settings are the flags.
type settings struct {
	place
	peers       []peer
	shapes      []shape
	wholeWindow int
	rounds      int
	times       times
	json        string
	markdown    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := program(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, context.Canceled) {
		os.Exit(130)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func program(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	s, err := flags(args, progress)
	if err != nil {
		return err
	}
	for _, x := range s.shapes {
		if err := files(x.Nodes); err != nil {
			return err
		}
	}
	if s.dir, err = os.MkdirTemp("", "roost-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if err := os.Chmod(s.dir, 0o755); err != nil { // mosquitto gives up its privileges
		return err
	}
	rep := newReport(s, args)
	if err := s.measureAll(ctx, rep, progress); err != nil {
		return err
	}
	rep.finish()
	rep.text(out)
	return s.write(rep)
}

func flags(args []string, usage io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.SetOutput(usage)
	var names, shapes, hopArgs string
	f.StringVar(&names, "peers", "", "which ones, separated by spaces or commas; all when empty: "+strings.Join(allNames(), " "))
	f.StringVar(&shapes, "shapes", "15000:1000,2000:100", "NODES:WINDOW of the measurements, separated by commas")
	f.IntVar(&s.wholeWindow, "whole-window", 0, "window of the peer roost, whose jobs wait for their transaction; 0: 4 times the others', 1000 at least")
	f.IntVar(&s.rounds, "rounds", 2, "how often each is measured; the peers take turns")
	f.DurationVar(&s.times.Settle, "settle", 5*time.Second, "how long nodes are idle before memory is read")
	f.DurationVar(&s.times.Warmup, "warmup", time.Second, "jobs that are not measured yet")
	f.DurationVar(&s.times.Duration, "duration", 5*time.Second, "jobs that are measured")
	f.StringVar(&s.bin, "bin", filepath.Dir(os.Args[0]), "folder of the servers, as make peers builds them")
	f.StringVar(&s.roost, "roost", "bin/roost", "the program")
	f.StringVar(&s.loadtest, "loadtest", "bin/loadtest", "the program")
	f.StringVar(&hopArgs, "hop-args", "", "more arguments of hop, such as \"-pprof 127.0.0.1:6060\"")
	f.StringVar(&s.json, "json", "", "file to write the figures to")
	f.StringVar(&s.markdown, "markdown", "", "file to write the table to")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.rounds < 1 || s.rounds > 100:
		return nil, fmt.Errorf("-rounds: %d; allowed are 1 to 100", s.rounds)
	case s.wholeWindow < 0:
		return nil, fmt.Errorf("-whole-window: %d; 0 or more is expected", s.wholeWindow)
	case s.times.Settle < 0 || s.times.Warmup < 0 || s.times.Duration < 100*time.Millisecond:
		return nil, errors.New("-settle, -warmup, -duration: positive durations are expected")
	case s.times.Settle+s.times.Warmup+s.times.Duration > time.Minute:
		return nil, errors.New("-settle, -warmup, -duration: more than a minute together, and nodes here send no heartbeats")
	}
	s.hopArgs = strings.Fields(hopArgs)
	var err error
	if s.shapes, err = parseShapes(shapes); err != nil {
		return nil, err
	}
	s.peers, err = choose(names)
	return s, err
}

func allNames() (out []string) {
	for _, p := range all() {
		out = append(out, p.name)
	}
	return out
}

func choose(names string) (out []peer, err error) {
	wanted := strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
	for _, n := range wanted {
		if !slices.Contains(allNames(), n) {
			return nil, fmt.Errorf("-peers: %q; allowed are %s", n, strings.Join(allNames(), ", "))
		}
	}
	for _, p := range all() {
		if len(wanted) == 0 || slices.Contains(wanted, p.name) {
			out = append(out, p)
		}
	}
	return out, nil
}

func parseShapes(text string) (out []shape, err error) {
	for one := range strings.SplitSeq(text, ",") {
		nodes, window, ok := strings.Cut(one, ":")
		n, err1 := strconv.Atoi(nodes)
		w, err2 := strconv.Atoi(window)
		if !ok || err1 != nil || err2 != nil || n < 1 || n > 1_000_000 || w < 1 || w > 1_000_000 {
			return nil, fmt.Errorf("-shapes: %q; NODES:WINDOW is expected, each from 1 to 1000000", one)
		}
		out = append(out, shape{n, w})
	}
	return out, nil
}

func newReport(s *settings, args []string) *report {
	r := &report{When: time.Now().UTC().Format("2006-01-02"), Command: strings.Join(append([]string{"peers"}, args...), " "), Body: bodyBytes,
		Rounds: s.rounds, SettleS: s.times.Settle.Seconds(), MeasureS: s.times.Duration.Seconds()}
	r.Machine, r.CPUs, r.Kernel = machine()
	for _, x := range s.shapes {
		for _, p := range s.peers {
			one := &row{Peer: p.name, About: p.about, shape: x}
			if p.start == nil {
				if one.Window = s.wholeWindow; one.Window == 0 {
					one.Window = max(4*x.Window, 1000)
				}
			}
			var err error
			if one.Version, err = p.find(&s.place); err != nil {
				one.Missing = err.Error()
			}
			r.Rows = append(r.Rows, one)
		}
	}
	return r
}

// machine names the processor, their number and the kernel.
func machine() (model string, cpus int, kernel string) {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			cpus++
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	return model, cpus, kernel
}

// measureAll lets the peers take turns. What fails is told in its row.
func (s *settings) measureAll(ctx context.Context, rep *report, progress io.Writer) error {
	byName := map[string]peer{}
	for _, p := range s.peers {
		byName[p.name] = p
	}
	for round := range s.rounds {
		for _, x := range rep.Rows {
			if x.Missing != "" {
				continue
			}
			fmt.Fprintf(progress, "round %d of %d: %s, %d nodes, window %d ... ", round+1, s.rounds, x.Peer, x.Nodes, x.Window)
			r, err := s.one(ctx, byName[x.Peer], x.shape)
			if ctx.Err() != nil {
				fmt.Fprintln(progress, "interrupted")
				return ctx.Err()
			}
			if err != nil {
				r.Error = err.Error()
				fmt.Fprintln(progress, "failed:", err)
			} else {
				fmt.Fprintf(progress, "%.0f B a node, %.0f connects/s, %.0f jobs/s, p99 %.1f ms, %.2f us a job\n", r.BytesPerNode, r.ConnectPerS, r.JobsPerS, r.P99Ms, r.CPUUsPerJob)
			}
			x.Runs = append(x.Runs, r)
		}
	}
	return nil
}

func (s *settings) one(ctx context.Context, p peer, x shape) (run, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if p.start == nil {
		return whole(ctx, &s.place, x, s.times)
	}
	return measure(ctx, p, &s.place, x, s.times)
}

// write writes the files that were asked for.
func (s *settings) write(rep *report) error {
	if s.json != "" {
		b, err := json.MarshalIndent(rep, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.json, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if s.markdown == "" {
		return nil
	}
	var b strings.Builder
	rep.markdown(&b)
	return os.WriteFile(s.markdown, []byte(b.String()), 0o644)
}
