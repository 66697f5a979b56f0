//go:build linux

// Command clustertest runs a Roost cluster whose members, broker and nodes have hosts of
// their own, breaks one thing at a time while jobs flow, and judges what came of it: by
// the checker of loadtest/chaos, and by figures of each scenario, such as how many
// sockets of other members fell. It shares no code with the server.
//
// The hosts are network namespaces, see package netlab: it needs root. The program
// starts itself again on one of them, and the first process removes them all when the
// second has ended, however it ended.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/chaos/kafkawire"
	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/loadtest/clustertest/netlab"
	"github.com/roost-server/roost/loadtest/internal/suite"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// errBad is the error of a run with scenarios that failed: it has been printed.
var errBad = errors.New("scenarios failed")

func main() {
	suite.Main(suite.Command("clustertest", "Break a Roost cluster on hosts of its own, and measure what came of it",
		runCommand(), listCommand(), sweepCommand(), nodesCommand(), doorCommand()), errBad)
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the scenarios", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, s := range scenarios {
				fmt.Fprintf(c.OutOrStdout(), "%-18s %s\n", s.name, s.what)
			}
			return nil
		},
	}
}

func sweepCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sweep", Short: "Remove the network namespaces of runs that were killed", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			removed, err := netlab.Sweep()
			fmt.Fprintf(c.OutOrStdout(), "%d namespaces removed\n", len(removed))
			return err
		},
	}
}

// nodesCommand is a process with nodes, on a host of theirs.
func nodesCommand() *cobra.Command {
	cfg := nodes.Config{Calm: true}
	cmd := &cobra.Command{
		Use: "nodes", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return nodes.Run(c.Context(), cfg, os.Stdin, c.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Members, "members", nil, "addresses")
	f.StringVar(&cfg.Prefix, "prefix", "n-", "of the node ids")
	f.IntVar(&cfg.Count, "count", 100, "how many nodes")
	f.Uint64Var(&cfg.Seed, "seed", 1, "of their whims")
	f.StringVar(&cfg.Runs, "runs", "", "file for the log of runs")
	f.StringVar(&cfg.Sessions, "sessions", "", "file for the log of sessions")
	f.BoolVar(&cfg.One, "one", false, "one session at a time, to any of the members")
	return cmd
}

// doorCommand is what stands before the embedded broker on its host: that listens on
// loopback alone.
func doorCommand() *cobra.Command {
	var listen, target string
	cmd := &cobra.Command{
		Use: "door", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := kafkawire.Listen(listen, true)
			if err != nil {
				return err
			}
			defer p.Close()
			p.SetTarget(target)
			fmt.Fprintln(c.OutOrStdout(), "open")
			for n := 0; wait.Pause(c.Context(), time.Second); {
				if made := p.Mended(); made > n {
					fmt.Fprintf(c.OutOrStdout(), "%v %d group members were made to leave\n", time.Now().UTC().Format(time.RFC3339Nano), made-n)
					n = made
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "address for the clients")
	cmd.Flags().StringVar(&target, "target", "", "address of the broker")
	return cmd
}

// inside runs the command line again on the host ctl of a new lab, and removes the lab
// when that has ended.
func inside(ctx context.Context) (err error) {
	if err := netlab.Check(); err != nil {
		return err
	}
	if removed, err := netlab.Sweep(); err != nil {
		return err
	} else if len(removed) > 0 {
		fmt.Fprintf(os.Stderr, "clustertest: removed %d namespaces of a run that was killed\n", len(removed))
	}
	lab, err := netlab.Create(hosts...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, args := lab.Command("ctl", self, append(os.Args[1:], "--owner", lab.Owner())...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	// Of its own group, so that Ctrl-C reaches it once, from here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == suite.ExitBad {
		return errBad
	}
	return err
}
