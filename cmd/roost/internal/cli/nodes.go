package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
)

const nodesExample = `  roost nodes
  roost nodes --country AU --kind dns
  roost nodes --prefix sydney- --limit 0 --json
  roost nodes sydney-1`

// NewNodes makes the command that lists the connected nodes, or shows one.
func NewNodes(g *Globals) *cobra.Command {
	var f api.NodeFilter
	var asJSON bool
	var limit int
	cmd := prepare(&cobra.Command{
		Use:     "nodes [ID] [FLAGS]",
		Short:   "List the connected nodes, or look at one",
		Long:    "List the nodes that are connected to the cluster, ordered by id, or look at one of them.",
		Example: nodesExample,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return cannot(fmt.Errorf("--limit: %d; a number of nodes is expected, or 0 for all", limit))
			}
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			if len(args) == 1 {
				if f != (api.NodeFilter{}) {
					return cannot(errors.New("filters choose among nodes; with an ID they have no meaning"))
				}
				return showNode(cmd.Context(), g, c, args[0], asJSON)
			}
			return listNodes(cmd.Context(), g, c, f, limit, asJSON)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return g.completeNodes(cmd, args, prefix)
		},
	})
	g.Bind(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.Country, "country", "", "only nodes in this country, such as AU")
	fs.StringVar(&f.City, "city", "", "only nodes in this city")
	fs.Uint32Var(&f.ASN, "asn", 0, "only nodes in this autonomous system")
	fs.StringVar(&f.Tag, "tag", "", "only nodes with this tag")
	fs.StringVar(&f.Platform, "platform", "", "only nodes of this platform, such as linux/arm64")
	fs.StringVar(&f.Kind, "kind", "", "only nodes that run this kind of job")
	fs.StringVar(&f.Prefix, "prefix", "", "only nodes whose id begins so")
	fs.IntVar(&limit, "limit", api.DefaultPage, "show at most this many; 0 for all")
	fs.BoolVar(&asJSON, "json", false, "print each node as one line of JSON")
	complete(cmd, "kind", fixed(kinds...))
	complete(cmd, "platform", fixed("linux/amd64", "linux/arm64", "linux/arm", "darwin/arm64", "windows/amd64"))
	for _, flag := range []string{"country", "city", "asn", "tag", "prefix", "limit"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return cmd
}

func listNodes(ctx context.Context, g *Globals, c *client.Client, f api.NodeFilter, limit int, asJSON bool) error {
	filtered := f != (api.NodeFilter{})
	t := newTable(g.Out)
	shown := 0
	for {
		f.Limit = api.MaxPage
		if limit > 0 {
			f.Limit = min(limit-shown, api.MaxPage)
		}
		page, err := c.Nodes(ctx, f)
		if err != nil {
			return g.explain(err)
		}
		for i := range page.Nodes {
			switch {
			case asJSON:
				printJSON(g.Out, page.Nodes[i])
				continue
			case shown == 0 && i == 0:
				t.row("ID", "COUNTRY", "CITY", "ASN", "PLATFORM", "TAGS", "KINDS", "CONNECTED", "MEMBER")
			}
			nodeRow(t, &page.Nodes[i])
		}
		shown += len(page.Nodes)
		f.Cursor = page.Next
		if f.Cursor != "" && len(page.Nodes) > 0 && (limit == 0 || shown < limit) {
			continue
		}
		if err := t.flush(); err != nil {
			return err
		}
		nodesFooter(g, shown, &page, filtered, asJSON)
		return nil
	}
}

func nodesFooter(g *Globals, shown int, last *api.NodePage, filtered, asJSON bool) {
	g.incomplete("the nodes", last.Rebuilding)
	g.missing(last.MissingMembers)
	switch {
	case shown < last.Total: // also with --json: what is missing has to be said somewhere
		fmt.Fprintf(g.Err, "%d of %d nodes; show all with --limit 0\n", shown, last.Total)
	case asJSON, len(last.Rebuilding) > 0, len(last.MissingMembers) > 0:
	case shown == 0 && filtered:
		fmt.Fprintln(g.Err, "no connected node fits; \"roost nodes\" lists all")
	case shown == 0:
		fmt.Fprintln(g.Err, "no node is connected; \"roost node --help\" says how to connect one")
	}
}

func nodeRow(t *table, n *api.NodeView) {
	t.row(clean(n.ID), orDash(n.Country), orDash(n.City), formatASN(n.ASN), orDash(n.Platform),
		orDash(strings.Join(n.Tags, ",")), orDash(strings.Join(n.Kinds, ",")),
		since(n.ConnectedMs), orDash(n.Member))
}

func formatASN(asn uint32) string {
	if asn == 0 {
		return "-"
	}
	return strconv.FormatUint(uint64(asn), 10)
}

// since is how long ago a Unix time was.
func since(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return formatAge(time.Since(time.UnixMilli(ms)))
}

func showNode(ctx context.Context, g *Globals, c *client.Client, id string, asJSON bool) error {
	var n api.NodeView
	err := g.patiently(ctx, func() (err error) {
		n, err = c.Node(ctx, id)
		return err
	})
	switch {
	case client.IsNotFound(err):
		return cannot(fmt.Errorf("node %s is not connected; \"roost nodes\" lists those that are", clean(id)))
	case err != nil:
		return g.explain(err)
	case asJSON:
		printJSON(g.Out, n)
		return nil
	}
	t := newTable(g.Out)
	t.row("id", clean(n.ID))
	t.row("country", orDash(n.Country))
	t.row("city", orDash(n.City))
	t.row("asn", formatASN(n.ASN))
	t.row("platform", orDash(n.Platform))
	t.row("tags", orDash(strings.Join(n.Tags, ", ")))
	t.row("kinds", orDash(strings.Join(n.Kinds, ", ")))
	t.row("agent", orDash(n.Agent))
	t.row("address", orDash(n.RemoteAddr))
	t.row("member", orDash(n.Member))
	t.row("session", strconv.FormatUint(n.Incarnation, 10))
	t.row("connected", fmt.Sprintf("%s (%s ago)", formatTime(n.ConnectedMs), since(n.ConnectedMs)))
	return t.flush()
}
