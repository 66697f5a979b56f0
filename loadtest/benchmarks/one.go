//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/internal/broker"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/report/page"
	"github.com/roost-server/roost/loadtest/internal/server"
)

const (
	upTimeout   = time.Minute      // for broker and server to be up
	stopTimeout = 40 * time.Second // for the server to stop in good order
)

// one runs one benchmark on processes of its own and keeps its reports, also those of a
// server that did not keep its word: that is the error then.
func (s *session) one(ctx context.Context, b *benchmark) (err error) {
	logs := filepath.Join(s.work, b.name)
	if err := os.Mkdir(logs, 0o755); err != nil {
		return err
	}
	up, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	kafka, err := broker.Start(up, s.roost)
	if err != nil {
		return err
	}
	defer kafka.Kill()
	args := []string{"serve", "--kafka", kafka.Address, "--unsafe-embedded-broker", "--name", "benchmark",
		"--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--log-level", "warn"}
	p, err := server.Start(up, s.roost, append(args, s.serve...)...)
	if err != nil {
		return err
	}
	defer p.Kill()
	if err := p.AwaitReady(up); err != nil {
		return err
	}
	settings := s.settings(b)
	load, err := s.unpacked(settings)
	if err != nil {
		return err
	}
	load = append(load, "--server", p.Nodes, "--kafka", kafka.Address, "--server-pid", strconv.Itoa(p.PID()), "--out", logs)
	bad := child(ctx, s.loadtest, load...)
	if err := s.keep(b, logs, settings); err != nil {
		return errors.Join(bad, err)
	}
	stop, end := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer end()
	err = p.Stop(stop)
	return errors.Join(bad, err)
}

// settings are the arguments of loadtest that say what is run.
func (s *session) settings(b *benchmark) []string {
	args := []string{"run", b.scenario}
	if _, err := own.Open(b.scenario); err == nil {
		args[1] = ownFolder + b.scenario
	}
	if s.nodes > 0 {
		args = append(args, "--nodes", strconv.Itoa(s.nodes))
	}
	set := slices.Clone(s.set)
	if b.set != nil {
		set = append(set, b.set(s)...)
	}
	for _, kv := range set {
		args = append(args, "--set", kv)
	}
	return args
}

// unpacked are settings with a scenario of the benchmarks' own as a file that is there
// wherever this program runs.
func (s *session) unpacked(settings []string) ([]string, error) {
	name, is := strings.CutPrefix(settings[1], ownFolder)
	if !is {
		return slices.Clone(settings), nil
	}
	b, err := own.ReadFile(name)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.work, name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, err
	}
	return append([]string{settings[0], file}, settings[2:]...), nil
}

// child runs the load test in this terminal. When ctx ends it is told to end, which it
// does with a report. It is in a process group of its own, so that Ctrl-C reaches it
// once, and dies with this process.
func child(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Minute
	done := make(chan error)
	go func() {
		// A process with a Pdeathsig dies with the thread that started it.
		runtime.LockOSThread()
		done <- cmd.Run()
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(program), err)
	}
	return nil
}

// keep puts a run's figures and page beside the others. The command in them is what to
// type for the same load on a server with default addresses.
func (s *session) keep(b *benchmark, from string, settings []string) error {
	r, err := report.Load(from)
	if err != nil {
		return err
	}
	r.Meta.Scenario = b.name
	r.Meta.Command = append([]string{"bin/loadtest"}, settings...)
	if err := s.write(b.name+".json", func(w io.Writer) error { return report.JSON(w, r) }); err != nil {
		return err
	}
	return s.write(b.name+".html", func(w io.Writer) error { return page.Render(w, []*report.Summary{r}) })
}

// write makes a file of the reports, as a whole or not at all.
func (s *session) write(name string, fill func(io.Writer) error) error {
	return report.Create(filepath.Join(s.out, name), fill)
}
