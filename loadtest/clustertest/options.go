//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// options are the flags of clustertest run.
type options struct {
	only       []string
	kafka      string
	nodes      int
	rate       int
	partitions int
	heartbeat  time.Duration
	drainRate  int
	seed       uint64
	keep       bool
	roost      string
	kafkaDir   string
	kafkaSh    string
	haproxyCfg string
	owner      string
}

// Kinds of --kafka.
const (
	embedded = "embedded"
	onApache = "apache"
)

// Hosts of a lab. Members and the hosts of nodes are numbered.
const (
	brokerHost  = "broker"
	proxyHost   = "lb"
	nodeHosts   = 3
	memberHosts = 5
)

var hosts = func() []string {
	list := []string{"ctl", brokerHost, proxyHost}
	for i := range memberHosts {
		list = append(list, memberName(i))
	}
	for i := range nodeHosts {
		list = append(list, nodeHost(i))
	}
	return list
}()

func memberName(i int) string { return fmt.Sprintf("m%d", i+1) }
func nodeHost(i int) string   { return fmt.Sprintf("n%d", i+1) }

func runCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run scenarios, each with a new cluster",
		Long: `Run scenarios, each with a new cluster.

Every member, the broker, HAProxy and the nodes have a network namespace of their own.
Jobs of all kinds flow at a steady rate; the scenario breaks something and heals it;
then the open jobs end, and a checker reads all topics from their beginnings.

A scenario fails when the checker finds anything lost, there twice or wrong, or when a
figure of its own is beyond its limit. The last line of the output is JSON. The exit
code is 1 when a scenario failed. It needs root.`,
		Example: `  clustertest run
  clustertest run --only kill9,stop
  clustertest run --nodes 5000 --rate 3000`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.complete(); err != nil {
				return err
			}
			if o.owner == "" {
				return inside(c.Context())
			}
			return run(c.Context(), &o, c.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.only, "only", nil, "these scenarios alone; \"clustertest list\" lists them")
	f.StringVar(&o.kafka, "kafka", embedded, "broker: embedded, or apache (needs java; mvn the first time)")
	f.IntVar(&o.nodes, "nodes", 1000, "nodes on each of three hosts")
	f.IntVar(&o.rate, "rate", 600, "records submitted a second")
	f.IntVar(&o.partitions, "partitions", 12, "of the jobs topic")
	f.DurationVar(&o.heartbeat, "heartbeat", 6*time.Second, "of the nodes")
	f.IntVar(&o.drainRate, "drain-rate", 200, "sockets a second that a drain moves")
	f.Uint64Var(&o.seed, "seed", 0, "of the jobs; 0: a random one")
	f.BoolVar(&o.keep, "keep", false, "keep the directory with logs and data also when all went well")
	f.StringVar(&o.roost, "roost", "", "the binary under test; empty: roost beside this one")
	f.StringVar(&o.kafkaDir, "kafka-dir", ".kafka", "where deploy/kafka/kafka.sh keeps the libraries of Apache Kafka")
	f.StringVar(&o.kafkaSh, "kafka-sh", "deploy/kafka/kafka.sh", "the script that fetches them")
	f.StringVar(&o.haproxyCfg, "haproxy-cfg", "deploy/haproxy/haproxy.cfg", "the configuration that the scenario haproxy runs, with its addresses replaced")
	f.StringVar(&o.owner, "owner", "", "")
	_ = f.MarkHidden("owner") // it exists
	return cmd
}

// complete fills in what has no constant default, and refuses what cannot work.
func (o *options) complete() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000_000) + 1
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
		{"--nodes", o.nodes, 1, 9999}, {"--rate", o.rate, 1, 10_000}, {"--partitions", o.partitions, 3, 128},
		{"--drain-rate", o.drainRate, 1, 100_000},
	} {
		if v.value < v.min || v.value > v.up {
			return fmt.Errorf("%s is %d: allowed are %d to %d", v.name, v.value, v.min, v.up)
		}
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(scenarios, func(s *scenario) bool { return s.name == name }) {
			return fmt.Errorf("--only is %q: allowed are %s", name, scenarioNames())
		}
	}
	if o.kafka != embedded && o.kafka != onApache {
		return fmt.Errorf("--kafka is %q: allowed are %s and %s", o.kafka, embedded, onApache)
	}
	return nil
}

func scenarioNames() string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}
