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

const drainLong = `Drain a member, before it is stopped or updated: it takes no new nodes, gives its partitions to
others, and tells its nodes to leave, so many in a second; what runs on them goes on. Without a name
it is the member that --api names.

The drain goes on by itself until no node and no partition is left. --wait shows how far it is and
returns then; Ctrl-C ends only the waiting. Asked again, it changes the rate and where nodes are sent.
--cancel lets the member serve again.

The exit code is 0 when the drain has begun (with --wait: has ended), 1 when it ended otherwise, 2
when it could not begin, and 130 after Ctrl-C.`

type drainOptions struct {
	req    api.DrainRequest
	wait   bool
	cancel bool
	json   bool
}

// NewDrain makes the command that drains a member.
func NewDrain(g *Globals) *cobra.Command {
	o := &drainOptions{}
	cmd := prepare(&cobra.Command{
		Use:   "drain [MEMBER] [FLAGS]",
		Short: "Send a member's nodes and partitions to others",
		Long:  drainLong,
		Example: `  roost drain roost-2 --wait
  roost drain roost-2 --rate 2000 --to roost-1,roost-3
  roost drain roost-2 --cancel`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd); err != nil {
				return cannot(err)
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			name, err := drainWhom(ctx, c, args)
			if err != nil {
				return g.explain(err)
			}
			return o.run(ctx, g, c, name)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return g.completeMembers(cmd, args, prefix)
		},
	})
	g.Bind(cmd)
	f := cmd.Flags()
	f.IntVar(&o.req.RatePerS, "rate", 0, "nodes told to leave in a second; 0: the member's --drain-rate")
	f.StringSliceVar(&o.req.To, "to", nil, "names of members, or addresses (HOST:PORT) of nodes' ports, where nodes are sent; default: all that serve")
	f.BoolVar(&o.wait, "wait", false, "show how far it is, and return when nothing is left")
	f.BoolVar(&o.cancel, "cancel", false, "let the member serve again")
	f.BoolVar(&o.json, "json", false, "print the member as one line of JSON")
	complete(cmd, "to", g.completeMembers)
	complete(cmd, "rate", cobra.NoFileCompletions)
	return cmd
}

func (o *drainOptions) check(cmd *cobra.Command) error {
	if err := checkRate(o.req.RatePerS); err != nil {
		return err
	}
	if o.cancel {
		for _, name := range []string{"rate", "to", "wait"} {
			if cmd.Flags().Changed(name) {
				return fmt.Errorf("--%s has no meaning with --cancel", name)
			}
		}
	}
	return nil
}

func checkRate(rate int) error {
	if rate < 0 || rate > 100_000 {
		return fmt.Errorf("--rate: %d; allowed are 1 to 100000, or 0 for the member's --drain-rate", rate)
	}
	return nil
}

// drainWhom is the member that is named, or the one that is asked.
func drainWhom(ctx context.Context, c *client.Client, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	list, err := c.Members(ctx)
	switch {
	case err != nil:
		return "", err
	case len(list.Members) == 0:
		return "", errors.New("the member does not tell its name; give it")
	}
	return list.Members[0].Name, nil
}

func (o *drainOptions) run(ctx context.Context, g *Globals, c *client.Client, name string) error {
	var m api.MemberView
	var err error
	if o.cancel {
		m, err = c.Undrain(ctx, name)
	} else {
		m, err = c.Drain(ctx, name, o.req)
	}
	switch {
	case client.IsNotFound(err):
		return cannot(noMember(name))
	case err != nil:
		return stopped(ctx, g.explain(err), "stopped before it was known whether the drain has begun; see: roost status")
	}
	if o.wait {
		if m, err = waitForDrain(ctx, g, c, &m); err != nil {
			return stopped(ctx, err, fmt.Sprintf("stopped waiting; the drain goes on.\n  look at it:  roost status\n  cancel it:   roost drain %s --cancel", name))
		}
	}
	switch {
	case o.json:
		printJSON(g.Out, m)
	case o.cancel:
		fmt.Fprintf(g.Out, "member %s is %s\n", clean(m.Name), clean(m.State))
	case m.Drain == nil:
		return &ExitError{Code: exitNotOK, Err: fmt.Errorf("member %s is %s, and does not drain any more", clean(m.Name), clean(m.State))}
	default:
		fmt.Fprintf(g.Out, "member %s: %s\n", clean(m.Name), drainedLine(&m))
	}
	return nil
}

