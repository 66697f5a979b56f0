//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

// TestJobsOfBothEncodings runs jobs written by a plain Kafka client on a node in a
// process of its own, and reads their results with one.
func TestJobsOfBothEncodings(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve("--name", "member-1")
		node := startNode(t, m, "probe-1")
		target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write([]byte("short and stout"))
		}))
		defer target.Close()
		check := map[string]any{"url": target.URL, "status": "418", "body_contains": "stout"}
		p, results := c.producer(), c.read("results")

		p.send(p.json(job("json-1", "probe-1", "http", check, "tenant", "acme", "timeout_ms", 5000)))
		checkJSONResult(t, results)

		value, err := msgpack.Marshal(job("msgpack-1", "probe-1", "http", check, "attempts", 2))
		require.NoError(t, err)
		p.send(p.raw("probe-1", value, "application/msgpack"))
		checkMsgpackResult(t, results)

		// Without the header the first byte tells.
		value, err = msgpack.Marshal(job("msgpack-2", "probe-1", "http", check))
		require.NoError(t, err)
		bare := p.json(job("json-2", "probe-1", "http", check))
		bare.Headers = nil
		p.send(p.raw("probe-1", value, ""), bare)
		require.Equal(t, "ok", results.result("json-2")["outcome"])
		require.Equal(t, "application/msgpack", header(results.of("msgpack-2"), "content-type"))

		node.stop(interrupt)
		m.stop(interrupt)
	})
}

func checkJSONResult(t *testing.T, results *reader) {
	t.Helper()
	before := time.Now().Add(-patience).UnixMilli()
	rec := results.of("json-1")
	require.Equal(t, "application/json", header(rec, "content-type"))
	require.NotContains(t, string(rec.Value), "\n")
	r := results.result("json-1")
	require.Equal(t, "ok", r["outcome"], "%v", r)
	require.Equal(t, "json-1", r["job"])
	require.Equal(t, "probe-1", r["node"])
	require.Equal(t, "http", r["kind"])
	require.Equal(t, "acme", r["tenant"])
	require.Equal(t, "member-1", r["member"])
	require.EqualValues(t, 0, r["index"])
	require.EqualValues(t, 1, r["attempt"])
	require.EqualValues(t, 0, r["offset"])
	require.Contains(t, r, "partition")
	require.NotContains(t, r, "error")
	require.Positive(t, r["duration_ms"])
	require.Greater(t, r["job_ms"], float64(before))
	require.GreaterOrEqual(t, r["time_ms"], r["job_ms"])
	require.EqualValues(t, http.StatusTeapot, r["output"].(map[string]any)["status"])
}

func checkMsgpackResult(t *testing.T, results *reader) {
	t.Helper()
	rec := results.of("msgpack-1")
	require.Equal(t, "application/msgpack", header(rec, "content-type"))
	var r map[string]any
	require.NoError(t, msgpack.Unmarshal(rec.Value, &r))
	require.Equal(t, "ok", r["outcome"], "%v", r)
	require.Equal(t, "msgpack-1", r["job"])
	require.Equal(t, "probe-1", r["node"])
	require.NotContains(t, r, "tenant")
	require.EqualValues(t, http.StatusTeapot, r["output"].(map[string]any)["status"])
}

// startNode starts "roost node" and waits until it is connected.
func startNode(t testing.TB, m *member, id string, more ...string) *process {
	t.Helper()
	p := start(t, "node "+id, append([]string{"node", "--server", m.nodes, "--id", id, "--allow-private"}, more...)...)
	require.Contains(t, p.find(`node \S+ offers (.*)`)[0], "http")
	p.says(`\bconnected\b`)
	return p
}

// TestInvalidRecords checks that records that cannot be understood go to the dead
// topic as they are, and that the jobs after them run.
func TestInvalidRecords(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve("--partitions", "1") // so that they stand in one another's way
		f := newFleet(t)
		f.node("n", 0, m.nodes)
		m.awaitNodes(1)
		p, results, dead := c.producer(), c.read("results"), c.read("dead")
		tooDeep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
		bad := []struct{ key, value, contentType, reason string }{
			{"garbage", "\x01\x02garbage", "", "msgpack"},
			{"empty", "", "", "no value"},
			{"not-json", `{"id": `, "application/json", "JSON"},
			{"type", `{}`, "text/plain", "content-type"},
			{"unknown-field", `{"id":"a","kind":"k","target":{"node":"n"},"colour":1}`, "application/json", "colour"},
			{"no-target", `{"id":"b","kind":"k"}`, "application/json", "target"},
			{"two-targets", `{"id":"c","kind":"k","target":{"node":"n","nodes":["m"]}}`, "application/json", "target"},
			{"no-id", `{"kind":"k","target":{"node":"n"}}`, "application/json", "id"},
			{"control", `{"id":"a\u0007b","kind":"k","target":{"node":"n"}}`, "application/json", "id"},
			{"too-deep", `{"id":"d","kind":"k","target":{"node":"n"},"args":` + tooDeep + `}`, "application/json", "args|depth|nest|deep"},
			{"claims-2GB", "\xc6\x7f\xff\xff\xff", "application/msgpack", "msgpack"},
		}
		for _, r := range bad {
			p.send(p.raw(r.key, []byte(r.value), r.contentType))
		}
		p.send(p.json(job("after", "n", echoKind, nil)))
		require.Equal(t, "ok", results.result("after")["outcome"])
		for i, r := range bad {
			rec := dead.of(r.key)
			require.Equal(t, r.value, string(rec.Value), r.key)
			require.Equal(t, r.contentType, header(rec, "content-type"), r.key)
			require.Regexp(t, r.reason, header(rec, "roost-reason"), r.key)
			t.Logf("%s: %s", r.key, header(rec, "roost-reason"))
			require.Equal(t, c.topic("jobs"), header(rec, "roost-topic"))
			require.Equal(t, "of "+r.key, header(rec, "origin"), "the producer's own headers are kept")
			require.Equal(t, "0", header(rec, "roost-partition"))
			require.Equal(t, fmt.Sprint(i), header(rec, "roost-offset"))
		}
		require.EqualValues(t, len(bad), m.metric("roost_outcomes_total", `outcome="invalid"`))
		require.Equal(t, 1, results.count(), "a record that cannot be understood has no result")
		require.Equal(t, len(bad), dead.count())
		require.EqualValues(t, 0, m.metric("roost_actor_failures_total"))
		eventually(t, patience, text("the offsets do not pass the invalid records"), func() bool {
			return c.committed()[0] == int64(len(bad)+1)
		})
		m.stop(interrupt)
	})
}

// TestLargestRecords runs jobs near the limits of a payload there and back.
func TestLargestRecords(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve()
		target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var body bytes.Buffer
			_, _ = body.ReadFrom(r.Body)
			_ = json.NewEncoder(w).Encode(body.Len())
		}))
		defer target.Close()
		startNode(t, m, "big")
		p, results := c.producer(), c.read("results")
		body := strings.Repeat("x", 60<<10)
		p.send(p.json(job("large", "big", "http", map[string]any{"url": target.URL, "method": "POST", "body": body, "body_contains": fmt.Sprint(len(body))})))
		require.Equal(t, "ok", results.result("large")["outcome"])
		// One over the limit of arguments is refused before it reaches the node.
		p.send(p.json(job("too-large", "big", "http", strings.Repeat("x", 460<<10))))
		require.Contains(t, header(c.read("dead").of("big"), "roost-reason"), "args")
		m.stop(interrupt)
	})
}
