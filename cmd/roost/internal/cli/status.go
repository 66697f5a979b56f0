package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// NewStatus makes the command that shows the state of a member.
func NewStatus(g *Globals) *cobra.Command {
	var asJSON bool
	cmd := prepare(&cobra.Command{
		Use:   "status [FLAGS]",
		Short: "Look at a member and its cluster",
		Long: `Look at a member and its cluster: first the member's own connection to Kafka, nodes, event loops
and queues; then the partitions of all members; then the members.

LAG is how many job records have not been read, CLOCK how far a member's clock is from that of the
member that answers, QUEUED what waits to be sent to it.`,
		Example: `  roost status
  roost status --api http://10.0.0.5:7480 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.client()
			if err != nil {
				return err
			}
			defer c.Close()
			v, err := c.Status(cmd.Context())
			if err != nil {
				return g.explain(err)
			}
			g.missing(v.MissingMembers)
			if asJSON {
				printJSON(g.Out, v)
				return nil
			}
			return printStatus(g.Out, &v)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	g.Bind(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one line of JSON")
	return cmd
}

func printStatus(w io.Writer, v *api.StatusView) error {
	t := newTable(w)
	t.row("member", orDash(v.Member))
	t.row("version", orDash(v.Version))
	t.row("uptime", formatAge(time.Duration(v.UptimeMs)*time.Millisecond))
	t.row("kafka", kafkaLine(&v.Kafka))
	t.row("transactions", fmt.Sprintf("%d committed, %d aborted, %d fenced", v.Kafka.Transactions.Committed, v.Kafka.Transactions.Aborted, v.Kafka.Transactions.Fenced))
	if v.Kafka.PartitionsChanged != "" {
		t.row("WARNING", clean(v.Kafka.PartitionsChanged))
	}
	t.row("nodes", strconv.Itoa(v.Nodes))
	t.row("connections", connectionsLine(&v.Connections))
	t.row("jobs", fmt.Sprintf("%d accepted, %d pending", v.Jobs.Accepted, v.Jobs.Pending))
	t.row("outcomes", formatOutcomes(v.Jobs.Outcomes))
	if len(v.Queues) > 0 {
		t.row("queues", queuesLine(v.Queues))
	}
	if len(v.Members) > 1 {
		t.row("cluster", clusterLine(v))
	}
	if len(v.Unowned) > 0 {
		t.row("WARNING", "no member owns "+partitionList(v.Unowned)+" at the moment")
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(v.Gates) > 0 {
		fmt.Fprintln(w)
		t = newTable(w, "LOOP", "SESSIONS", "RESTARTS", "")
		for _, x := range v.Gates {
			t.row(strconv.Itoa(x.Loop), strconv.Itoa(x.Sessions), strconv.FormatUint(x.Restarts, 10), clean(x.Reason))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(v.Shards) > 0 {
		fmt.Fprintln(w)
		if err := printShards(w, v.Shards); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	return printMembers(w, v)
}

// shardNotes says what is not as usual.
func shardNotes(x *api.ShardView) string {
	var notes []string
	if x.Rebuilding {
		notes = append(notes, fmt.Sprintf("rebuilding, %s so far", plural(x.Restored, "job")))
	}
	if x.Missing > 0 {
		notes = append(notes, fmt.Sprintf("LOST: %s missing from the state topic", plural(x.Missing, "job")))
	}
	if x.Paused {
		notes = append(notes, "paused")
	}
	if x.Reason != "" {
		notes = append(notes, clean(x.Reason))
	}
	return strings.Join(notes, "; ")
}

func kafkaLine(k *api.KafkaView) string {
	if !k.Reachable {
		return strings.TrimSuffix(fmt.Sprintf("NOT REACHABLE at %s: %s", clean(k.Bootstrap), clean(k.Error)), ": ")
	}
	return fmt.Sprintf("reachable at %s, cluster %s, lag %d", clean(k.Bootstrap), orDash(k.ClusterID), k.Lag)
}

func connectionsLine(c *api.ConnectionsView) string {
	text := fmt.Sprintf("%d open", c.Open)
	if c.Max > 0 {
		text += fmt.Sprintf(" of %d", c.Max)
	}
	text += fmt.Sprintf(", %d refused", c.Refused)
	reasons := make([]string, 0, len(c.Closed))
	for reason, n := range c.Closed {
		reasons = append(reasons, fmt.Sprintf("%d %s", n, clean(reason)))
	}
	slices.Sort(reasons)
	if len(reasons) > 0 {
		text += ", closed: " + strings.Join(reasons, ", ")
	}
	return text
}

// ranges writes numbers as 0-3,5.
func ranges(numbers []int32) string {
	sorted := slices.Sorted(slices.Values(numbers))
	var parts []string
	for i := 0; i < len(sorted); {
		j := i
		for j+1 < len(sorted) && sorted[j+1] == sorted[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, strconv.Itoa(int(sorted[i])))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", sorted[i], sorted[j]))
		}
		i = j + 1
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ",")
}
