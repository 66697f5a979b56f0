//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRepeatedIDs submits jobs again, as records and through the API, while they wait,
// after they ended, and after the member was killed: the first one stands.
func TestRepeatedIDs(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.node("n", 0, m.nodes)
		m.awaitNodes(1)
		p, results, dead := c.producer(), c.read("results"), c.read("dead")
		pending := job("pending", "away", echoKind, nil, "ttl_ms", 600_000)
		ended := job("ended", "n", echoKind, nil)
		atOnce := job("at-once", "n", echoKind, nil)
		first := []*kgo.Record{p.json(pending), p.json(ended), p.json(atOnce)}
		var again []*kgo.Record // every one of these is refused
		repeat := func(jobs ...map[string]any) {
			for _, j := range jobs {
				r := p.json(j)
				p.send(r)
				again = append(again, r)
			}
			dead.await(len(again), patience)
		}
		both := p.json(atOnce)
		p.send(append(first, both)...)
		again = append(again, both)
		require.Equal(t, "ok", results.outcome("ended").Outcome)
		require.Equal(t, "ok", results.outcome("at-once").Outcome)
		m.awaitState("pending", "waiting")

		repeat(pending, ended)
		require.Equal(t, "waiting", m.resubmit(t, pending).State)
		require.Equal(t, map[string]int{"ok": 1}, m.resubmit(t, ended).Outcomes)

		m.kill()
		m = c.serve(addrs...)
		m.awaitPartitions(4)
		m.awaitNodes(1)
		require.Equal(t, "waiting", m.resubmit(t, pending).State)
		require.Equal(t, "done", m.resubmit(t, ended).State)
		repeat(pending, ended, atOnce)
		f.node("away", 0, m.nodes)
		require.Equal(t, "ok", results.outcome("pending").Outcome)
		repeat(pending)
		m.stop(interrupt)

		results.once(3)
		_, twice := f.ran()
		require.Zero(t, twice, "a repeated job ran")
		dead.upToEnd()
		require.Equal(t, len(again), dead.count(), "records in the dead topic")
		where := map[string]*kgo.Record{}
		for _, r := range dead.records() {
			where[header(r, "roost-partition")+"/"+header(r, "roost-offset")] = r
		}
		for _, r := range again {
			got := where[fmt.Sprintf("%d/%d", r.Partition, r.Offset)]
			require.NotNil(t, got, "%s at %d/%d", r.Value, r.Partition, r.Offset)
			require.Equal(t, string(r.Value), string(got.Value))
			require.Regexp(t, `^duplicate: .*`+idOf(r), header(got, "roost-reason"))
		}
	})
}

// resubmit submits a job that is known and returns the first one.
func (m *member) resubmit(t testing.TB, job map[string]any) (v jobView) {
	t.Helper()
	code, _, body := m.request(http.MethodPost, "/v1/jobs", job)
	require.Equal(t, http.StatusOK, code, "%s", body)
	decode(t, body, &v)
	require.True(t, v.Duplicate, "%s", body)
	require.Equal(t, job["id"], v.ID)
	return v
}

// watermark asks the API how far a partition is done.
func (m *member) watermark(t testing.TB, partition int32) (v watermark) {
	t.Helper()
	var list struct {
		Watermarks []watermark `json:"watermarks"`
	}
	require.Equal(t, http.StatusOK, m.get("/v1/watermarks", &list))
	for _, w := range list.Watermarks {
		if w.Partition == partition {
			return w
		}
	}
	require.FailNow(t, "partition without watermark", "%d: %+v", partition, list)
	return v
}

type watermark struct {
	Partition  int32 `json:"partition"`
	Offset     int64 `json:"offset"`
	JobMs      int64 `json:"job_ms"`
	Pending    int   `json:"pending"`
	Committed  int64 `json:"committed"`
	Rebuilding bool  `json:"rebuilding"`
}

// TestWatermark checks that the watermark is held by one open job, in the topic and in
// the API, goes on when that ends, and never tells of outcomes that are not there.
func TestWatermark(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const before, after = 10, 2000
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t), "--partitions", "1", "--name", "member-1"}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.nodes(20, 20*time.Millisecond, m.nodes)
		m.awaitNodes(20)
		p, results, marks := c.producer(), c.read("results"), c.read("progress")
		sent := manyJobs(p, before+after, 20)
		p.send(sent[:before]...)
		results.await(before, patience)
		awaitWatermarks(t, sent[:before], marks)
		require.EqualValues(t, before, m.watermark(t, 0).Offset)

		open := p.json(job("open", "away", echoKind, nil, "ttl_ms", 600_000))
		p.send(open)
		p.send(sent[before:]...)
		for results.count() < before+after {
			requireWatermarks(t, append(sent, open), marks, results)
		}
		c.requireAllCommitted(append(sent, open))
		marks.upToEnd()
		at := marks.marks()[0]
		require.Equal(t, open.Offset, at.Offset)
		w := m.watermark(t, 0)
		require.Equal(t, watermark{Offset: open.Offset, JobMs: open.Timestamp.UnixMilli(), Pending: 1, Committed: before + after + 1}, w)

		m.kill()
		m = c.serve(addrs...)
		m.awaitRestored(1)
		require.Equal(t, w, m.watermark(t, 0))
		f.node("away", 0, m.nodes)
		require.Equal(t, "ok", results.outcome("open").Outcome)
		awaitWatermarks(t, append(sent, open), marks)
		eventually(t, patience, text("the API's watermark does not move"), func() bool { return m.watermark(t, 0).Offset == before+after+1 })
		require.Zero(t, m.watermark(t, 0).Pending)
		m.stop(interrupt)
		results.once(before + after + 1)
		marks.upToEnd()
		at = marks.marks()[0]
		require.EqualValues(t, before+after+1, at.Offset)
		require.Equal(t, "member-1", at.Member)
		require.GreaterOrEqual(t, at.TimeMs, open.Timestamp.UnixMilli())
		requireWatermarks(t, append(sent, open), marks, results)
	})
}
