//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/protocol"
)

// waitingJobs are jobs for nodes that are away: away-0, away-1 and so on.
func waitingJobs(p *producer, jobs, nodes int) []*kgo.Record {
	rs := make([]*kgo.Record, jobs)
	for i := range rs {
		rs[i] = p.json(job(fmt.Sprintf("waiting-%d", i), awayID(i%nodes), echoKind, nil, "ttl_ms", 3_600_000))
	}
	return rs
}

func awayID(i int) string { return fmt.Sprintf("away-%d", i) }

// awaitRestored waits until the member has rebuilt its shards with so many jobs.
func (m *member) awaitRestored(jobs int) {
	m.t.Helper()
	m.awaitReady()
	got := 0.0
	eventually(m.t, patience, func() string { return fmt.Sprintf("%v jobs restored, not %d", got, jobs) }, func() bool {
		got = m.metric("roost_shard_restored_jobs")
		return m.metric("roost_shard_rebuilding") == 0 && got == float64(jobs)
	})
}

// TestWaitingJobsHoldNothingUp has jobs for absent nodes at the head of every partition:
// those after them end and are committed, also after a crash, and end once.
func TestWaitingJobsHoldNothingUp(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const waiting, away, jobs, nodes = 200, 10, 600, 5
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.nodes(nodes, 0, m.nodes)
		m.awaitNodes(nodes)
		p, results, marks := c.producer(), c.read("results"), c.read("progress")
		held := waitingJobs(p, waiting, away)
		p.send(held...)
		first := map[int32]int64{} // job that waits, in each partition
		for _, r := range held {
			if at, ok := first[r.Partition]; !ok || r.Offset < at {
				first[r.Partition] = r.Offset
			}
		}
		live := manyJobs(p, jobs, nodes)
		p.send(live[:jobs/2]...)
		results.await(jobs/2, patience)
		c.requireAllCommitted(append(live[:jobs/2:jobs/2], held...))
		m.kill()

		m = c.serve(addrs...)
		m.awaitRestored(waiting)
		require.Zero(t, m.metric("roost_jobs_total"), "records were read again although their offsets were committed")
		m.awaitNodes(nodes)
		p.send(live[jobs/2:]...)
		results.await(jobs, patience)
		c.requireAllCommitted(append(live, held...))
		results.once(jobs)
		_, again := f.ran()
		require.Zero(t, again, "jobs ran again after the restart")
		marks.upToEnd()
		for partition, mark := range marks.marks() {
			if at, ok := first[partition]; ok {
				require.LessOrEqual(t, mark.Offset, at, "the watermark of partition %d is after a job that waits", partition)
			}
		}

		for i := range away {
			f.node(awayID(i), 0, m.nodes)
		}
		results.await(jobs+waiting, patience)
		awaitWatermarks(t, append(live, held...), marks)
		f.awaitDrained()
		m.stop(interrupt)
		requireAllOK(t, jobs+waiting, results, f)
		_, again = f.ran()
		require.Zero(t, again, "jobs ran more than once")
	})
}

// TestWaitingJobSurvivesRestarts has a node die with jobs that were tried before, and
// then the member: they go on with the attempts that they have left.
func TestWaitingJobSurvivesRestarts(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t), "--partitions", "1"}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.node("sound", 0, m.nodes)
		p, results := c.producer(), c.read("results")
		fence := func(id string) { // what its partition knew before it is committed with it
			p.send(p.json(job(id, "sound", echoKind, nil)))
			require.Equal(t, "ok", results.outcome(id).Outcome)
		}
		tried := []any{"timeout_ms", 600_000, "backoff_ms", 100, "ttl_ms", 3_600_000}
		node := dial(t, m.nodes)
		node.open("fragile", "")
		p.send(
			p.json(job("tried", "fragile", echoKind, nil, append(tried, "attempts", 3)...)),
			p.json(job("spent", "fragile", echoKind, nil, append(tried, "attempts", 2)...)),
			p.json(job("untouched", "away", echoKind, nil, "ttl_ms", 3_600_000)),
		)
		require.Equal(t, map[string]uint32{"tried": 1, "spent": 1}, node.jobs(2))
		require.NoError(t, node.Close())
		node = dial(t, m.nodes) // it has forgotten the first attempts
		node.open("fragile", "")
		require.Equal(t, map[string]uint32{"tried": 2, "spent": 2}, node.jobs(2))
		die := func() {
			require.NoError(t, node.Close())
			eventually(t, patience, text("the node's session does not end"), func() bool { return m.metric("roost_sessions") == 1 })
		}
		die()
		p.send(p.json(job("short", "away", echoKind, nil, "ttl_ms", 4000)))
		fence("first")
		m.kill()

		m = c.serve(addrs...)
		require.Equal(t, "expired", results.outcome("short").Outcome)
		node = dial(t, m.nodes)
		node.open("fragile", "")
		// Of the last attempt nobody knows whether it ran: it is repeated, under its number.
		require.Equal(t, map[string]uint32{"tried": 3, "spent": 2}, node.jobs(2))
		fence("second")
		die()
		fence("third")
		m.kill()

		m = c.serve(addrs...)
		node = dial(t, m.nodes)
		node.open("fragile", "")
		for range 2 {
			j := &protocol.Job{}
			node.expect(j)
			node.write(encode(t, &protocol.Result{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt}))
		}
		for id, attempt := range map[string]int{"tried": 3, "spent": 2} {
			o := results.outcome(id)
			require.Equal(t, "ok", o.Outcome, "%+v", o)
			require.Equal(t, attempt, o.Attempt, "%+v", o)
		}
		f.node("away", 0, m.nodes)
		late := results.outcome("untouched")
		require.Equal(t, "ok", late.Outcome, "%+v", late)
		require.Equal(t, 1, late.Attempt, "waiting uses no attempt up")
		m.stop(interrupt)
		results.once(7)
	})
}

