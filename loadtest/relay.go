//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/relay"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/topics"
	"github.com/roost-server/roost/loadtest/internal/workload"
)

// relayKeys is how many keys the records of the relay command have: as many as the
// jobs command has nodes.
const relayKeys = 2000

func relayCommand() *cobra.Command {
	var load workload.Config
	var cfg relay.Config
	var partitions int32
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Measure a bare consume-produce-commit loop on the same broker, to compare jobs with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if partitions < 1 || partitions > 10_000 {
				return fmt.Errorf("--partitions: %d; allowed are 1 to 10000", partitions)
			}
			keys := fleet.Config{NodePrefix: "sim-", Nodes: relayKeys}
			for i := range relayKeys {
				load.NodeIDs = append(load.NodeIDs, keys.ID(i))
			}
			if err := errors.Join(load.Validate(), cfg.Validate()); err != nil {
				return err
			}
			progress := cmd.ErrOrStderr()
			if asJSON {
				progress = io.Discard
			}
			load.SelfCPU, load.Progress = proc.SelfCPU, shows(progress, "records")
			rep, problems, err := runRelay(cmd.Context(), load, cfg, partitions)
			if err != nil {
				return err
			}
			if err := show(cmd, asJSON, rep); err != nil {
				return err
			}
			return verdict(problems...)
		},
	}
	loadFlags(cmd, &load, 20_000)
	relayFlags(cmd, &cfg)
	cmd.Flags().Int32Var(&partitions, "partitions", 16, "of its topics")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one line of JSON, and no progress")
	cmd.MarkFlagsMutuallyExclusive("jobs", "duration")
	cmd.MarkFlagsMutuallyExclusive("rate", "window")
	return cmd
}

func relayFlags(cmd *cobra.Command, cfg *relay.Config) {
	cmd.Flags().DurationVar(&cfg.Interval, "commit-interval", 50*time.Millisecond, "the relay ends a transaction so long after its first record")
	cmd.Flags().IntVar(&cfg.Records, "commit-records", 2000, "or as soon as it has so many records; 0: no limit")
}

// relayLoopCommand is what the relay command starts as a process.
func relayLoopCommand() *cobra.Command {
	return &cobra.Command{
		Use: relay.Command, Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return relay.Serve(cmd.Context(), args, os.Stdin, cmd.OutOrStdout())
		},
	}
}

// runRelay puts a load on the relay as it is put on a server, over topics that it
// makes and removes.
func runRelay(ctx context.Context, load workload.Config, cfg relay.Config, partitions int32) (rep *report.Relay, problems []string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	prefix := "roost-relay-" + workload.NewRunID() + "."
	cfg.Brokers, cfg.From, cfg.To, cfg.Group = load.Brokers, prefix+"jobs", prefix+"results", prefix+"group"
	if err := topics.Create(ctx, load.Brokers, partitions, cfg.From, cfg.To); err != nil {
		return nil, nil, err
	}
	defer func() {
		gone := topics.Delete(context.WithoutCancel(ctx), load.Brokers, []string{cfg.Group}, cfg.From, cfg.To)
		err = errors.Join(err, gone)
	}()
	loop, err := relay.Start(ctx, exe, cfg, int(partitions))
	if err != nil {
		return nil, nil, err
	}
	load.TopicPrefix, load.Copies, load.NodeCPU = prefix, true, nil
	load.ServerCPU = func() (time.Duration, error) { return proc.CPU(loop.PID()) }
	fig, err := workload.Run(ctx, load)
	st, ended := loop.Stop()
	if err := errors.Join(err, ended); err != nil {
		return nil, nil, err
	}
	rep = &report.Relay{
		Run: fig.Run, Records: fig.Produced, RecordsPerS: perSecond(fig), LoopCPUUs: eachUs(fig, fig.ServerCPU),
		SimulatorCPUUs: eachUs(fig, fig.SelfCPU), Transactions: st.Transactions, Aborted: st.Aborted,
		MeasuredS: fig.MeasuredFor.Seconds(), Lost: fig.Lost, Duplicates: fig.Duplicates, Corrupt: fig.Corrupt,
		Unreadable: fig.Unreadable, ProduceFailed: fig.ProduceFailed, LastError: fig.LastError, Partitions: partitions,
		CommitMs: float64(cfg.Interval) / 1e6, CommitRecords: cfg.Records, Window: load.Window, Rate: load.Rate,
		Size: load.Size, RecordBytes: fig.RecordBytes, Interrupted: fig.Interrupted,
	}
	whole := latency(fig.Latency)
	rep.P50Ms, rep.P99Ms, rep.P999Ms, rep.MaxMs = whole.P50, whole.P99, whole.P999, whole.Max
	for _, p := range wrong(fig) {
		if p != "" {
			problems = append(problems, "relay: "+p)
		}
	}
	return rep, problems, nil
}
