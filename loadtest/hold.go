//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

func holdCommand() *cobra.Command {
	var c common
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "Connect idle nodes and hold them: connect rate and server memory",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if duration < 0 {
				return fmt.Errorf("--duration: %v; it cannot be negative", duration)
			}
			return hold(cmd.Context(), cmd, &c, duration)
		},
	}
	c.flags(cmd, 15_000)
	cmd.Flags().DurationVar(&duration, "duration", 10*time.Second, "how long to hold the nodes after all are connected")
	return cmd
}

func hold(ctx context.Context, cmd *cobra.Command, c *common, duration time.Duration) error {
	if err := c.prepare(ctx, cmd); err != nil {
		return err
	}
	f, ok, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer f.Stop()
	var rep report.Hold
	var readings []int64
	if ok {
		rep.StayedConnected = true
		began := time.Now()
		readings = c.watch(ctx, f, duration, &rep)
		rep.HeldS = time.Since(began).Seconds()
	}
	s := f.Stats()
	rep.Nodes, rep.Pings, rep.Pongs = c.nodes(ctx, &s), s.Pings, s.Pongs
	if len(readings) > 0 {
		steady := proc.Steady(readings)
		each := (steady - c.serverRSS) / int64(c.cfg.Nodes)
		rep.ServerRSSBefore, rep.ServerRSS, rep.ServerBytesPerNode = &c.serverRSS, &steady, &each
	}
	if err := show(cmd, c.json, &rep); err != nil {
		return err
	}
	left := ""
	if ok && !rep.StayedConnected && s.Connected == c.cfg.Nodes {
		left = "nodes lost their connection while they were held: " + s.LastError
	}
	return verdict(c.notAll(&s), left)
}

// watch holds the nodes, and reads the server's memory twenty times.
func (c *common) watch(ctx context.Context, f *fleet.Fleet, duration time.Duration, rep *report.Hold) (readings []int64) {
	const times = 20
	sessions := f.Stats().Sessions
	shown := time.Now()
	for range times {
		if !wait.Pause(ctx, duration/times) {
			break
		}
		if c.serverPID > 0 {
			if n, err := proc.RSS(c.serverPID); err == nil {
				readings = append(readings, n)
			}
		}
		s := f.Stats()
		if s.Connected < c.cfg.Nodes || s.Sessions != sessions {
			rep.StayedConnected = false
		}
		if time.Since(shown) >= time.Second {
			shown = time.Now()
			fmt.Fprintf(c.progress, "holding %d of %d\n", s.Connected, c.cfg.Nodes)
		}
	}
	return readings
}
