//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// startDev starts "roost dev"; where is empty, or the addresses of nodes, API, Kafka.
func startDev(t testing.TB, where []string, more ...string) (m *member, kafka string) {
	t.Helper()
	if where == nil {
		where = []string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"}
	}
	p := start(t, "dev", append([]string{"dev", "--nodes-listen", where[0], "--api-listen", where[1], "--kafka-listen", where[2]}, more...)...)
	at := p.find(`(?s)nodes connect to\s+(\S+).*HTTP API\s+(\S+).*Kafka protocol\s+(\S+)`)
	return &member{p, at[0], at[1]}, at[2]
}

// roost runs a command that talks to the member's API.
func (m *member) roost(args ...string) finished {
	m.t.Helper()
	return command(m.t, append(args, "--api", m.api)...)
}

// jsonLines decodes each line.
func jsonLines(t testing.TB, s string) (out []map[string]any) {
	t.Helper()
	for line := range strings.Lines(s) {
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &v), "%s", line)
		out = append(out, v)
	}
	return out
}

// TestDev does what somebody does who tries Roost out.
func TestDev(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer target.Close()
	m, kafka := startDev(t, nil)
	m.awaitNodes(25)

	t.Run("run", func(t *testing.T) {
		r := m.roost("run", "http", target.URL, "--count", "10")
		require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
		require.Len(t, rowsOf(r.out, "ok"), 10, "%s", r.out)
		require.Contains(t, r.out, "10 outcomes: 10 ok")
		require.EqualValues(t, 10, hits.Load())
		nodes := map[string]bool{}
		for _, row := range rowsOf(r.out, "ok") {
			nodes[strings.Fields(row)[0]] = true
		}
		require.Len(t, nodes, 10, "the same node twice")
	})
	t.Run("json", func(t *testing.T) { runJSON(t, m, target.URL) })
	t.Run("failed", func(t *testing.T) {
		closed := httptest.NewServer(nil)
		closed.Close()
		r := m.roost("run", "http", closed.URL, "--count", "10")
		require.Equal(t, 1, r.code, "%s%s", r.out, r.err)
		rows := rowsOf(r.out, "failed")
		require.Len(t, rows, 10, "%s", r.out)
		for _, row := range rows {
			require.Contains(t, row, "refused")
		}
	})
	t.Run("no API", func(t *testing.T) {
		at := freeAddr(t)
		r := command(t, "run", "http", target.URL, "--api", "http://"+at)
		require.Equal(t, 2, r.code)
		require.Contains(t, r.err, at)
		require.Contains(t, r.err, "roost dev")
		require.Empty(t, r.out)
	})
	t.Run("nodes", func(t *testing.T) { nodesCommand(t, m) })
	t.Run("status", func(t *testing.T) { statusCommand(t, m, kafka) })
	t.Run("jobs", func(t *testing.T) { jobsCommand(t, m, target.URL) })
	t.Run("completion", func(t *testing.T) {
		r := command(t, "completion", "bash")
		require.Equal(t, 0, r.code, "%s", r.err)
		require.Contains(t, r.out, "complete -o default")
		r = command(t, "__complete", "run", "http", target.URL, "--api", m.api, "--node", "demo-00")
		require.Contains(t, r.out, "demo-001")
	})
	m.stop(interrupt)
	for _, addr := range []string{m.nodes, strings.TrimPrefix(m.api, "http://"), kafka} {
		require.True(t, refused(addr), "%s is still open", addr)
	}
}

// rowsOf are the rows of a table with an outcome.
func rowsOf(out, outcome string) (rows []string) {
	for line := range strings.Lines(out) {
		if slices.Contains(strings.Fields(line), outcome) && strings.HasPrefix(line, "demo-") {
			rows = append(rows, line)
		}
	}
	return rows
}

func runJSON(t *testing.T, m *member, url string) {
	r := m.roost("run", "http", url, "--count", "3", "--country", "AU", "--json")
	require.Equal(t, 0, r.code, "%s", r.err)
	lines := jsonLines(t, r.out)
	require.Len(t, lines, 3)
	for _, l := range lines {
		require.Equal(t, []string{"attempt", "duration_ms", "error", "index", "job", "node", "outcome", "output"}, slices.Sorted(maps.Keys(l)))
		require.Equal(t, "ok", l["outcome"])
		require.Equal(t, "", l["error"])
		require.EqualValues(t, 1, l["attempt"])
		require.Positive(t, l["duration_ms"])
		require.EqualValues(t, 200, l["output"].(map[string]any)["status"])
		require.Equal(t, lines[0]["job"], l["job"])
	}
}

