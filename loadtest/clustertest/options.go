//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/suite"
)

// options are the flags of clustertest run.
type options struct {
	suite.Options
	only       []string
	nodes      int
	heartbeat  time.Duration
	drainRate  int
	haproxyCfg string
	owner      string
}

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
	o := options{Options: suite.Options{Rate: 600, Partitions: 12}}
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
	o.Flags(f)
	f.StringSliceVar(&o.only, "only", nil, "these scenarios alone; \"clustertest list\" lists them")
	f.IntVar(&o.nodes, "nodes", 1000, "nodes on each of three hosts")
	f.DurationVar(&o.heartbeat, "heartbeat", 6*time.Second, "of the nodes")
	f.IntVar(&o.drainRate, "drain-rate", 200, "sockets a second that a drain moves")
	f.StringVar(&o.haproxyCfg, "haproxy-cfg", "deploy/haproxy/haproxy.cfg", "the configuration that the scenario haproxy runs, with its addresses replaced")
	f.StringVar(&o.owner, "owner", "", "")
	_ = f.MarkHidden("owner") // it exists
	return cmd
}

// complete fills in what has no constant default, and refuses what cannot work.
func (o *options) complete() error {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return o.Complete([]suite.Bound{
		{Flag: "--nodes", Value: o.nodes, Min: 1, Max: 9999}, {Flag: "--partitions", Value: o.Partitions, Min: 3, Max: 128},
		{Flag: "--drain-rate", Value: o.drainRate, Min: 1, Max: 100_000},
	}, o.only, names)
}
