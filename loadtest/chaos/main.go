//go:build linux

// Command chaos breaks a Roost cluster at random, while jobs flow, and then adds up
// whether every assignment has exactly one outcome. It runs the broker, the members
// and the nodes as processes of their own; Linux only.
//
//	chaos run     the whole: start, break, heal, check
//	chaos check   the check alone, of the files and topics that a run has left
//
// The faults come from a seed, which is printed first; the schedule of a machine is
// not in it, so a seed repeats what is done, and not always what comes of it.
package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/loadtest/internal/suite"
)

// errBad is the error of a check that found something: it has been printed.
var errBad = errors.New("the cluster did not keep its word")

func main() {
	suite.Main(suite.Command("chaos", "Break a Roost cluster at random, and check what came of it",
		runCommand(), checkCommand(), nodesCommand()), errBad)
}

// nodesCommand is a process with nodes; runCommand starts it.
func nodesCommand() *cobra.Command {
	var cfg nodes.Config
	cmd := &cobra.Command{
		Use: "nodes", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return nodes.Run(c.Context(), cfg, os.Stdin, c.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Members, "members", nil, "addresses of all members")
	f.StringVar(&cfg.Prefix, "prefix", "n-", "of the node ids")
	f.IntVar(&cfg.Count, "count", 100, "how many nodes")
	f.Uint64Var(&cfg.Seed, "seed", 1, "of their whims")
	f.StringVar(&cfg.Runs, "runs", "", "file for the log of runs")
	return cmd
}

func checkCommand() *cobra.Command {
	var dir, prefix, group string
	var brokers []string
	cmd := &cobra.Command{
		Use:   "check --kafka HOST:PORT --dir DIR",
		Short: "Check what the logs in a directory say against the topics of a broker",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := checkConfig(brokers, dir)
			cfg.Topics, cfg.Group = checker.NewTopics(prefix), group
			rep, err := checker.Check(c.Context(), cfg)
			if err != nil {
				return err
			}
			rep.Print(c.OutOrStdout())
			if !rep.Sound() {
				return errBad
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&brokers, "kafka", nil, "bootstrap servers")
	f.StringVar(&dir, "dir", "", "directory with the logs of a run")
	f.StringVar(&prefix, "topic-prefix", "roost.", "what the topics' names start with")
	f.StringVar(&group, "group", "", "consumer group whose offsets have to be at the ends; empty: none")
	return cmd
}

// Names of a run's files.
const (
	submittedFile = "submitted.jsonl"
	marksFile     = "marks.jsonl"
	runsPattern   = "runs-*.log"
	findingsFile  = "findings.txt"
)

func checkConfig(brokers []string, dir string) checker.Config {
	runs, _ := filepath.Glob(filepath.Join(dir, runsPattern)) // the pattern is sound
	return checker.Config{
		Brokers: brokers, Topics: checker.NewTopics("roost."), Runs: runs,
		Submissions: filepath.Join(dir, submittedFile), Marks: filepath.Join(dir, marksFile),
	}
}
