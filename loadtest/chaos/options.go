//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// options are the flags of chaos run.
type options struct {
	kafka      string
	faults     int
	seed       uint64
	rate       int
	members    int
	nodes      int
	partitions int
	keep       bool
	unmended   bool
	only       []string
	roost      string
	kafkaDir   string
	kafkaSh    string
}

// Kinds of --kafka.
const (
	embedded = "embedded"
	onApache = "apache"
)

const (
	defaultFaults = 50
	faultsEnv     = "CHAOS_FAULTS"
)

func runCommand() *cobra.Command {
	var o options
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
	f.StringVar(&o.kafka, "kafka", embedded, "broker: embedded, or apache (needs java; mvn the first time)")
	f.IntVar(&o.faults, "faults", defaultFaults, "how many faults are injected; the environment's "+faultsEnv+" is the default")
	f.Uint64Var(&o.seed, "seed", 0, "of faults and jobs; 0: a random one")
	f.IntVar(&o.rate, "rate", 400, "records submitted a second")
	f.IntVar(&o.members, "members", 2, "members that are there from the beginning; one more joins and leaves")
	f.IntVar(&o.nodes, "nodes", 200, "nodes, in two processes")
	f.IntVar(&o.partitions, "partitions", 8, "of the jobs topic")
	f.BoolVar(&o.keep, "keep", false, "keep the directory with logs and data")
	f.BoolVar(&o.unmended, "unmended", false, "leave the embedded broker as it is: its known faults as a broker are found then, too")
	f.StringSliceVar(&o.only, "only", nil, "faults of these sorts alone, such as \"member killed\"; may be given more than once")
	f.StringVar(&o.roost, "roost", "", "the binary under test; empty: roost beside this one")
	f.StringVar(&o.kafkaDir, "kafka-dir", ".kafka", "where deploy/kafka/kafka.sh keeps the libraries of Apache Kafka")
	f.StringVar(&o.kafkaSh, "kafka-sh", "deploy/kafka/kafka.sh", "the script that fetches them")
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
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000_000) + 1
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.roost == "" {
		o.roost = filepath.Join(filepath.Dir(self), "roost")
	}
	if o.roost, err = filepath.Abs(o.roost); err != nil {
		return err
	}
	if _, err := os.Stat(o.roost); err != nil {
		return fmt.Errorf("--roost: %w; build it with \"make build\"", err)
	}
	for _, v := range []struct {
		name           string
		value, min, up int
	}{
		{"--faults", o.faults, 0, 100_000}, {"--rate", o.rate, 1, 10_000}, {"--members", o.members, 1, 8},
		{"--nodes", o.nodes, 2, 2000}, {"--partitions", o.partitions, 1, 128},
	} {
		if v.value < v.min || v.value > v.up {
			return fmt.Errorf("%s is %d: allowed are %d to %d", v.name, v.value, v.min, v.up)
		}
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(faults, func(f fault) bool { return f.name == name }) {
			return fmt.Errorf("--only is %q: allowed are %s", name, sorts())
		}
	}
	if o.kafka != embedded && o.kafka != onApache {
		return fmt.Errorf("--kafka is %q: allowed are %s and %s", o.kafka, embedded, onApache)
	}
	return nil
}

// sorts lists the names of the faults.
func sorts() string {
	var names []string
	for _, f := range faults {
		names = append(names, strconv.Quote(f.name))
	}
	return strings.Join(names, ", ")
}