// jobs reads so many deliveries, and returns the attempt of each job.
func (s *socket) jobs(n int) map[string]uint32 {
	s.t.Helper()
	out := map[string]uint32{}
	for range n {
		j := &protocol.Job{}
		s.expect(j)
		out[string(j.JobID)] = j.Attempt
	}
	return out
}

// TestTenThousandTargets kills the member with one job for ten thousand nodes, most of
// them away, under way.
func TestTenThousandTargets(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const targets, before, after = 10_000, 10, 10
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.nodes(before, 0, m.nodes)
		m.awaitNodes(before)
		p, results, marks := c.producer(), c.read("results"), c.read("progress")
		ids := make([]string, targets)
		for i := range ids {
			ids[i] = nodeID(i)
		}
		sent := p.json(job("all", "", echoKind, nil, "target", map[string]any{"nodes": ids}, "ttl_ms", 25_000))
		p.send(sent)
		results.await(before, patience)
		c.requireAllCommitted([]*kgo.Record{sent})
		m.kill()

		m = c.serve(addrs...)
		for i := range after {
			f.node(nodeID(before+i), 0, m.nodes)
		}
		results.await(targets, patience)
		awaitWatermarks(t, []*kgo.Record{sent}, marks)
		m.stop(interrupt)
		got := map[string]int{}
		for _, o := range results.once(targets) {
			got[o.Outcome]++
			require.Equal(t, nodeID(o.Index), o.Node)
			if o.Outcome == "expired" {
				require.GreaterOrEqual(t, o.TimeMs, o.JobMs+25_000)
			} else {
				require.Less(t, o.Index, before+after)
			}
		}
		require.Equal(t, map[string]int{"ok": before + after, "expired": targets - before - after}, got)
		_, again := f.ran()
		require.Zero(t, again)
	})
}

// TestRebuildingAnswer asks for jobs while the shards are rebuilt after a crash: no
// answer says that a job does not exist.
func TestRebuildingAnswer(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const waiting = 40_000
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
		m := c.serve(addrs...)
		p := c.producer()
		held := waitingJobs(p, waiting, 1000)
		p.send(held...)
		eventually(t, patience, text("not all jobs are taken"), func() bool { return m.metric("roost_jobs_pending") == waiting })
		c.requireAllCommitted(held)
		m.kill()

		m = c.serve(addrs...)
		answers, types := map[int]int{}, map[string]int{}
		eventually(t, patience, func() string { return fmt.Sprintf("the shards are not rebuilt; answers: %v", answers) }, func() bool {
			ready := m.get("/readyz", nil) == http.StatusOK && m.metric("roost_shard_rebuilding") == 0 &&
				m.metric("roost_shard_restored_jobs") == waiting
			i := answers[http.StatusOK] + answers[http.StatusServiceUnavailable]
			m.requireKnown(t, answers, types, fmt.Sprintf("waiting-%d", i*7919%waiting))
			if ready {
				require.Equal(t, http.StatusOK, m.get("/v1/jobs/waiting-1", nil))
			}
			return ready
		})
		t.Logf("answers: %v, of these %v", answers, types)
		require.Positive(t, types["urn:roost:problem:rebuilding"], "it was not asked in time")
		require.EqualValues(t, waiting, m.metric("roost_jobs_pending"))
		require.Zero(t, m.metric("roost_shard_missing_jobs"))
		require.Equal(t, http.StatusNotFound, m.get("/v1/jobs/no-such-job", nil))
		m.stop(interrupt)
	})
}

// requireKnown asks for a job that is there, or in a shard that is not rebuilt yet.
func (m *member) requireKnown(t testing.TB, answers map[int]int, types map[string]int, id string) {
	t.Helper()
	code, head, body := m.request(http.MethodGet, "/v1/jobs/"+id, nil)
	answers[code]++
	require.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable}, code, "GET %s: %s", id, body)
	if code == http.StatusServiceUnavailable {
		var problem struct {
			Type string `json:"type"`
		}
		decode(t, body, &problem)
		require.NotEmpty(t, head.Get("Retry-After"))
		types[problem.Type]++
	}
}

// TestFollowedFromTheStart submits a job and follows it before the member has any
// partition, as after a crash: its outcome is seen when it comes.
func TestFollowedFromTheStart(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	c := newCluster(t, b.broker())
	addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
	m := c.serve(addrs...)
	m.awaitPartitions(4)
	m.kill() // its partitions are assigned to nobody else for some seconds
	m = c.serve(addrs...)
	startNode(t, m, "n")
	require.Equal(t, http.StatusServiceUnavailable, m.get("/readyz", nil), "too late to be early")
	r := m.roost("run", "tcp", m.nodes, "--node", "n")
	require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
	require.Contains(t, r.out, "1 ok")
	m.stop(interrupt)
}
