//go:build linux

// Package suite is what the suites have in common that break a cluster and check what
// came of it: flags, the places of the members' processes, and how a suite ends. Linux
// only.
package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes beside 0.
const (
	ExitBad         = 1   // something was found, or the suite could not be run
	ExitInterrupted = 130 // Ctrl-C
)

// Main runs a suite's command with the arguments of the process, and ends the process.
// bad is the error of a run that has printed what it found.
func Main(command *cobra.Command, bad error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command.ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		os.Exit(ExitInterrupted)
	case err != nil:
		if !errors.Is(err, bad) {
			fmt.Fprintf(os.Stderr, "%s: %v\n", command.Name(), err)
		}
		os.Exit(ExitBad)
	}
}

// Command is a suite's, which shows its help when it is called without another.
func Command(name, short string, commands ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(commands...)
	return root
}
