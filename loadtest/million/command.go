//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/million/guest"
	"github.com/roost-server/roost/loadtest/million/initramfs"
	"github.com/roost-server/roost/loadtest/million/steps"
	"github.com/roost-server/roost/loadtest/million/vm"
)

// options are the flags.
type options struct {
	plan      steps.Plan
	roost     string
	seed      uint64
	drainRate int
	inFlight  int
	serve     []string

	vm    vm.Config
	limit time.Duration

	spread     int // members; 0: in the guest
	perProcess int // nodes
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "million",
		Short: "A million nodes on one machine, in a guest or spread over a cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.defaults()
			if err := o.plan.Validate(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.limit)
			defer cancel()
			if o.spread > 0 {
				return o.onCluster(ctx, cmd)
			}
			return o.boot(ctx, cmd)
		},
		SilenceUsage: true, SilenceErrors: true,
	}
	f := cmd.Flags()
	f.IntVar(&o.plan.Nodes, "nodes", 1_000_000, "how many nodes")
	f.IntVar(&o.plan.Early, "early", -1, "nodes that get the first jobs, before the others connect; -1: a tenth, at most 100000")
	f.Float64Var(&o.plan.Storm, "storm", 0.1, "fraction of the nodes whose sockets are cut at once")
	f.DurationVar(&o.plan.Heartbeat, "heartbeat", 0, "nodes send something at least this often; 0s: 30s, and in the guest a second more for each 1111 nodes")
	f.DurationVar(&o.plan.Hold, "hold", 0, "how long to hold all nodes; 0s: two heartbeats")
	f.IntVar(&o.plan.Window, "window", 4000, "jobs under way")
	f.IntVar(&o.plan.Size, "size", 128, "bytes of a job's args")
	f.DurationVar(&o.plan.Patience, "patience", 5*time.Minute, "a step that makes no progress for so long has failed")
	f.StringVar(&o.roost, "roost", "bin/roost", "the server's program")
	f.Uint64Var(&o.seed, "seed", 1, "of attributes, jitter and which nodes are cut")
	f.IntVar(&o.drainRate, "drain-rate", 20_000, "nodes told to leave in a second, at most")
	f.IntVar(&o.inFlight, "in-flight", 1000, "nodes that connect at the same time")
	f.StringArrayVar(&o.serve, "serve", nil, "another argument of roost serve, such as --serve=--event-loops=1; may be given more than once")
	f.DurationVar(&o.limit, "limit", 3*time.Hour, "for the whole run")
	f.StringVar(&o.vm.Accel, "accel", "", "kvm or tcg; default: kvm where the processor has it")
	f.StringVar(&o.vm.CPU, "cpu", "", "QEMU's model of the guest's processor")
	f.IntVar(&o.vm.CPUs, "cpus", 2, "processors of the guest")
	f.Int64Var(&o.vm.MemoryMiB, "memory", 0, "MiB of the guest; 0: as the nodes need")
	f.IntVar(&o.vm.Nice, "nice", 0, "of the guest's process")
	f.StringVar(&o.vm.QEMU, "qemu", "", "program; default: qemu-system-x86_64")
	f.StringVar(&o.vm.Kernel, "kernel", "", "kernel image; default: the newest cloud kernel of /boot")
	f.IntVar(&o.spread, "spread", 0, "no guest: a cluster of so many members on this machine, each a process")
	f.IntVar(&o.perProcess, "per-process", 15_000, "with --spread: nodes of a member, and of a process that has nodes, at most")
	cmd.AddCommand(workerCommand())
	return cmd
}

// The guest's memory: for each node the kernel takes 7.5 KB for both ends of its socket,
// and server, broker and simulator what they take.
const (
	guestNodeBytes = 12_500
	guestBaseMiB   = 3072
)

// Heartbeats of nodes. A PING costs an emulated processor most of a millisecond, both ends
// together: so there are at most some 1,500 a second in the guest, at 15 minutes for a
// million nodes.
const (
	shortHeartbeat = 30 * time.Second
	nodeHeartbeat  = 900 * time.Microsecond
)

