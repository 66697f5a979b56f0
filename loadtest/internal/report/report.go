// Package report is the form of the simulator's results: one line of JSON for
// programs, a table for people. The JSON keys are an interface: a golden test holds
// them.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Nodes is what the nodes saw, in every report.
type Nodes struct {
	Nodes          int               `json:"nodes"`
	Connected      int               `json:"connected"`
	ConnectPerS    float64           `json:"connect_per_s"`
	Dead           int               `json:"dead"`
	Reconnects     uint64            `json:"reconnects"`
	Dropped        uint64            `json:"dropped"`
	DialErrors     uint64            `json:"dial_errors"`
	OpenTimeouts   uint64            `json:"open_timeouts"`
	GoAways        uint64            `json:"goaways"`
	BadFrames      uint64            `json:"bad_frames"`
	Closes         map[string]uint64 `json:"closes"`
	NodeLastError  string            `json:"node_last_error"`
	SimulatorBytes int64             `json:"simulator_bytes_per_node"`
	Interrupted    bool              `json:"interrupted"`
}

// Hold is the report of the hold command. Memory of the server is null when its
// process is unknown.
type Hold struct {
	Nodes
	ServerBytesPerNode *int64  `json:"server_rss_bytes_per_node"`
	ServerRSSBefore    *int64  `json:"server_rss_before_bytes"`
	ServerRSS          *int64  `json:"server_rss_bytes"`
	HeldS              float64 `json:"held_s"`
	StayedConnected    bool    `json:"stayed_connected"`
	Pings              uint64  `json:"pings"`
	Pongs              uint64  `json:"pongs"`
}

// Jobs is the report of the jobs command. Rates, latencies and CPU leave the warm-up
// out; counts are of the whole run. The server's CPU is null when its process is
// unknown.
type Jobs struct {
	Nodes
	Run            string           `json:"run"`
	Jobs           int64            `json:"jobs"`
	JobsPerS       float64          `json:"jobs_per_s"`
	P50Ms          float64          `json:"p50_ms"`
	P99Ms          float64          `json:"p99_ms"`
	MaxMs          float64          `json:"max_ms"`
	ServerCPUUs    *float64         `json:"server_cpu_us_per_job"`
	SimulatorCPUUs float64          `json:"simulator_cpu_us_per_job"`
	NodeCPUUs      float64          `json:"node_cpu_us_per_job"`
	MeasuredS      float64          `json:"measured_s"`
	MeasuredJobs   int64            `json:"measured_jobs"`
	Lost           int64            `json:"lost"`
	Duplicates     int64            `json:"duplicates"`
	NotOK          int64            `json:"not_ok"`
	Corrupt        int64            `json:"corrupt"`
	Unreadable     int64            `json:"unreadable"`
	ProduceFailed  int64            `json:"produce_failed"`
	Outcomes       map[string]int64 `json:"outcomes"`
	NodeJobs       uint64           `json:"node_jobs"`
	NodeAcks       uint64           `json:"node_acks"`
	NodeUnacked    int64            `json:"node_unacked"`
	LastError      string           `json:"last_error"`
	Window         int              `json:"window"`
	Rate           float64          `json:"rate"`
	Size           int              `json:"size"`
}

// JSON writes a report as one line.
func JSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// Table writes the report for people.
func (h *Hold) Table(w io.Writer) error {
	return table(w, append(h.Nodes.rows(),
		row{"server memory", bytesEach(h.ServerBytesPerNode)},
		row{"held", fmt.Sprintf("%.1f s, all stayed connected: %v", h.HeldS, h.StayedConnected)},
		row{"heartbeats", fmt.Sprintf("%d sent, %d answered", h.Pings, h.Pongs)},
	))
}

// Table writes the report for people.
func (j *Jobs) Table(w io.Writer) error {
	rows := append(j.Nodes.rows(),
		row{"jobs", fmt.Sprintf("%d, %.0f a second over %.1f s", j.Jobs, j.JobsPerS, j.MeasuredS)},
		row{"latency", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.2f ms", j.P50Ms, j.P99Ms, j.MaxMs)},
		row{"server CPU", "unknown (no --server-pid)"},
		row{"simulator CPU", fmt.Sprintf("%.1f us a job, of which nodes %.1f us", j.SimulatorCPUUs, j.NodeCPUUs)},
		row{"lost", fmt.Sprint(j.Lost)},
		row{"duplicates", fmt.Sprint(j.Duplicates)},
		row{"outcomes", fmt.Sprintf("%v, %d with wrong output, %d unreadable", j.Outcomes, j.Corrupt, j.Unreadable)},
		row{"results at nodes", fmt.Sprintf("%d acknowledged, %d not yet", j.NodeAcks, j.NodeUnacked)},
	)
	for i := range rows {
		if rows[i].name == "server CPU" && j.ServerCPUUs != nil {
			rows[i].value = fmt.Sprintf("%.1f us a job", *j.ServerCPUUs)
		}
	}
	if j.ProduceFailed > 0 {
		rows = append(rows, row{"not produced", fmt.Sprint(j.ProduceFailed)})
	}
	if j.LastError != "" {
		rows = append(rows, row{"last error", j.LastError})
	}
	return table(w, rows)
}

func (n *Nodes) rows() []row {
	rows := []row{
		{"connected", fmt.Sprintf("%d of %d, %.0f a second", n.Connected, n.Nodes, n.ConnectPerS)},
		{"simulator memory", fmt.Sprintf("%d bytes a node", n.SimulatorBytes)},
	}
	if n.Reconnects+n.Dropped+n.DialErrors+n.OpenTimeouts+n.GoAways+n.BadFrames > 0 || n.Dead > 0 || len(n.Closes) > 0 {
		rows = append(rows, row{"connections", fmt.Sprintf(
			"%d reconnects, %d dropped, %d dial errors, %d without WELCOME, %d GOAWAY, %d bad frames, %d nodes refused for good, closes %v",
			n.Reconnects, n.Dropped, n.DialErrors, n.OpenTimeouts, n.GoAways, n.BadFrames, n.Dead, n.Closes)},
			row{"last trouble", n.NodeLastError})
	}
	if n.Interrupted {
		rows = append(rows, row{"interrupted", "these are the figures so far"})
	}
	return rows
}

func bytesEach(n *int64) string {
	if n == nil {
		return "unknown (no --server-pid)"
	}
	return fmt.Sprintf("%d bytes a node", *n)
}

type row struct{ name, value string }

func table(w io.Writer, rows []row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if _, err := fmt.Fprintf(tw, "%s\t%s\n", r.name, r.value); err != nil {
			return err
		}
	}
	return tw.Flush()
}
