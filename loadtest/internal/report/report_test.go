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
		`{` + nodesGolden + `"run":"","jobs":0,"jobs_per_s":0,"p50_ms":0,"p99_ms":0,"max_ms":0,"server_cpu_us_per_job":null,` +
			`"simulator_cpu_us_per_job":0,"node_cpu_us_per_job":0,"measured_s":0,"measured_jobs":0,"lost":0,"duplicates":0,` +
			`"not_ok":0,"corrupt":0,"unreadable":0,"produce_failed":0,"outcomes":null,"node_jobs":0,"node_acks":0,` +
			`"node_unacked":0,"last_error":"","window":0,"rate":0,"size":0}`: &Jobs{},
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
	for _, want := range []string{"12.5 us a job", "lost              7", "why", "not produced"} {
		require.Contains(t, b.String(), want)
	}
}
