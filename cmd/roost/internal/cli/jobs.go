package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
)

const jobsLong = `List recent jobs, the most recent first, or look at one with its outcomes.

With --follow, outcomes are shown as they arrive, until the last; the exit code is then that of
"roost run". A job that the member has not seen yet is waited for.

A member shows the open jobs and the recent ones that it still holds; the results topic has all
outcomes. While it rebuilds what it knows of jobs from Kafka, after its start or a rebalance, an ID
that it does not know yet is waited for.`

const jobsExample = `  roost jobs
  roost jobs --state running --tenant ops
  roost jobs 01JDX5ZQ4T8M7KX0F3Y2N9C6RA
  roost jobs 01JDX5ZQ4T8M7KX0F3Y2N9C6RA --outcome failed --outcome timeout
  roost jobs 01JDX5ZQ4T8M7KX0F3Y2N9C6RA --follow --json
  roost jobs cancel 01JDX5ZQ4T8M7KX0F3Y2N9C6RA`

type jobsOptions struct {
	filter   api.JobFilter
	outcomes []string
	json     bool
	follow   bool
}

// NewJobs makes the command that lists jobs, or shows or follows one.
func NewJobs(g *Globals) *cobra.Command {
	o := &jobsOptions{}
	cmd := prepare(&cobra.Command{
		Use:     "jobs [ID] [FLAGS]",
		Short:   "List jobs, look at one, or cancel some",
		Long:    jobsLong,
		Example: jobsExample,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd, args); err != nil {
				return cannot(err)
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case len(args) == 0:
				return listJobs(cmd.Context(), g, c, o)
			case o.follow:
				return followJob(cmd.Context(), g, c, args[0], o)
			}
			return showJob(cmd.Context(), g, c, args[0], o)
		},
		ValidArgsFunction: g.completeJobs,
	})
	g.Bind(cmd)
	f := cmd.Flags()
	f.StringVar(&o.filter.State, "state", "", "only jobs in this state: waiting, running or done")
	f.StringVar(&o.filter.Tenant, "tenant", "", "only jobs of this tenant")
	f.StringVar(&o.filter.Node, "node", "", "only jobs for this node")
	f.IntVar(&o.filter.Limit, "limit", api.DefaultPage, fmt.Sprintf("show at most this many, up to %d", api.MaxPage))
	f.StringArrayVar(&o.outcomes, "outcome", nil, "with an ID: only these outcomes; may be given more than once")
	f.BoolVar(&o.follow, "follow", false, "with an ID: show outcomes as they arrive")
	f.BoolVar(&o.json, "json", false, "print each job as one line of JSON; with --follow, each outcome")
	complete(cmd, "state", fixed(api.StateWaiting, api.StateRunning, api.StateDone))
	complete(cmd, "outcome", fixed(outcomeNames()...))
	complete(cmd, "node", g.completeNodes)
	complete(cmd, "tenant", cobra.NoFileCompletions)
	complete(cmd, "limit", cobra.NoFileCompletions)
	cmd.AddCommand(newJobsCancel(g))
	return cmd
}

func (o *jobsOptions) check(cmd *cobra.Command, args []string) error {
	f := cmd.Flags()
	if len(args) == 0 {
		switch {
		case o.follow:
			return errors.New("--follow needs the ID of a job")
		case len(o.outcomes) > 0:
			return errors.New("--outcome needs the ID of a job")
		case o.filter.Limit < 1 || o.filter.Limit > api.MaxPage:
			return fmt.Errorf("--limit: %d; 1 to %d are allowed", o.filter.Limit, api.MaxPage)
		}
		if states := []string{"", api.StateWaiting, api.StateRunning, api.StateDone}; !slices.Contains(states, o.filter.State) {
			return fmt.Errorf("--state: %q is none of %s", o.filter.State, strings.Join(states[1:], ", "))
		}
		return nil
	}
	for _, name := range []string{"state", "tenant", "node", "limit"} {
		if f.Changed(name) {
			return fmt.Errorf("--%s chooses among jobs; with an ID it has no meaning", name)
		}
	}
	for _, name := range o.outcomes {
		if !slices.Contains(outcomeNames(), name) {
			return fmt.Errorf("--outcome: %q is none of %s", name, strings.Join(outcomeNames(), ", "))
		}
	}
	return nil
}

func (o *jobsOptions) hides(outcome string) bool {
	return len(o.outcomes) > 0 && !slices.Contains(o.outcomes, outcome)
}

func listJobs(ctx context.Context, g *Globals, c *client.Client, o *jobsOptions) error {
	answer, err := c.Jobs(ctx, o.filter)
	if err != nil {
		return g.explain(err)
	}
	list := answer.Jobs
	defer g.missing(answer.MissingMembers)
	defer g.incomplete("the jobs", answer.Rebuilding)
	if o.json {
		for i := range list {
			printJSON(g.Out, list[i])
		}
		return nil
	}
	if len(list) == 0 && len(answer.Rebuilding) == 0 {
		if o.filter == (api.JobFilter{Limit: o.filter.Limit}) {
			fmt.Fprintln(g.Err, "no jobs yet; submit one with: roost run http https://example.com")
		} else {
			fmt.Fprintln(g.Err, "no recent job fits; \"roost jobs\" lists all")
		}
		return nil
	}
	t := newTable(g.Out, "ID", "KIND", "STATE", "ENDED", "OUTCOMES", "AGE", "TENANT")
	for i := range list {
		j := &list[i]
		t.row(clean(j.ID), clean(j.Kind), clean(j.State), fmt.Sprintf("%d/%d", ended(j), j.Targets),
			formatOutcomes(j.Outcomes), since(j.SubmittedMs), orDash(j.Tenant))
	}
	return t.flush()
}

