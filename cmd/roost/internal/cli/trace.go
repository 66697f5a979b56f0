package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
)

const traceLong = `Watch the jobs of a node, or one job, on their way through the cluster, as it happens:

  read          the job's record, by the shard of its partition
  delivered     to the gate that holds the node
  sent          to the node, when it had to wait for others
  accepted      the node says that it still runs, of a job that takes a while
  result        what the node answered has reached the shard
  committed     the outcome is in Kafka
  acknowledged  the node was told so, and forgets it
  notice        what else happened, such as a session's end
  missing       a member's steps are not told, or not any more

The second column is the time since the first step of the same job that was seen. Clocks of members
differ a little. Nothing is told of what happened before. Ctrl-C ends it.`

// NewTrace makes the command that shows what happens to a node or a job.
func NewTrace(g *Globals) *cobra.Command {
	var f api.TraceFilter
	var asJSON bool
	cmd := prepare(&cobra.Command{
		Use:   "trace --node ID | --job ID",
		Short: "Watch a node's jobs, or one job, step by step",
		Long:  traceLong,
		Example: `  roost trace --node sydney-1
  roost trace --job check-1 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f == (api.TraceFilter{}) {
				return cannot(errors.New("trace what? Give --node ID, --job ID, or both"))
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			t := &tracePrinter{g: g, json: asJSON, began: map[string]int64{}}
			err = t.run(ctx, c, f)
			if ctx.Err() != nil {
				return nil // as it is meant to end
			}
			return g.explain(err)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	g.Bind(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.Node, "node", "", "the node's ID")
	fs.StringVar(&f.Job, "job", "", "the job's ID")
	fs.BoolVar(&asJSON, "json", false, "print each step as one line of JSON")
	complete(cmd, "node", g.completeNodes)
	complete(cmd, "job", func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return g.completeJobs(cmd, nil, prefix)
	})
	return cmd
}

// tracePrinter prints one trace.
type tracePrinter struct {
	g      *Globals
	json   bool
	headed bool
	began  map[string]int64 // time of the first step, by job
}

// run prints until ctx ends, and begins again when the stream breaks.
func (t *tracePrinter) run(ctx context.Context, c *client.Client, f api.TraceFilter) error {
	rows := &rows{g: t.g}
	delay := firstRetry
	for first := true; ; first = false {
		stream, err := c.Trace(ctx, f)
		switch {
		case err == nil:
			if first && !t.json {
				rows.note("tracing; Ctrl-C ends it")
			}
			n := len(t.began)
			err = t.read(stream)
			_ = stream.Close()
			if ctx.Err() != nil || !errors.As(err, new(*client.StreamError)) {
				return err
			}
			if len(t.began) > n {
				delay = firstRetry
			}
			rows.note("%v; tracing again: steps may be missing", err)
		case first || !mends(err):
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		delay = min(2*delay, lastRetry)
	}
}

func (t *tracePrinter) read(s *client.Stream) error {
	for {
		ev, err := s.Next()
		if err != nil {
			return err
		}
		if ev.Trace != nil {
			t.print(ev.Trace)
		}
	}
}

// maxBegan caps the jobs whose beginning is remembered; a trace of a busy node may run for days.
const maxBegan = 10_000

func (t *tracePrinter) print(e *api.TraceEvent) {
	if t.json {
		printJSON(t.g.Out, e)
		return
	}
	if !t.headed {
		t.headed = true
		t.columns("TIME", "SINCE", "MEMBER", "STEP", "NODE", "JOB", "DETAIL")
	}
	since := ""
	if e.Job != "" {
		if len(t.began) >= maxBegan {
			clear(t.began)
		}
		if _, ok := t.began[e.Job]; !ok {
			t.began[e.Job] = e.TimeUs
		}
		since = fmt.Sprintf("%+.1f ms", float64(e.TimeUs-t.began[e.Job])/1000)
	}
	detail := clean(e.Text)
	if e.Attempt > 1 {
		detail = strings.TrimSuffix(fmt.Sprintf("attempt %d, %s", e.Attempt, detail), ", ")
	}
	t.columns(time.UnixMicro(e.TimeUs).Local().Format("15:04:05.000"), since, orDash(e.Member), clean(e.Step), orDash(e.Node), orDash(e.Job), detail)
}

func (t *tracePrinter) columns(at, since, member, step, node, job, detail string) {
	line := fmt.Sprintf("%-12s  %10s  %-12s  %-12s  %-20s  %-26s  %s", at, since, member, step, node, job, detail)
	fmt.Fprintln(t.g.Out, strings.TrimRight(line, " "))
}
