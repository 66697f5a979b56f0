package report

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

const nodesGolden = `"nodes":0,"connected":0,"connect_per_s":0,"dead":0,"reconnects":0,"dropped":0,"dial_errors":0,` +
	`"open_timeouts":0,"goaways":0,"bad_frames":0,"closes":null,"node_last_error":"","simulator_bytes_per_node":0,"interrupted":false,`

func TestJSONKeysAreKept(t *testing.T) {
	for want, v := range map[string]any{
		`{` + nodesGolden + `"server_rss_bytes_per_node":null,"server_rss_before_bytes":null,"server_rss_bytes":null,` +
			`"held_s":0,"stayed_connected":false,"pings":0,"pongs":0}`: &Hold{},
		`{` + nodesGolden + `"run":"","jobs":0,"jobs_per_s":0,"p50_ms":0,"p99_ms":0,"p999_ms":0,"max_ms":0,` +
			`"append_ms":{"p50":0,"p99":0,"p999":0,"max":0},"deliver_ms":{"p50":0,"p99":0,"p999":0,"max":0},` +
			`"commit_ms":{"p50":0,"p99":0,"p999":0,"max":0},"server_cpu_us_per_job":null,` +
			`"simulator_cpu_us_per_job":0,"node_cpu_us_per_job":0,"measured_s":0,"measured_jobs":0,"lost":0,"duplicates":0,` +
			`"not_ok":0,"corrupt":0,"unreadable":0,"produce_failed":0,"outcomes":null,"node_jobs":0,"node_acks":0,` +
			`"node_unacked":0,"last_error":"","window":0,"rate":0,"size":0,"waiting":null,"relay":null,"jobs_per_relayed":null}`: &Jobs{},
		`{"jobs":0,"away":0,"submit_s":0,"taken_s":0,"idle_cpu_percent_before":null,"idle_cpu_percent":null,` +
			`"server_rss_bytes_per_job":null,"jobs_per_s_without":0,"jobs_per_s_ratio":0,"server_cpu_us_per_job_without":null,` +
			`"cancelled":0,"cancel_s":0,"open":0,"duplicates":0,"outcomes":null}`: &Waiting{},
		`{"run":"","records":0,"records_per_s":0,"p50_ms":0,"p99_ms":0,"p999_ms":0,"max_ms":0,"loop_cpu_us_per_record":0,` +
			`"simulator_cpu_us_per_record":0,"transactions":0,"aborted":0,"measured_s":0,"lost":0,"duplicates":0,"corrupt":0,` +
			`"unreadable":0,"produce_failed":0,"last_error":"","partitions":0,"commit_interval_ms":0,"commit_records":0,` +
			`"window":0,"rate":0,"size":0,"record_bytes":0,"interrupted":false}`: &Relay{},
		`{"jobs":0,"away":0,"size":0,"empty_ready_s":0,"fill_s":0,"assigned_s":0,"ready_s":0,"rebuilt_s":0,"rebuild_cpu_s":0,` +
			`"pending":0,"rss_empty_bytes":0,"rss_filled_bytes":0,"rss_rebuilt_bytes":0,"rss_rebuilt_peak_bytes":0,` +
			`"filled_bytes_per_job":0,"rebuilt_bytes_per_job":0}`: &Rebuild{},
	} {
		var b bytes.Buffer
		require.NoError(t, JSON(&b, v))
		require.Equal(t, want+"\n", b.String())
	}
}

func TestTables(t *testing.T) {
	var b bytes.Buffer
	n, cpu := int64(1500), 12.5
	require.NoError(t, (&Hold{Nodes: Nodes{Nodes: 3, Connected: 2, Dead: 1, NodeLastError: "refused"}, ServerBytesPerNode: &n}).Table(&b))
	require.Contains(t, b.String(), "2 of 3")
	require.Contains(t, b.String(), "1500 bytes a node")
	require.Contains(t, b.String(), "refused")
	b.Reset()
	require.NoError(t, (&Jobs{Lost: 7, ServerCPUUs: &cpu, LastError: "why", ProduceFailed: 2}).Table(&b))
	for _, want := range []string{"12.5 us a job", "lost               7", "why", "not produced"} {
		require.Contains(t, b.String(), want)
	}
	b.Reset()
	ratio := 0.5
	require.NoError(t, (&Jobs{
		JobsPerS: 900, Deliver: Latency{1, 2, 3, 4}, ServerCPUUs: &cpu, RelayRatio: &ratio,
		Waiting: &Waiting{Jobs: 70, WithoutPerS: 1000, Ratio: 0.9, IdleCPU: &cpu, ServerBytes: &n, Cancelled: 69, Open: 1},
		Relay:   &Relay{RecordsPerS: 1800, LoopCPUUs: 3, CommitMs: 50, CommitRecords: 500},
	}).Table(&b))
	for _, want := range []string{
		"p50 1.00 ms, p99 2.00 ms, p99.9 3.00 ms, max 4.00 ms", "900 a second, without them 1000: 0.900",
		"12.50 % of a processor, without them unknown", "1500 bytes a job", "69 in 0.0 s, 1 without outcome",
		"12.5 us a job, without them unknown", "relay: records", "1800 a second", "50 ms or 500 records", "jobs : relayed", "0.500",
	} {
		require.Contains(t, b.String(), want)
	}
	b.Reset()
	require.NoError(t, (&Relay{LastError: "why", Interrupted: true, ProduceFailed: 1, CommitMs: 20}).Table(&b))
	for _, want := range []string{"why", "interrupted", "not produced", "20 ms, 0 aborted"} {
		require.Contains(t, b.String(), want)
	}
	b.Reset()
	require.NoError(t, (&Rebuild{Jobs: 1e6, Pending: 1e6, RebuiltS: 12.34, RSSRebuilt: 3 << 20, BytesPerRebuilt: 600}).Table(&b))
	for _, want := range []string{"all jobs after 12.34 s", "3.0 MiB", "600 bytes a job"} {
		require.Contains(t, b.String(), want)
	}
	b.Reset()
	require.NoError(t, Sweep(&b, []*Jobs{{Nodes: Nodes{Connected: 5000}, JobsPerS: 100, ServerCPUUs: &cpu}}))
	require.Contains(t, b.String(), "5000   100, 12.5 us a job")
}
