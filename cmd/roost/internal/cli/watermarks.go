package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// NewWatermarks makes the command that shows how far the partitions are done.
func NewWatermarks(g *Globals) *cobra.Command {
	var asJSON bool
	cmd := prepare(&cobra.Command{
		Use:   "watermarks [FLAGS]",
		Short: "See how far each partition's jobs are done",
		Long: `See how far each partition's jobs are done, over all members of the cluster.

Every job record before the WATERMARK has all of its outcomes recorded. DONE UNTIL is the time of
the first job that is still open; without one, of the newest job. The topic roost.progress says the
same to programs: docs/RECORDS.md tells how to close a time window with it.`,
		Example: `  roost watermarks
  roost watermarks --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			marks, err := c.Watermarks(cmd.Context())
			if err != nil {
				return g.explain(err)
			}
			g.missing(marks.MissingMembers)
			if !asJSON {
				return printWatermarks(g.Out, marks.Watermarks)
			}
			for i := range marks.Watermarks {
				printJSON(g.Out, marks.Watermarks[i])
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	g.Bind(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each partition as one line of JSON")
	return cmd
}

func printWatermarks(w io.Writer, marks []api.WatermarkView) error {
	t := newTable(w, "PARTITION", "WATERMARK", "DONE UNTIL", "PENDING", "COMMITTED", "MEMBER", "")
	for _, m := range marks {
		partition := strconv.Itoa(int(m.Partition))
		if m.Rebuilding {
			t.row(partition, "-", "-", "-", "-", orDash(m.Member), "rebuilding")
			continue
		}
		until := "-"
		if m.JobMs > 0 {
			until = fmt.Sprintf("%s (%s ago)", formatTime(m.JobMs), since(m.JobMs))
		}
		t.row(partition, strconv.FormatInt(m.Offset, 10), until, strconv.Itoa(m.Pending), strconv.FormatInt(m.Committed, 10), orDash(m.Member), "")
	}
	return t.flush()
}
