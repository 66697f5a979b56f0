package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol"
)

// completeTimeout bounds what a shell waits for after the tab key.
const completeTimeout = time.Second

// kinds are those that a node of this software runs.
var kinds = []string{"http", "tcp", "udp", "dns", "ping", "traceroute"}

func outcomeNames() []string {
	out := make([]string, 0, 9)
	for _, o := range protocol.Outcomes() {
		out = append(out, o.String())
	}
	return out
}

// complete sets the completion of a flag, which has to exist.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag's name is spelt wrong, here
	}
}

func fixed(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

// completeNodes offers the ids of connected nodes.
func (g *Globals) completeNodes(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := g.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	page, err := c.Nodes(ctx, api.NodeFilter{Prefix: prefix, Limit: api.DefaultPage})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	out := make([]cobra.Completion, 0, len(page.Nodes))
	for i := range page.Nodes {
		n := &page.Nodes[i]
		about := strings.TrimSpace(clean(fmt.Sprintf("%s %s", n.Country, n.City)))
		out = append(out, cobra.CompletionWithDesc(clean(n.ID), about))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeMembers offers the names of members.
func (g *Globals) completeMembers(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := g.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	list, err := c.Members(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for i := range list.Members {
		if m := &list.Members[i]; strings.HasPrefix(m.Name, prefix) {
			out = append(out, cobra.CompletionWithDesc(clean(m.Name), clean(m.State)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeJobs offers the ids of recent jobs.
func (g *Globals) completeJobs(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.jobIDs(cmd.Context(), prefix, func(*api.JobView) bool { return true })
}

// completeOpenJobs offers the ids of jobs that have not ended, any number of them.
func (g *Globals) completeOpenJobs(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return g.jobIDs(cmd.Context(), prefix, func(j *api.JobView) bool { return j.State != api.StateDone && !slices.Contains(args, j.ID) })
}

func (g *Globals) jobIDs(ctx context.Context, prefix string, want func(*api.JobView) bool) ([]cobra.Completion, cobra.ShellCompDirective) {
	c, err := g.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	list, err := c.Jobs(ctx, api.JobFilter{Limit: api.DefaultPage})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for i := range list.Jobs {
		if j := &list.Jobs[i]; strings.HasPrefix(j.ID, prefix) && want(j) {
			out = append(out, cobra.CompletionWithDesc(clean(j.ID), clean(j.Kind+" "+j.State)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
