//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
	roost "github.com/roost-server/roost/sdk/go"
)

// TestTargets runs jobs for nodes that are absent, late, incapable or there twice,
// and takes results for jobs that nobody sent.
func TestTargets(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve()
		m.awaitReady()
		m.kill() // its partitions are assigned to nobody else for some seconds
		m = c.serve()
		f := newFleet(t)
		p, results := c.producer(), c.read("results")

		stranger := dial(t, m.nodes) // its answer takes longest
		stranger.open("stranger", "")
		stranger.write(encode(t, &protocol.Result{JobID: []byte("never-sent"), Shard: 1, Attempt: 1}))
		stranger.write(encode(t, &protocol.Result{JobID: []byte("no-such-shard"), Shard: 4_000_000_000, Attempt: 1}))
		stranger.acked("no-such-shard") // at once
		require.Equal(t, http.StatusServiceUnavailable, m.get("/readyz", nil), "too late to be early")
		m.awaitReady()

		p.send(
			p.json(job("absent", "nobody", echoKind, nil, "ttl_ms", 1500)),
			p.json(job("past", "nobody", echoKind, nil, "deadline_ms", time.Now().Add(-time.Minute).UnixMilli())),
			p.json(job("late", "latecomer", echoKind, nil, "ttl_ms", 60_000)),
			p.json(job("unmatched", "", echoKind, nil, "target", map[string]any{"select": map[string]any{"country": "AQ"}}, "ttl_ms", 60_000)),
			p.json(job("several", "", echoKind, nil, "target", map[string]any{"nodes": []string{"latecomer", "nobody"}}, "ttl_ms", 3000)),
		)
		t.Run("expired", func(t *testing.T) { expired(t, results) })
		require.Zero(t, results.has("late"), "a job for a node that is not connected has ended")
		f.node("latecomer", 0, m.nodes)
		t.Run("late", func(t *testing.T) { late(t, results) })
		p.send(p.json(job("unknown-kind", "latecomer", "com.example.unheard-of", nil)))
		t.Run("refused", func(t *testing.T) {
			r := results.result("unknown-kind")
			require.Equal(t, "refused", r["outcome"])
			require.Contains(t, r["error"], "com.example.unheard-of")
			require.Contains(t, r["error"], echoKind)
			require.EqualValues(t, 0, r["attempt"])
		})
		t.Run("twice", func(t *testing.T) { twice(t, m, p, results) })
		t.Run("several", func(t *testing.T) { several(t, results) })
		t.Run("unmatched", func(t *testing.T) {
			require.Equal(t, "unmatched", results.result("unmatched")["outcome"])
		})
		t.Run("result of an unknown job", func(t *testing.T) { unknownResult(t, m, stranger) })
		m.stop(interrupt)
		results.once(8)
	})
}

func expired(t *testing.T, results *reader) {
	r := results.result("absent")
	require.Equal(t, "expired", r["outcome"], "%v", r)
	require.EqualValues(t, 0, r["attempt"])
	require.Contains(t, r["error"], "nobody")
	waited := time.Duration(r["time_ms"].(float64)-r["job_ms"].(float64)) * time.Millisecond
	require.GreaterOrEqual(t, waited, 1500*time.Millisecond, "expired before its deadline")
	require.Equal(t, "expired", results.result("past")["outcome"])
}

func late(t *testing.T, results *reader) {
	r := results.result("late")
	require.Equal(t, "ok", r["outcome"], "%v", r)
	require.EqualValues(t, 1, r["attempt"])
	require.Equal(t, map[string]any{"id": "late", "node": "latecomer"}, r["output"])
}

// several checks the outcomes of a job for two nodes of which one is there.
func several(t *testing.T, results *reader) {
	eventually(t, patience, text("a job for two nodes has not two outcomes"), func() bool { return results.has("several") == 2 })
	got := map[string]int{}
	for _, rec := range results.records() {
		if string(rec.Key) == "several" {
			got[outcomeOf(t, rec)]++
		}
	}
	require.Equal(t, map[string]int{"ok": 1, "expired": 1}, got)
}

// twice connects a node id that is connected already.
func twice(t *testing.T, m *member, p *producer, results *reader) {
	old := dial(t, m.nodes)
	first := old.open("double", "")
	f := newFleet(t)
	ended, _ := f.node("double", 0, m.nodes) // replaces the socket
	c := old.closed()
	require.Equal(t, protocol.ReasonReplaced, c.Reason)
	require.Equal(t, protocol.ReconnectNever, c.Reason.Policy())

	newer := dial(t, m.nodes) // replaces the node
	require.Greater(t, newer.open("double", "").Incarnation, first.Incarnation)
	select {
	case err := <-ended:
		var ce *roost.CloseError
		require.True(t, errors.As(err, &ce), "%v", err)
		require.Equal(t, protocol.ReasonReplaced, ce.Reason)
	case <-time.After(patience):
		require.FailNow(t, "the older node goes on")
	}
	p.send(p.json(job("to-the-newest", "double", echoKind, nil)))
	j := &protocol.Job{}
	newer.expect(j)
	require.Equal(t, "to-the-newest", string(j.JobID))
	newer.write(encode(t, &protocol.Result{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt, DurationUs: 1500}))
	newer.acked("to-the-newest")
	r := results.result("to-the-newest")
	require.Equal(t, "ok", r["outcome"])
	require.EqualValues(t, 1.5, r["duration_ms"])
	require.EqualValues(t, 2, m.metric("roost_sessions_replaced_total"))
}

// unknownResult waits for the acknowledgement of a result for a job that nobody knows,
// which comes when its job's record cannot come any more.
func unknownResult(t *testing.T, m *member, s *socket) {
	s.t = t
	s.acked("never-sent")
	require.EqualValues(t, 1, m.metric("roost_results_unknown_total"))
	require.EqualValues(t, 2, m.metric("roost_node_results_unexpected_total"))
	s.ping()
}

// TestMaxConnections checks that sockets over the limit are turned away with advice
// when to come back, and that those within it stay.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	m := newCluster(t, b.broker()).serve("--max-connections", "10")
	var in []*socket
	for i := range 10 {
		s := dial(t, m.nodes)
		s.open(fmt.Sprintf("in-%d", i), "")
		in = append(in, s)
	}
	for range 10 {
		s := dial(t, m.nodes)
		s.write(hello(t, "out", ""))
		c := s.closed()
		require.Equal(t, protocol.ReasonOverloaded, c.Reason)
		require.Positive(t, c.RetryAfterMs)
	}
	require.EqualValues(t, 10, m.metric("roost_connections_refused_total"))
	require.EqualValues(t, 10, m.metric("roost_connections"))
	require.EqualValues(t, 10, m.metric("roost_sessions"))
	require.EqualValues(t, 10, m.metric("roost_connections_max"))
	for _, s := range in {
		s.ping()
	}
	require.NoError(t, in[0].Close())
	eventually(t, patience, text("the place of a node that left is not free"), func() bool { return m.metric("roost_connections") == 9 })
	dial(t, m.nodes).open("next", "")
	m.stop(interrupt)
}