func drainedLine(m *api.MemberView) string {
	if d := m.Drain; d.EndedMs > 0 {
		return fmt.Sprintf("drained; %s told to leave in %s", plural(d.Told, "node"), formatAge(time.Duration(d.EndedMs-d.BeganMs)*time.Millisecond))
	}
	to := ""
	if len(m.Drain.To) > 0 {
		to = ", sent to " + clean(strings.Join(m.Drain.To, ", "))
	}
	return "drains: " + drainLine(m) + to
}

// Pauses between two looks at a drain, and between two lines about it for those who are no terminal.
const (
	drainPause = 250 * time.Millisecond
	drainTold  = 10 * time.Second
)

// waitForDrain looks at a member until nothing of it is left, or it does not drain any more.
func waitForDrain(ctx context.Context, g *Globals, c *client.Client, m *api.MemberView) (api.MemberView, error) {
	rows := &rows{g: g}
	defer rows.clearProgress()
	name := m.Name
	var told time.Time
	for m.Drain != nil && m.Drain.EndedMs == 0 {
		line := fmt.Sprintf("draining %s: %s", clean(name), drainLine(m))
		switch {
		case g.isTerminal(g.Err):
			rows.progress(line)
		case time.Since(told) > drainTold:
			rows.note("%s", line)
			told = time.Now()
		}
		select {
		case <-time.After(drainPause):
		case <-ctx.Done():
			return *m, context.Cause(ctx)
		}
		list, err := c.Members(ctx)
		if ctx.Err() != nil {
			return *m, context.Cause(ctx)
		}
		if err != nil {
			if mends(err) {
				continue
			}
			return *m, g.explain(err)
		}
		next := memberNamed(list.Members, name)
		switch {
		case next == nil || next.State == api.MemberDown:
			return *m, &ExitError{Code: exitNotOK, Err: fmt.Errorf("member %s is gone, with %s", clean(name), drainLine(m))}
		case next.Drain == nil && next.State == api.MemberDraining:
			continue // it did not answer for itself this time
		}
		m = next
	}
	return *m, nil
}

func memberNamed(members []api.MemberView, name string) *api.MemberView {
	for i := range members {
		if members[i].Name == name {
			return &members[i]
		}
	}
	return nil
}

// NewRebalance makes the command that spreads the nodes.
func NewRebalance(g *Globals) *cobra.Command {
	var req api.RebalanceRequest
	var asJSON bool
	cmd := prepare(&cobra.Command{
		Use:   "rebalance [FLAGS]",
		Short: "Spread the nodes evenly over the members",
		Long: `Spread the nodes evenly over the members: each that has more than the average tells those beyond it
to leave for members that have fewer, so many in a second. What runs on them goes on.

It returns when they have begun; "roost status" shows how it goes on.`,
		Example: `  roost rebalance
  roost rebalance --rate 2000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkRate(req.RatePerS); err != nil {
				return cannot(err)
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			v, err := c.Rebalance(cmd.Context(), req)
			if err != nil {
				return g.explain(err)
			}
			g.missing(v.MissingMembers)
			switch {
			case asJSON:
				printJSON(g.Out, v)
			case len(v.Moves) == 0:
				fmt.Fprintln(g.Out, "the nodes are spread evenly enough: nothing to do")
			default:
				for _, m := range v.Moves {
					fmt.Fprintf(g.Out, "member %s: tells %s to leave, for %s\n", clean(m.Member), plural(m.Nodes, "node"), clean(strings.Join(m.To, ", ")))
				}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	g.Bind(cmd)
	cmd.Flags().IntVar(&req.RatePerS, "rate", 0, "nodes of one member told to leave in a second; 0: its --drain-rate")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one line of JSON")
	complete(cmd, "rate", cobra.NoFileCompletions)
	return cmd
}
