//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/suite"
)

// options are the flags of chaos run.
type options struct {
	suite.Options
	faults   int
	members  int
	nodes    int
	unmended bool
	only     []string
}

const (
	defaultFaults = 50
	faultsEnv     = "CHAOS_FAULTS"
)

func runCommand() *cobra.Command {
	o := options{Options: suite.Options{Rate: 400, Partitions: 8}}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a cluster, break it at random, heal it, and check its outcomes",
		Long: `Run a cluster, break it at random, heal it, and check its outcomes.

It starts a broker, members and nodes as processes, submits jobs of all kinds at a
steady rate, and injects faults: members killed, frozen and stopped, members that
join and leave, the broker killed, frozen and answering with errors, connections cut
and stalled, nodes killed. After the last fault everything heals, the open jobs end,
and a checker reads all topics from their beginnings.

The last line of the output is JSON. The exit code is 1 when lost, duplicates or wrong
is not 0.`,
		Example: `  chaos run --faults 300
  chaos run --kafka apache --faults 15
  chaos run --seed 42 --keep`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.complete(c); err != nil {
				return err
			}
			return run(c.Context(), &o, c.OutOrStdout())
		},
	}
	f := cmd.Flags()
	o.Flags(f)
	f.IntVar(&o.faults, "faults", defaultFaults, "how many faults are injected; the environment's "+faultsEnv+" is the default")
	f.IntVar(&o.members, "members", 2, "members that are there from the beginning; one more joins and leaves")
	f.IntVar(&o.nodes, "nodes", 200, "nodes, in two processes")
	f.BoolVar(&o.unmended, "unmended", false, "leave the embedded broker as it is: its known faults as a broker are found then, too")
	f.StringSliceVar(&o.only, "only", nil, "faults of these sorts alone, such as \"member killed\"; may be given more than once")
	return cmd
}

// complete fills in what has no constant default, and refuses what cannot work.
func (o *options) complete(cmd *cobra.Command) error {
	if v := os.Getenv(faultsEnv); v != "" && !cmd.Flags().Changed("faults") {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("%s is %q: a number is expected", faultsEnv, v)
		}
		o.faults = n
	}
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	return o.Complete([]suite.Bound{
		{Flag: "--faults", Value: o.faults, Min: 0, Max: 100_000}, {Flag: "--members", Value: o.members, Min: 1, Max: 8},
		{Flag: "--nodes", Value: o.nodes, Min: 2, Max: 2000}, {Flag: "--partitions", Value: o.Partitions, Min: 1, Max: 128},
	}, o.only, names)
}
