package steps

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Account is what came out; as JSON it is an interface.
type Account struct {
	Nodes     int   `json:"nodes"`
	Connected int   `json:"connected"` // when all had been asked for
	Jobs      int64 `json:"jobs"`      // of all steps, each for one node
	Outcomes  int64 `json:"outcomes"`  // first ones
	// FullOutcomes are those of the step that gives one job to each of all nodes.
	FullOutcomes int64            `json:"outcomes_at_full"`
	ByOutcome    map[string]int64 `json:"by_outcome"`
	Lost         int64            `json:"lost"`
	Twice        int64            `json:"twice"`
	Corrupt      int64            `json:"corrupt"` // outputs that are not what the node sent
	Delivered    uint64           `json:"delivered"`
	Answered     uint64           `json:"answered"`
	Pings        uint64           `json:"pings"`
	Dropped      uint64           `json:"dropped"` // connections that a server ended without CLOSE
	Reconnects   uint64           `json:"reconnects"`
	// Closes are the CLOSE frames that nodes got before the drain, by reason.
	Closes map[string]uint64 `json:"closes"`

	Servers            int     `json:"servers"`
	ServerRSSBefore    int64   `json:"server_rss_before_bytes"`
	ServerRSS          int64   `json:"server_rss_bytes"` // with all nodes, after they were held
	ServerRSSAfterJobs int64   `json:"server_rss_after_jobs_bytes"`
	ServerRSSPeak      int64   `json:"server_rss_peak_bytes"`
	BytesPerNode       float64 `json:"server_bytes_per_node"` // ServerRSS by node
	BytesPerNodeMore   float64 `json:"server_bytes_per_node_more"`
	LoadRSS            int64   `json:"load_rss_bytes"`
	KernelBytes        int64   `json:"kernel_bytes"` // growth, of both ends of all sockets
	KernelPerNode      float64 `json:"kernel_bytes_per_node"`

	ConnectPerS float64 `json:"connect_per_s"`
	// Processor time of all servers by job, with the early and with all nodes, and of the
	// idle servers with all nodes, in percent of one processor.
	CPUPerJobEarlyUs float64 `json:"server_cpu_us_per_job_early"`
	CPUPerJobUs      float64 `json:"server_cpu_us_per_job"`
	IdleCPUPercent   float64 `json:"idle_cpu_percent"`
	EarlyNodes       int     `json:"early_nodes"`

	Cut         int     `json:"cut"`
	CutBackS    float64 `json:"cut_back_s"`
	DrainedS    float64 `json:"drained_s"`
	ServersOK   int     `json:"servers_exit_0"`
	TookS       float64 `json:"took_s"`
	Steps       []Step  `json:"steps"`
	Interrupted bool    `json:"interrupted"`

	Guest    string   `json:"guest"` // "tcg", "kvm", or "" without one
	Problems []string `json:"problems"`
}

// Step is how long a step took.
type Step struct {
	Name  string  `json:"name"`
	TookS float64 `json:"took_s"`
}

// Print writes the account for people.
func (a *Account) Print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("nodes", "%d connected of %d, to %s, %.0f a second", a.Connected, a.Nodes, processes(a.Servers), a.ConnectPerS)
	row("jobs", "%d given, %d delivered, %d answered, %d recorded: %s", a.Jobs, a.Delivered, a.Answered, a.Outcomes, words(a.ByOutcome))
	row("lost, twice", "%d lost, %d twice, %d not what was sent", a.Lost, a.Twice, a.Corrupt)
	row("one job to each", "%d outcomes of %d nodes", a.FullOutcomes, a.Nodes)
	row("server memory", "%s before, %s with all nodes, %s after their jobs, %s at most", mib(a.ServerRSSBefore), mib(a.ServerRSS), mib(a.ServerRSSAfterJobs), mib(a.ServerRSSPeak))
	row("bytes a node", "%.0f in all, %.0f more than before", a.BytesPerNode, a.BytesPerNodeMore)
	if a.KernelBytes != 0 {
		row("kernel memory", "%s more, %.0f bytes a node, for both ends", mib(a.KernelBytes), a.KernelPerNode)
	}
	row("simulator", "%s", mib(a.LoadRSS))
	early := ""
	if a.EarlyNodes > 0 {
		early = fmt.Sprintf("%.0f us with %d nodes, ", a.CPUPerJobEarlyUs, a.EarlyNodes)
	}
	row("server CPU a job", "%s%.0f us with %d; idle %.1f %% of a processor", early, a.CPUPerJobUs, a.Nodes, a.IdleCPUPercent)
	row("storm", "%d cut at once, all back after %.1f s", a.Cut, a.CutBackS)
	if len(a.Closes) > 0 {
		row("refused, or sent away", "%s", words(a.Closes))
	}
	row("drain", "%.1f s; %d of %s ended with exit code 0", a.DrainedS, a.ServersOK, processes(a.Servers))
	for _, s := range a.Steps {
		row("  "+s.Name, "%.1f s", s.TookS)
	}
	row("in all", "%.1f min", a.TookS/60)
	if a.Guest != "" {
		row("guest", "%s", map[string]string{"tcg": "emulated: counts and bytes hold, times do not", "kvm": "on the processor itself"}[a.Guest])
	}
	_ = t.Flush()
	for _, p := range a.Problems {
		fmt.Fprintln(w, "PROBLEM:", p)
	}
}

func processes(n int) string {
	if n == 1 {
		return "1 server process"
	}
	return fmt.Sprintf("%d server processes", n)
}

func words[N int64 | uint64](m map[string]N) string {
	if len(m) == 0 {
		return "none"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
	}
	return strings.Join(parts, ", ")
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
