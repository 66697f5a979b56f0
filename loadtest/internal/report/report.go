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
	P999Ms         float64          `json:"p999_ms"`
	MaxMs          float64          `json:"max_ms"`
	Append         Latency          `json:"append_ms"`
	Deliver        Latency          `json:"deliver_ms"`
	Commit         Latency          `json:"commit_ms"`
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
	Waiting        *Waiting         `json:"waiting"`
	Relay          *Relay           `json:"relay"`
	RelayRatio     *float64         `json:"jobs_per_relayed"`
}

// Latency is a distribution in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Waiting is the part of [Jobs] about the jobs for nodes that are away. Memory and CPU
// of the server are null when its process is unknown.
type Waiting struct {
	Jobs          int64            `json:"jobs"`
	Away          int              `json:"away"`
	SubmitS       float64          `json:"submit_s"`
	TakenS        float64          `json:"taken_s"`
	IdleCPUBefore *float64         `json:"idle_cpu_percent_before"`
	IdleCPU       *float64         `json:"idle_cpu_percent"`
	ServerBytes   *int64           `json:"server_rss_bytes_per_job"`
	WithoutPerS   float64          `json:"jobs_per_s_without"`
	Ratio         float64          `json:"jobs_per_s_ratio"`
	WithoutCPUUs  *float64         `json:"server_cpu_us_per_job_without"`
	Cancelled     int64            `json:"cancelled"`
	CancelS       float64          `json:"cancel_s"`
	Open          int64            `json:"open"`
	Duplicates    int64            `json:"duplicates"`
	Outcomes      map[string]int64 `json:"outcomes"`
}

// Relay is the report of the relay command, and the part of [Jobs] about it.
type Relay struct {
	Run            string  `json:"run"`
	Records        int64   `json:"records"`
	RecordsPerS    float64 `json:"records_per_s"`
	P50Ms          float64 `json:"p50_ms"`
	P99Ms          float64 `json:"p99_ms"`
	P999Ms         float64 `json:"p999_ms"`
	MaxMs          float64 `json:"max_ms"`
	LoopCPUUs      float64 `json:"loop_cpu_us_per_record"`
	SimulatorCPUUs float64 `json:"simulator_cpu_us_per_record"`
	Transactions   int64   `json:"transactions"`
	Aborted        int64   `json:"aborted"`
	MeasuredS      float64 `json:"measured_s"`
	Lost           int64   `json:"lost"`
	Duplicates     int64   `json:"duplicates"`
	Corrupt        int64   `json:"corrupt"`
	Unreadable     int64   `json:"unreadable"`
	ProduceFailed  int64   `json:"produce_failed"`
	LastError      string  `json:"last_error"`
	Partitions     int32   `json:"partitions"`
	CommitMs       float64 `json:"commit_interval_ms"`
	CommitRecords  int     `json:"commit_records"`
	Window         int     `json:"window"`
	Rate           float64 `json:"rate"`
	Size           int     `json:"size"`
	RecordBytes    int     `json:"record_bytes"`
	Interrupted    bool    `json:"interrupted"`
}

// Rebuild is the report of the rebuild command: a server with jobs that wait, killed
// and started again. Times count from the start of the process.
type Rebuild struct {
	Jobs            int64   `json:"jobs"`
	Away            int     `json:"away"`
	Size            int     `json:"size"`
	EmptyReadyS     float64 `json:"empty_ready_s"`
	FillS           float64 `json:"fill_s"`
	AssignedS       float64 `json:"assigned_s"`
	ReadyS          float64 `json:"ready_s"`
	RebuiltS        float64 `json:"rebuilt_s"`
	RebuildCPUS     float64 `json:"rebuild_cpu_s"`
	Pending         int64   `json:"pending"`
	RSSEmpty        int64   `json:"rss_empty_bytes"`
	RSSFilled       int64   `json:"rss_filled_bytes"`
	RSSRebuilt      int64   `json:"rss_rebuilt_bytes"`
	RSSRebuiltPeak  int64   `json:"rss_rebuilt_peak_bytes"`
	BytesPerFilled  int64   `json:"filled_bytes_per_job"`
	BytesPerRebuilt int64   `json:"rebuilt_bytes_per_job"`
}

// JSON writes a report as one line.
func JSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// Table writes the report for people.
func (h *Hold) Table(w io.Writer) error {
	return table(w, append(h.Nodes.rows(),
		row{"server memory", bytesFor(h.ServerBytesPerNode, "node")},
		row{"held", fmt.Sprintf("%.1f s, all stayed connected: %v", h.HeldS, h.StayedConnected)},
		row{"heartbeats", fmt.Sprintf("%d sent, %d answered", h.Pings, h.Pongs)},
	))
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