func (o *options) defaults() {
	if o.plan.Heartbeat == 0 {
		o.plan.Heartbeat = shortHeartbeat
		if o.spread == 0 {
			o.plan.Heartbeat = max(shortHeartbeat, time.Duration(o.plan.Nodes)*nodeHeartbeat)
		}
	}
	if o.plan.Early < 0 {
		o.plan.Early = min(o.plan.Nodes/10, 100_000)
	}
	if o.plan.Hold == 0 {
		o.plan.Hold = 2 * o.plan.Heartbeat
	}
	if o.vm.MemoryMiB == 0 {
		o.vm.MemoryMiB = guestBaseMiB + int64(o.plan.Nodes)*guestNodeBytes>>20
	}
}

// boot does the steps in a guest.
func (o *options) boot(ctx context.Context, cmd *cobra.Command) error {
	if err := o.vm.Complete(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "roost-million-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is in the system's folder for such things
	o.vm.Program = guest.Program
	o.vm.Initramfs = filepath.Join(dir, "initramfs")
	o.vm.Console = filepath.Join(dir, "console")
	if err := o.build(o.vm.Initramfs); err != nil {
		return err
	}
	progress := cmd.ErrOrStderr()
	fmt.Fprintf(progress, "guest: %s, %d processor(s), %d MiB, %s\n", o.vm.Accel, o.vm.CPUs, o.vm.MemoryMiB, filepath.Base(o.vm.Kernel))
	var w watcher
	err = vm.Run(ctx, &o.vm, func(e vm.Event) { w.event(progress, e) })
	err = errors.Join(w.err, err)
	if w.account == nil {
		if b, e := os.ReadFile(o.vm.Console); e == nil && ctx.Err() == nil {
			fmt.Fprintf(progress, "what the guest's kernel said last:\n%s\n", tail(string(b), 25))
		}
		return errors.Join(errNoAccount, err)
	}
	if err != nil {
		w.account.Problems = append(w.account.Problems, err.Error())
	}
	return finish(cmd, w.account)
}

// build writes the guest's file system: this program as its first process, the server, and
// what both need.
func (o *options) build(file string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := initramfs.NewWriter(f)
	for _, d := range guest.Folders {
		if err := w.Dir(d); err != nil {
			return err
		}
	}
	programs := [][2]string{{guest.Program, self}, {guest.Roost, o.roost}}
	written := map[string]bool{}
	for _, p := range programs {
		if err := w.Copy(p[0], p[1]); err != nil {
			return fmt.Errorf("%w; make build builds it", err)
		}
		libs, err := initramfs.Libraries(p[1])
		if err != nil {
			return err
		}
		for _, l := range libs {
			if written[l] {
				continue
			}
			written[l] = true
			if err := w.Copy(l, l); err != nil {
				return err
			}
		}
	}
	b, err := json.Marshal(guest.Config{
		Plan: o.plan, DrainRate: o.drainRate, InFlight: o.inFlight, Accel: o.vm.Accel, Seed: o.seed, Serve: o.serve,
		Files: uint64(2*o.plan.Nodes + 100_000),
	})
	if err != nil {
		return err
	}
	hosts := "127.0.0.1 localhost\n"
	err = errors.Join(
		w.File("/etc/hosts", false, int64(len(hosts)), strings.NewReader(hosts)),
		w.File(guest.ConfigFile, false, int64(len(b)), bytes.NewReader(b)),
		w.Close(), f.Close())
	return err
}

// watcher shows what the guest says and keeps what came out.
type watcher struct {
	account *steps.Account
	err     error
}

func (w *watcher) event(out io.Writer, e vm.Event) {
	at := (time.Duration(e.AtMs) * time.Millisecond).Round(time.Second)
	switch e.Kind {
	case vm.KindUp:
		fmt.Fprintf(out, "%8v  guest is up: %s\n", at, e.Text)
	case vm.KindStep:
		fmt.Fprintf(out, "%8v  %s\n", at, e.Text)
	case vm.KindShow, vm.KindLog:
		fmt.Fprintf(out, "%8v      %s\n", at, e.Text)
	case vm.KindFailed:
		w.err = errors.Join(w.err, fmt.Errorf("in the guest: %s", e.Text))
	case vm.KindResult:
		a := new(steps.Account)
		if err := json.Unmarshal(e.Data, a); err != nil {
			w.err = errors.Join(w.err, fmt.Errorf("the guest's account: %w", err))
			return
		}
		w.account = a
	}
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
