//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// common holds the flags of every command, and what they share while they run.
type common struct {
	servers        []string
	serverPID      int
	connectTimeout time.Duration
	credential     string
	json           bool
	cfg            fleet.Config

	progress  io.Writer
	selfRSS   int64 // before the nodes
	serverRSS int64 // before the nodes; 0: unknown
}

func (c *common) flags(cmd *cobra.Command, nodes int) {
	f := cmd.Flags()
	f.StringSliceVar(&c.servers, "server", []string{"127.0.0.1:7400"}, "address that nodes connect to; several are used in turn")
	f.IntVar(&c.cfg.Nodes, "nodes", nodes, "how many nodes")
	f.Uint64Var(&c.cfg.Seed, "seed", 1, "of attributes and jitter")
	f.StringVar(&c.cfg.NodePrefix, "node-prefix", "sim-", "of node ids, before the number")
	f.StringVar(&c.credential, "credential", "", "bearer credential of every node")
	f.IntVar(&c.cfg.InFlight, "in-flight", fleet.DefaultInFlight, "nodes that connect at the same time")
	f.DurationVar(&c.cfg.OpenTimeout, "open-timeout", fleet.DefaultOpenTimeout, "for one connection, until WELCOME")
	f.DurationVar(&c.connectTimeout, "connect-timeout", 2*time.Minute, "for all nodes to be connected")
	f.IntVar(&c.serverPID, "server-pid", 0, "process to measure, on this machine")
	f.BoolVar(&c.json, "json", false, "print one line of JSON, and no progress")
}

// prepare checks what can be checked before the first connection.
func (c *common) prepare(ctx context.Context, cmd *cobra.Command) error {
	c.progress = cmd.ErrOrStderr()
	if c.json {
		c.progress = io.Discard
	}
	c.cfg.Credential = []byte(c.credential)
	for _, s := range c.servers {
		a, err := reach(ctx, s)
		if err != nil {
			return err
		}
		c.cfg.Servers = append(c.cfg.Servers, a)
	}
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	need := uint64(c.cfg.FilesNeeded())
	limit, err := proc.RaiseFileLimit(need)
	if err != nil {
		return err
	}
	if limit < need {
		return fmt.Errorf("--nodes %d needs %d open files, and the limit here is %d: at most %d nodes are possible; raise the limit (ulimit -Hn) or use fewer nodes",
			c.cfg.Nodes, need, limit, max(0, int64(limit)-fleet.FilesReserve))
	}
	if c.selfRSS, err = proc.RSS(os.Getpid()); err != nil {
		return err
	}
	if !cmd.Flags().Changed("server-pid") {
		return nil
	}
	if err := proc.Check(c.serverPID); err != nil {
		return err
	}
	var readings []int64
	for range 5 {
		n, err := proc.RSS(c.serverPID)
		if err != nil {
			return err
		}
		readings = append(readings, n)
		if !wait.Pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	c.serverRSS = proc.Steady(readings)
	return nil
}

// reach resolves an address and sees whether something listens there.
func reach(ctx context.Context, address string) (netip.AddrPort, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--server %s: cannot connect: %w; is the server running there?", address, err)
	}
	defer conn.Close()
	a := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

// connect starts the nodes and waits until all are connected, have been refused for
// good, or the time is over. The caller stops the fleet, also when ok is false.
func (c *common) connect(ctx context.Context) (f *fleet.Fleet, ok bool, err error) {
	if f, err = fleet.Start(c.cfg); err != nil {
		return nil, false, err
	}
	timeout := time.NewTimer(c.connectTimeout)
	defer timeout.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-f.Settled():
			return f, f.Stats().Connected == c.cfg.Nodes, nil
		case <-f.Done():
			return f, false, nil
		case <-timeout.C:
			return f, false, nil
		case <-ctx.Done():
			return f, false, nil
		case <-tick.C:
			s := f.Stats()
			fmt.Fprintf(c.progress, "connected %d of %d  %s\n", s.Connected, c.cfg.Nodes, s.LastError)
		}
	}
}

// nodes makes the part of the report that all commands share, from the stats before
// the nodes were stopped.
func (c *common) nodes(ctx context.Context, s *fleet.Stats) report.Nodes {
	n := report.Nodes{
		Nodes: c.cfg.Nodes, Connected: s.Connected, Dead: s.Dead, Reconnects: s.Reconnects(c.cfg.Nodes),
		Dropped: s.Dropped, DialErrors: s.DialErrors, OpenTimeouts: s.OpenTimeouts, GoAways: s.GoAways,
		BadFrames: s.BadFrames, NodeLastError: s.LastError, Interrupted: ctx.Err() != nil, Closes: map[string]uint64{},
	}
	if s.ConnectTook > 0 {
		n.ConnectPerS = float64(min(s.Sessions, uint64(c.cfg.Nodes))) / s.ConnectTook.Seconds()
	}
	for r, k := range s.Closes {
		n.Closes[r.String()] = k
	}
	if rss, err := proc.RSS(os.Getpid()); err == nil && s.Connected > 0 {
		n.SimulatorBytes = (rss - c.selfRSS) / int64(s.Connected)
	}
	return n
}

// verdict is the error of a finished command: nil when the server kept its word.
func verdict(problems ...string) error {
	var errs []error
	for _, p := range problems {
		if p != "" {
			errs = append(errs, errors.New(p))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", errBad, errors.Join(errs...))
}

// notAll says how many nodes are missing, or "".
func (c *common) notAll(s *fleet.Stats) string {
	if s.Connected == c.cfg.Nodes {
		return ""
	}
	return fmt.Sprintf("%d of %d nodes are connected: %s", s.Connected, c.cfg.Nodes, s.LastError)
}
