//go:build linux

// Command million shows a million nodes on one machine: it boots a guest in which one
// process may have that many files, and connects them there to one server process. With
// --spread it does the same without a guest, on a cluster of several members, with as many
// nodes as the limits of this machine allow. docs/MILLION.md tells more.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/million/guest"
	"github.com/roost-server/roost/loadtest/million/steps"
)

func main() {
	if guest.IsInit() {
		guest.Main()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "million:", err)
		os.Exit(1)
	}
}

// finish prints the account, for people and as one line of JSON, and says whether it is
// what was asked for.
func finish(cmd *cobra.Command, a *steps.Account) error {
	a.Print(cmd.OutOrStdout())
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
	if len(a.Problems) > 0 {
		return fmt.Errorf("%d problem(s)", len(a.Problems))
	}
	return nil
}

var errNoAccount = errors.New("the guest ended without an account")