func ended(j *api.JobView) int {
	n := 0
	for _, k := range j.Outcomes {
		n += k
	}
	return n
}

func noJob(id string) error {
	return cannot(fmt.Errorf("the member does not know job %s; \"roost jobs\" lists those that it knows", clean(id)))
}

func showJob(ctx context.Context, g *Globals, c *client.Client, id string, o *jobsOptions) error {
	var j api.JobView
	err := g.patiently(ctx, func() (err error) {
		j, err = c.Job(ctx, id)
		return err
	})
	switch {
	case client.IsNotFound(err):
		return noJob(id)
	case err != nil:
		return g.explain(err)
	}
	open := openAssignments(&j)
	kept := len(j.Results)
	j.Results = slices.DeleteFunc(j.Results, func(r api.ResultView) bool { return o.hides(r.Outcome) })
	if o.json {
		printJSON(g.Out, j)
		return nil
	}
	if err := printJob(g.Out, &j); err != nil {
		return err
	}
	if len(j.Results) > 0 {
		fmt.Fprintln(g.Out)
	}
	rows := &rows{g: g, c: c}
	for i := range j.Results {
		rows.fit(j.Results[i].Node)
	}
	for i := range j.Results {
		rows.print(ctx, &j.Results[i])
	}
	if err := printOpen(g.Out, &j, open); err != nil {
		return err
	}
	if kept < ended(&j) {
		fmt.Fprintln(g.Err, "the member no longer holds all outcomes; the results topic does")
	}
	return nil
}

// printJob prints what the job is.
func printJob(w io.Writer, j *api.JobView) error {
	t := newTable(w)
	t.row("id", clean(j.ID))
	t.row("kind", clean(j.Kind))
	t.row("tenant", orDash(j.Tenant))
	t.row("state", clean(j.State))
	t.row("submitted", fmt.Sprintf("%s (%s ago)", formatTime(j.SubmittedMs), since(j.SubmittedMs)))
	if j.NotBeforeMs > 0 {
		t.row("not before", formatTime(j.NotBeforeMs))
	}
	if j.DeadlineMs > 0 {
		t.row("deadline", formatTime(j.DeadlineMs))
	}
	if j.AttemptsMax > 0 {
		t.row("attempts", fmt.Sprintf("up to %d", j.AttemptsMax))
	}
	if j.Priority > 0 {
		t.row("priority", strconv.Itoa(int(j.Priority)))
	}
	t.row("record", fmt.Sprintf("partition %d, offset %d", j.Partition, j.Offset))
	t.row("outcomes", fmt.Sprintf("%d of %d: %s", ended(j), j.Targets, formatOutcomes(j.Outcomes)))
	return t.flush()
}

// openAssignments returns those without a result among the job's.
func openAssignments(j *api.JobView) []api.AssignmentView {
	shown := make(map[uint32]bool, len(j.Results))
	for i := range j.Results {
		shown[j.Results[i].Index] = true
	}
	return slices.DeleteFunc(slices.Clone(j.Assignments), func(a api.AssignmentView) bool { return shown[a.Index] })
}

// printOpen prints the assignments that have no row as results.
func printOpen(w io.Writer, j *api.JobView, open []api.AssignmentView) error {
	if len(open) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "NODE", "STATE", "ATTEMPT")
	for _, a := range open {
		state, attempt := clean(a.State), "-"
		if a.Outcome != "" {
			state = clean(a.Outcome) // whose result is not held any more
		}
		if a.Attempt > 0 {
			attempt = fmt.Sprintf("%d of %d", a.Attempt, max(j.AttemptsMax, a.Attempt))
		}
		t.row(orDash(a.Node), state, attempt)
	}
	if n := j.Targets - len(j.Assignments); n > 0 {
		t.row(fmt.Sprintf("and %d more", n), "", "")
	}
	return t.flush()
}

// followJob shows outcomes until the last.
func followJob(ctx context.Context, g *Globals, c *client.Client, id string, o *jobsOptions) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	stream, err := c.Follow(ctx, id)
	if err != nil {
		return stopped(ctx, g.explain(err), goesOn(id))
	}
	w := newWatch(g, c, id, o.json)
	w.hide = o.hides
	_, err = c.Job(ctx, id)
	if p, rebuilding := client.IsRebuilding(err); rebuilding {
		w.rows.note("waiting for job %s: %s", id, rebuildingText(p.Rebuilding))
	} else if client.IsNotFound(err) {
		w.rows.note("the member has not seen job %s yet; waiting for it", id)
	}
	if err := w.follow(ctx, stream); err != nil {
		return stopped(ctx, g.explain(err), goesOn(id))
	}
	return w.finish()
}
