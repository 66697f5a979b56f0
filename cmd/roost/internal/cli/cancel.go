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

const cancelLong = `Cancel jobs. Each assignment that has not ended gets the outcome "cancelled"; those that have
keep theirs. Nodes that have the job are told to give it up.

The command waits until every assignment has ended, or tells what is left.

The exit code is 0 when all the jobs were cancelled, 1 when one had ended already or is not at its
end in time, 2 when one could not be cancelled, and 130 after Ctrl-C, which takes nothing back.`

const cancelExample = `  roost jobs cancel 01JDX5ZQ4T8M7KX0F3Y2N9C6RA
  roost jobs cancel check-1 check-2 --reason "wrong target" --wait 2m`

type cancelOptions struct {
	reason string
	wait   time.Duration
	json   bool
}

func newJobsCancel(g *Globals) *cobra.Command {
	o := &cancelOptions{}
	cmd := prepare(&cobra.Command{
		Use:     "cancel ID... [FLAGS]",
		Short:   "Cancel jobs",
		Long:    cancelLong,
		Example: cancelExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("which job? Give the IDs of one or more")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			if o.wait < 0 {
				return cannot(fmt.Errorf("--wait: %s; 0 or more is expected", o.wait))
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return cancelJobs(ctx, g, c, ids, o)
		},
		ValidArgsFunction: g.completeOpenJobs,
	})
	f := cmd.Flags()
	f.StringVar(&o.reason, "reason", "", "why; the outcomes show it")
	f.DurationVar(&o.wait, "wait", 30*time.Second, "how long to wait for the jobs' ends; 0: not at all")
	f.BoolVar(&o.json, "json", false, "print each job as one line of JSON")
	complete(cmd, "reason", cobra.NoFileCompletions)
	complete(cmd, "wait", cobra.NoFileCompletions)
	return cmd
}

// cancelJobs cancels all the jobs first, and waits for them then.
func cancelJobs(ctx context.Context, g *Globals, c *client.Client, ids []string, o *cancelOptions) error {
	code := 0
	var open []api.JobView
	for _, id := range ids {
		var j api.JobView
		err := g.patiently(ctx, func() (err error) {
			j, err = c.Cancel(ctx, id, o.reason)
			return err
		})
		switch {
		case err == nil:
			open = append(open, j)
		case client.IsEnded(err):
			fmt.Fprintf(g.Err, "roost: job %s had ended already\n", clean(id))
			code = max(code, exitNotOK)
		case ctx.Err() != nil || errors.As(err, new(*client.Unreachable)):
			return stopped(ctx, g.explain(err), fmt.Sprintf("stopped before job %s was cancelled", clean(id)))
		case client.IsNotFound(err):
			fmt.Fprintf(g.Err, "roost: %v\n", noJob(id))
			code = exitCannot
		default:
			fmt.Fprintf(g.Err, "roost: job %s was not cancelled: %v\n", clean(id), g.explain(err))
			code = exitCannot
		}
	}
	deadline := time.Now().Add(o.wait)
	for i := range open {
		j, err := waitForEnd(ctx, g, c, open[i], deadline)
		if err != nil {
			return stopped(ctx, g.explain(err), "stopped waiting; what was cancelled stays so")
		}
		if o.json {
			printJSON(g.Out, j)
		} else {
			fmt.Fprintln(g.Out, cancelLine(&j))
		}
		if j.State != api.StateDone && o.wait > 0 {
			code = max(code, exitNotOK)
		}
	}
	if code != 0 {
		return &ExitError{Code: code}
	}
	return nil
}

// waitForEnd looks at a job until it is done or the time is over.
func waitForEnd(ctx context.Context, g *Globals, c *client.Client, j api.JobView, deadline time.Time) (api.JobView, error) {
	rows := &rows{g: g}
	defer rows.clearProgress()
	pause := 20 * time.Millisecond
	for j.State != api.StateDone && time.Now().Before(deadline) {
		var next api.JobView
		err := g.patiently(ctx, func() (err error) {
			next, err = c.Job(ctx, j.ID)
			return err
		})
		switch {
		case client.IsEnded(err):
			j.State, j.Assignments = api.StateDone, nil
			return j, nil
		case err != nil && !mends(err):
			return j, err
		case err == nil:
			j = next
		}
		if j.State == api.StateDone {
			break
		}
		rows.progress(fmt.Sprintf("waiting for job %s: %d of %s", clean(j.ID), ended(&j), plural(j.Targets, "outcome")))
		select {
		case <-time.After(min(pause, time.Until(deadline))):
		case <-ctx.Done():
			return j, context.Cause(ctx)
		}
		pause = min(2*pause, time.Second)
	}
	return j, nil
}

// cancelLine says what has become of a job.
func cancelLine(j *api.JobView) string {
	switch {
	case j.State == api.StateDone && ended(j) < j.Targets:
		return fmt.Sprintf("job %s: ended; the results topic has the outcomes", clean(j.ID))
	case j.State == api.StateDone:
		return fmt.Sprintf("job %s: %s", clean(j.ID), formatOutcomes(j.Outcomes))
	}
	left := j.Targets - ended(j)
	text := fmt.Sprintf("job %s: cancelled, but %d of %s not ended yet", clean(j.ID), left, plural(j.Targets, "assignment"))
	var nodes []string
	for _, a := range j.Assignments {
		if a.State != api.StateDone && a.Node != "" {
			nodes = append(nodes, fmt.Sprintf("%s %s", clean(a.Node), clean(a.State)))
		}
	}
	const most = 10
	if len(nodes) > most {
		nodes = append(nodes[:most], fmt.Sprintf("and %d more", left-most))
	}
	if len(nodes) > 0 {
		text += ": " + strings.Join(nodes, ", ")
	}
	return text
}