func nodesCommand(t *testing.T, m *member) {
	r := m.roost("nodes")
	require.Equal(t, 0, r.code, "%s", r.err)
	require.Equal(t, 25+1, strings.Count(r.out, "\n"), "%s", r.out)
	r = m.roost("nodes", "--country", "AU", "--json")
	lines := jsonLines(t, r.out)
	require.Len(t, lines, 3)
	for _, l := range lines {
		require.Equal(t, "AU", l["country"])
		require.Contains(t, l["kinds"], "http")
	}
	r = m.roost("nodes", "demo-007")
	require.Equal(t, 0, r.code, "%s", r.err)
	require.Contains(t, r.out, "Dallas")
	r = m.roost("nodes", "nobody")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.err, "nobody is not connected")
}

func statusCommand(t *testing.T, m *member, kafka string) {
	r := m.roost("status")
	require.Equal(t, 0, r.code, "%s", r.err)
	require.Regexp(t, `kafka\s+reachable at `+kafka, r.out)
	require.Regexp(t, `nodes\s+25\n`, r.out)
	require.Regexp(t, `PARTITION\s+PENDING`, r.out)
	lines := jsonLines(t, m.roost("status", "--json").out)
	require.Len(t, lines, 1)
	require.EqualValues(t, 25, lines[0]["nodes"])
	require.Len(t, lines[0]["shards"], 16)
}

func jobsCommand(t *testing.T, m *member, url string) {
	ran := jsonLines(t, m.roost("run", "http", url, "--json").out)
	require.Len(t, ran, 1)
	id := ran[0]["job"].(string)
	r := m.roost("jobs")
	require.Equal(t, 0, r.code, "%s", r.err)
	require.Regexp(t, id+`\s+http\s+done\s+1/1`, r.out)
	r = m.roost("jobs", id)
	require.Equal(t, 0, r.code, "%s", r.err)
	require.Contains(t, r.out, ran[0]["node"])
	require.Regexp(t, `state\s+done`, r.out)
	r = m.roost("jobs", "no-such-job")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.err, "no-such-job")
}

// TestDevKeepsData kills "roost dev --data" and starts it again: results and offsets
// are there, and no job runs again.
func TestDevKeepsData(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer target.Close()
	const jobs = 20
	data := filepath.Join(t.TempDir(), "data")
	where := []string{freeAddr(t), freeAddr(t), freeAddr(t)}
	m, kafka := startDev(t, where, "--data", data, "--nodes", "3")
	m.awaitNodes(3)
	for i := range jobs {
		status, _ := m.submit(map[string]any{"id": fmt.Sprintf("kept-%d", i), "kind": "http",
			"target": map[string]any{"node": "demo-001"}, "args": map[string]any{"url": target.URL}})
		require.Equal(t, http.StatusAccepted, status)
	}
	status, _ := m.submit(map[string]any{"id": "waiting", "kind": "http", "ttl_ms": 600_000,
		"target": map[string]any{"node": "demo-004"}, "args": map[string]any{"url": target.URL}})
	require.Equal(t, http.StatusAccepted, status)
	c := &cluster{t: t, broker: broker{"embedded", kafka}, prefix: "roost.", group: "roost"}
	results := c.read("results")
	results.awaitDistinct(jobs, patience)
	sum := func() (n int64) {
		for _, offset := range c.committedOf(16) {
			n += offset
		}
		return n
	}
	eventually(t, patience, text("offsets are not committed"), func() bool { return sum() == jobs+1 })
	m.kill()
	require.True(t, refused(kafka))

	m, _ = startDev(t, where, "--data", data, "--nodes", "4")
	m.awaitReady()
	require.EqualValues(t, jobs+1, sum())
	again := c.read("results")
	require.Equal(t, "ok", again.result("waiting")["outcome"], "the job that waited for its node")
	again.await(jobs+1, patience)
	again.once(jobs + 1)
	require.Zero(t, m.metric("roost_jobs_total"), "finished jobs were read again")
	require.EqualValues(t, 1, m.metric("roost_shard_restored_jobs"), "the one that waited is in the state")
	require.EqualValues(t, jobs+1, hits.Load())
	m.stop(interrupt)

	// An orderly stop keeps them as well.
	m, _ = startDev(t, where, "--data", data, "--nodes", "0")
	m.awaitReady()
	eventually(t, patience, text("offsets were not committed at the stop"), func() bool { return sum() == jobs+1 })
	require.Zero(t, m.metric("roost_jobs_total"))
	m.stop(interrupt)
}

// TestDevPortInUse checks that a second one says what is wrong.
func TestDevPortInUse(t *testing.T) {
	t.Parallel()
	for i, flag := range []string{"--nodes-listen", "--api-listen", "--kafka-listen"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		where := []string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"}
		where[i] = ln.Addr().String()
		r := command(t, "dev", "--nodes-listen", where[0], "--api-listen", where[1], "--kafka-listen", where[2])
		require.Equal(t, 2, r.code, flag)
		require.Contains(t, r.err, where[i], flag)
		require.Contains(t, r.err, "in use", flag)
		require.NoError(t, ln.Close())
	}
}
