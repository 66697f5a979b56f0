package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
)

// defaultPatience is how long a command waits for a member that is rebuilding what it knows of jobs.
const defaultPatience = time.Minute

// patiently calls f again as long as what it asks for may be in partitions that are being rebuilt, and
// tells how far they are. It returns f's last error, or the cause of ctx.
func (g *Globals) patiently(ctx context.Context, f func() error) error {
	rows := &rows{g: g}
	defer rows.clearProgress()
	end, told, pause := time.Now().Add(g.patience), "", firstRetry
	for {
		err := f()
		p, rebuilding := client.IsRebuilding(err)
		if !rebuilding || time.Now().After(end) {
			return err
		}
		if g.isTerminal(g.Err) {
			rows.progress("waiting: " + rebuildingText(p.Rebuilding))
		} else if text := partitionsText(p.Rebuilding); text != told {
			rows.note("waiting: %s", rebuildingText(p.Rebuilding))
			told = text
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, max(p.RetryAfter, firstRetry))
	}
}

// rebuildingText says what the member does.
func rebuildingText(shards []api.RebuildingView) string {
	jobs, unowned := 0, 0
	for _, s := range shards {
		jobs += s.Restored
		if s.Unowned {
			unowned++
		}
	}
	if unowned > 0 && unowned == len(shards) {
		return fmt.Sprintf("no member owns %s at the moment", partitionsText(shards))
	}
	return fmt.Sprintf("the cluster is rebuilding %s from Kafka, %s so far", partitionsText(shards), plural(jobs, "job"))
}

func partitionsText(shards []api.RebuildingView) string {
	partitions := make([]int32, len(shards))
	for i, s := range shards {
		partitions[i] = s.Partition
	}
	return partitionList(partitions)
}

func partitionList(partitions []int32) string {
	if len(partitions) == 1 {
		return "partition " + ranges(partitions)
	}
	return "partitions " + ranges(partitions)
}

// incomplete tells that a list lacks what is in partitions that are being rebuilt.
func (g *Globals) incomplete(what string, partitions []int32) {
	if len(partitions) > 0 {
		fmt.Fprintf(g.Err, "roost: %s of %s are missing here: they are being rebuilt from Kafka, or no member owns them yet; try again in a moment\n", what, partitionList(partitions))
	}
}

// missing tells that an answer lacks what only some members know.
func (g *Globals) missing(members []string) {
	if len(members) > 0 {
		fmt.Fprintf(g.Err, "roost: no answer came in time from %s: what nobody else knows is missing here\n", clean(strings.Join(members, ", ")))
	}
}
