//go:build linux

// Command loadtest simulates nodes against a Roost server, as a black box: it connects
// to the server's port and to Kafka like anybody else.
//
//	loadtest run       runs a scenario: phases of connects, jobs, cut sockets and more
//	loadtest scenarios lists those that are built in
//	loadtest hold      connects idle nodes: connect rate, server memory for each
//	loadtest jobs      puts jobs on Kafka: throughput, latency, CPU, losses, duplicates
//	loadtest relay     measures a bare consume-produce-commit loop, to compare jobs with
//	loadtest rebuild   kills a server that holds jobs, and measures how it has them again
//	loadtest worker    has nodes for a run on another host
//
// It exits with 1 when a node could not connect, or a job was lost or has two outcomes.
// Linux only.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	// The heap is small and its garbage short-lived: collect less often, to leave the
	// CPU to the server.
	debug.SetGCPercent(400)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
		os.Exit(1)
	}
}

// errBad is wrapped by verdicts: what was measured has been printed, and is not good.
var errBad = errors.New("the server did not keep its word")

// run is main without the process around it.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	root := &cobra.Command{
		Use:   "loadtest",
		Short: "Simulate nodes against a Roost server",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },

		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(runCommand(), scenariosCommand(), holdCommand(), jobsCommand(), relayCommand(), relayLoopCommand(), rebuildCommand(), workerCommand(), reportCommand())
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(progress)
	return root.ExecuteContext(ctx)
}
