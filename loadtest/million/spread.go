//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/broker"
	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/remote"
	"github.com/roost-server/roost/loadtest/internal/server"
	"github.com/roost-server/roost/loadtest/million/steps"
)

// Limits of the cluster on this machine.
const (
	// filesReserve is what a member needs besides its nodes' sockets.
	filesReserve = 1000
	minMembers   = 2
	maxMembers   = 64
	// memberStart bounds the start of one member.
	memberStart = 2 * time.Minute
)

// cluster is several members on this machine.
type cluster struct {
	members []*server.Process
	group   nodes.Group
	nodes   int
}

// room is how many nodes a process may have when it may open so many files: with one
// member drained the others have to take its nodes as well. Without members it is a
// process that has nodes.
func room(files uint64, members int) int {
	have := int(files) - filesReserve
	if members > 0 {
		return have * (members - 1) / members
	}
	return have
}

// sizes checks and completes how many members, load processes and nodes there are.
func (o *options) sizes(cmd *cobra.Command) (load int, err error) {
	if o.spread < minMembers || o.spread > maxMembers {
		return 0, fmt.Errorf("--spread: %d; allowed are %d to %d", o.spread, minMembers, maxMembers)
	}
	files, err := proc.RaiseFileLimit(uint64(o.perProcess + filesReserve))
	if err != nil {
		return 0, err
	}
	each := min(o.perProcess, room(files, o.spread))
	if !cmd.Flags().Changed("nodes") {
		o.plan.Nodes = each * o.spread
	}
	if o.plan.Nodes > each*o.spread {
		return 0, fmt.Errorf("--nodes: %d on %d members; at %d open files a process, with room for the nodes of a member that is drained, %d are possible; use more members (--spread)",
			o.plan.Nodes, o.spread, files, each*o.spread)
	}
	o.plan.Early = 0 // of interest at a hundred thousand on one member only
	perLoad := min(o.perProcess, room(files, 0))
	return (o.plan.Nodes + perLoad - 1) / perLoad, nil
}

// onCluster does the steps on a cluster of processes of this machine.
func (o *options) onCluster(ctx context.Context, cmd *cobra.Command) error {
	load, err := o.sizes(cmd)
	if err != nil {
		return err
	}
	began, out := time.Now(), cmd.ErrOrStderr()
	say := func(indent, text string) {
		fmt.Fprintf(out, "%8v  %s%s\n", time.Since(began).Round(time.Second), indent, text)
	}
	say("", fmt.Sprintf("start a broker, %d members, and %d processes for %d nodes", o.spread, load, o.plan.Nodes))
	b, err := broker.Start(ctx, o.roost)
	if err != nil {
		return err
	}
	defer b.Kill()
	c := &cluster{nodes: o.plan.Nodes}
	defer func() {
		for _, m := range c.members {
			m.Kill()
		}
	}()
	if err := c.start(ctx, o, b.Address); err != nil {
		return err
	}
	spec := nodes.Spec{Nodes: o.plan.Nodes, Of: o.plan.Nodes, NodePrefix: "sim-", Seed: o.seed, Credit: 4, InFlight: o.inFlight, OpenTimeout: time.Minute}
	var pids []int
	for _, m := range c.members {
		a, err := netip.ParseAddrPort(m.Nodes)
		if err != nil {
			return err
		}
		spec.Servers = append(spec.Servers, a)
		pids = append(pids, m.PID())
	}
	g, err := remote.Start(ctx, remote.Config{Local: load, Args: []string{workerName}}, spec)
	if err != nil {
		return err
	}
	c.group = g
	a, err := steps.Run(ctx, o.plan, steps.Env{
		Group: g, IDs: spec.IDs(), Brokers: []string{b.Address}, PIDs: pids, Drain: c.drain,
		Step: func(name string) { say("", name) }, Show: func(text string) { say("    ", text) },
	})
	if a == nil {
		return errors.Join(err, g.Stop())
	}
	if err = errors.Join(err, g.Stop()); err != nil {
		a.Problems = append(a.Problems, err.Error())
	}
	a.Problems = append(a.Problems, g.Stats().Problems...)
	return finish(cmd, a)
}

// start starts the members, one after the other, and waits until all are ready.
func (c *cluster) start(ctx context.Context, o *options, kafka string) error {
	for i := range o.spread {
		starting, cancel := context.WithTimeout(ctx, memberStart)
		args := append([]string{
			"serve", "--name", fmt.Sprintf("m%d", i+1), "--kafka", kafka, "--unsafe-embedded-broker", "--nodes-listen", "127.0.0.1:0",
			"--api-listen", "127.0.0.1:0", "--heartbeat", o.plan.Heartbeat.String(), "--drain-rate", strconv.Itoa(o.drainRate),
			"--session-timeout", "30s", "--partitions", strconv.Itoa(max(16, 2*o.spread)),
		}, o.serve...)
		m, err := server.Start(starting, o.roost, args...)
		cancel()
		if err != nil {
			return err
		}
		c.members = append(c.members, m)
	}
	ctx, cancel := context.WithTimeout(ctx, memberStart)
	defer cancel()
	for _, m := range c.members {
		if err := m.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// drain ends the first member by SIGTERM, which sends its nodes to the others, waits until
// all nodes are there, has them say goodbye, and ends the others.
func (c *cluster) drain(ctx context.Context, show func(string)) (ok int, err error) {
	first, rest := c.members[0], c.members[1:]
	stop, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := first.Stop(stop); err != nil {
		return 0, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s := c.group.Stats()
		if s.Connected == c.nodes {
			show(fmt.Sprintf("%d of %d nodes are connected to the %d other members, %d were told to go", s.Connected, c.nodes, len(rest), s.GoAways))
			break
		}
		select {
		case <-stop.Done():
			return 1, fmt.Errorf("drain: %d of %d nodes are connected to the other members: %s", s.Connected, c.nodes, s.LastError)
		case <-tick.C:
		}
	}
	if err := c.group.Stop(); err != nil {
		return 1, err
	}
	errs := make([]error, len(rest))
	var wg sync.WaitGroup
	for i, m := range rest {
		wg.Go(func() { errs[i] = m.Stop(stop) })
	}
	wg.Wait()
	ok = 1
	for _, err := range errs {
		if err == nil {
			ok++
		}
	}
	return ok, errors.Join(errs...)
}

// workerName is the command by which this program starts itself for a part of the nodes.
const workerName = "worker"

func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use: workerName, Hidden: true, Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := remote.Inherited()
			if err != nil {
				return err
			}
			w := remote.Worker{Start: startNodes}
			return w.ServeConn(cmd.Context(), conn)
		},
	}
}

// startNodes makes nodes in this process.
func startNodes(spec nodes.Spec) (nodes.Group, error) {
	if _, err := proc.RaiseFileLimit(uint64(spec.Nodes + fleet.FilesReserve)); err != nil {
		return nil, err
	}
	return fleet.NewGroup(spec)
}
