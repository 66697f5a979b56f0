package report

import (
	"fmt"
	"io"
)

// Table writes the report for people.
func (j *Jobs) Table(w io.Writer) error {
	rows := append(j.Nodes.rows(),
		row{"jobs", fmt.Sprintf("%d, %.0f a second over %.1f s", j.Jobs, j.JobsPerS, j.MeasuredS)},
		row{"latency", Latency{j.P50Ms, j.P99Ms, j.P999Ms, j.MaxMs}.String()},
		row{"  to the node", j.Deliver.String()},
		row{"    to the broker", j.Append.String()},
		row{"  node to outcome", j.Commit.String()},
		row{"server CPU", each(j.ServerCPUUs)},
		row{"simulator CPU", fmt.Sprintf("%.1f us a job, of which nodes %.1f us", j.SimulatorCPUUs, j.NodeCPUUs)},
		row{"lost", fmt.Sprint(j.Lost)},
		row{"duplicates", fmt.Sprint(j.Duplicates)},
		row{"outcomes", fmt.Sprintf("%v, %d with wrong output, %d unreadable", j.Outcomes, j.Corrupt, j.Unreadable)},
		row{"results at nodes", fmt.Sprintf("%d acknowledged, %d not yet", j.NodeAcks, j.NodeUnacked)},
	)
	if j.ProduceFailed > 0 {
		rows = append(rows, row{"not produced", fmt.Sprint(j.ProduceFailed)})
	}
	if j.LastError != "" {
		rows = append(rows, row{"last error", j.LastError})
	}
	if j.Waiting != nil {
		rows = append(rows, j.Waiting.rows(j)...)
	}
	if j.Relay != nil {
		rows = append(rows, j.Relay.rows("relay: ")...)
	}
	if j.RelayRatio != nil {
		rows = append(rows, row{"jobs : relayed", fmt.Sprintf("%.3f", *j.RelayRatio)})
	}
	return table(w, rows)
}

func (w *Waiting) rows(j *Jobs) []row {
	return []row{
		{"jobs that waited", fmt.Sprintf("%d for %d nodes, submitted in %.1f s, taken after %.1f s", w.Jobs, w.Away, w.SubmitS, w.TakenS)},
		{"  server memory", bytesFor(w.ServerBytes, "job")},
		{"  server idle", fmt.Sprintf("%s, without them %s", percent(w.IdleCPU), percent(w.IdleCPUBefore))},
		{"  jobs beside them", fmt.Sprintf("%.0f a second, without them %.0f: %.3f", j.JobsPerS, w.WithoutPerS, w.Ratio)},
		{"  CPU beside them", fmt.Sprintf("%s, without them %s", each(j.ServerCPUUs), each(w.WithoutCPUUs))},
		{"  cancelled", fmt.Sprintf("%d in %.1f s, %d without outcome, %d outcomes twice, outcomes %v", w.Cancelled, w.CancelS, w.Open, w.Duplicates, w.Outcomes)},
	}
}

// Table writes the report for people.
func (r *Relay) Table(w io.Writer) error { return table(w, r.rows("")) }

func (r *Relay) rows(prefix string) []row {
	limit := ""
	if r.CommitRecords > 0 {
		limit = fmt.Sprintf(" or %d records", r.CommitRecords)
	}
	rows := []row{
		{"records", fmt.Sprintf("%d of %d bytes, %.0f a second over %.1f s", r.Records, r.RecordBytes, r.RecordsPerS, r.MeasuredS)},
		{"latency", Latency{r.P50Ms, r.P99Ms, r.P999Ms, r.MaxMs}.String()},
		{"transactions", fmt.Sprintf("%d of %.0f ms%s, %d aborted, over %d partitions", r.Transactions, r.CommitMs, limit, r.Aborted, r.Partitions)},
		{"loop CPU", fmt.Sprintf("%.1f us a record", r.LoopCPUUs)},
		{"simulator CPU", fmt.Sprintf("%.1f us a record", r.SimulatorCPUUs)},
		{"lost", fmt.Sprintf("%d, %d twice, %d changed, %d unreadable", r.Lost, r.Duplicates, r.Corrupt, r.Unreadable)},
	}
	if r.ProduceFailed > 0 {
		rows = append(rows, row{"not produced", fmt.Sprint(r.ProduceFailed)})
	}
	if r.LastError != "" {
		rows = append(rows, row{"last error", r.LastError})
	}
	if r.Interrupted {
		rows = append(rows, row{"interrupted", "these are the figures so far"})
	}
	for i := range rows {
		rows[i].name = prefix + rows[i].name
	}
	return rows
}

// Table writes the report for people.
func (r *Rebuild) Table(w io.Writer) error {
	mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	return table(w, []row{
		{"jobs that wait", fmt.Sprintf("%d for %d nodes, args of %d bytes", r.Jobs, r.Away, r.Size)},
		{"empty server", fmt.Sprintf("ready after %.2f s, %s", r.EmptyReadyS, mib(r.RSSEmpty))},
		{"filled", fmt.Sprintf("in %.2f s, %s, %d bytes a job", r.FillS, mib(r.RSSFilled), r.BytesPerFilled)},
		{"killed, started again", fmt.Sprintf("partitions after %.2f s, ready after %.2f s, all jobs after %.2f s with %.2f s of CPU", r.AssignedS, r.ReadyS, r.RebuiltS, r.RebuildCPUS)},
		{"rebuilt", fmt.Sprintf("%d jobs, %s, at most %s, %d bytes a job", r.Pending, mib(r.RSSRebuilt), mib(r.RSSRebuiltPeak), r.BytesPerRebuilt)},
	})
}

// Sweep writes one line for each number of nodes.
func Sweep(w io.Writer, runs []*Jobs) error {
	rows := []row{{"nodes", "jobs a second, server CPU, p50, p99"}}
	for _, j := range runs {
		rows = append(rows, row{fmt.Sprint(j.Connected), fmt.Sprintf("%.0f, %s, %.2f ms, %.2f ms", j.JobsPerS, each(j.ServerCPUUs), j.P50Ms, j.P99Ms)})
	}
	return table(w, rows)
}

// String is the distribution for people.
func (l Latency) String() string {
	return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, max %.2f ms", l.P50, l.P99, l.P999, l.Max)
}

const noPID = "unknown (no --server-pid)"

func each(us *float64) string {
	if us == nil {
		return noPID
	}
	return fmt.Sprintf("%.1f us a job", *us)
}

func percent(p *float64) string {
	if p == nil {
		return noPID
	}
	return fmt.Sprintf("%.2f %% of a processor", *p)
}

func bytesFor(n *int64, what string) string {
	if n == nil {
		return noPID
	}
	return fmt.Sprintf("%d bytes a %s", *n, what)
}
