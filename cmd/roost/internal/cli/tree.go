package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
)

// NewTree makes the command that shows the supervision trees.
func NewTree(g *Globals) *cobra.Command {
	var member string
	var asJSON bool
	cmd := prepare(&cobra.Command{
		Use:   "tree [FLAGS]",
		Short: "See what runs in each member, and what has failed",
		Long: `See the supervision tree of each member: its actors, how often each was restarted, and why it
failed last. The sessions of an event loop are one line, with their number; they are never
restarted: what is counted is how many were stopped, and their nodes came back.`,
		Example: `  roost tree
  roost tree --member roost-2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Tree(cmd.Context(), member)
			switch {
			case client.IsNotFound(err):
				return cannot(noMember(member))
			case err != nil:
				return g.explain(err)
			}
			g.missing(list.MissingMembers)
			for i := range list.Trees {
				switch {
				case asJSON:
					printJSON(g.Out, list.Trees[i])
					continue
				case i > 0:
					fmt.Fprintln(g.Out)
				}
				if err := printTree(g.Out, &list.Trees[i]); err != nil {
					return err
				}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	g.Bind(cmd)
	cmd.Flags().StringVar(&member, "member", "", "only of the member with this name")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each member's as one line of JSON")
	complete(cmd, "member", g.completeMembers)
	return cmd
}

func noMember(name string) error {
	return fmt.Errorf("no member of the cluster is called %s; \"roost status\" lists them", clean(name))
}

// printTree prints a tree with its branches.
func printTree(w io.Writer, v *api.TreeView) error {
	t := newTable(w, clean(v.Member), "COUNT", "RESTARTS", "LAST FAILURE")
	for i := range v.Actors {
		a := &v.Actors[i]
		name := a.Path[strings.LastIndexByte(a.Path, '/')+1:]
		failure := ""
		if f := a.Failure; f != nil {
			failure = fmt.Sprintf("%s (%s ago), %s: %s", formatTime(f.TimeMs), since(f.TimeMs), clean(f.Action), clean(f.Reason))
		}
		t.row(branch(v.Actors, i)+clean(name), strconv.Itoa(a.Count), strconv.FormatUint(a.Restarts, 10), failure)
	}
	return t.flush()
}

// branch draws what stands before an actor's name: for each of its ancestors whether it has more
// children below.
func branch(actors []api.ActorView, i int) string {
	path := actors[i].Path
	parts := strings.Split(path, "/")
	text := ""
	for depth := 1; depth < len(parts); depth++ {
		parent := strings.Join(parts[:depth], "/") + "/"
		own := strings.Join(parts[:depth+1], "/")
		more := false
		for _, other := range actors[i+1:] {
			if strings.HasPrefix(other.Path, parent) && other.Path != own && !strings.HasPrefix(other.Path, own+"/") {
				more = true
				break
			}
		}
		last := depth == len(parts)-1
		switch {
		case last && more:
			text += "├─ "
		case last:
			text += "└─ "
		case more:
			text += "│  "
		default:
			text += "   "
		}
	}
	return text
}
