//go:build linux

package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowTarget answers when told to, and counts requests.
type slowTarget struct {
	*httptest.Server
	hits   atomic.Int64
	answer chan struct{} // closed: answer at once
}

func newSlowTarget(t *testing.T) *slowTarget {
	s := &slowTarget{answer: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		select {
		case <-s.answer:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *slowTarget) awaitHits(t *testing.T, n int64) {
	t.Helper()
	eventually(t, patience, text("the job does not run"), func() bool { return s.hits.Load() >= n })
}

// TestNodeKilled kills a node in the middle of its jobs: one is tried again when the
// node is back, one has no attempts left, and one that any node may do goes to another.
func TestNodeKilled(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	c := newCluster(t, b.broker())
	m := c.serve()
	node := startNode(t, m, "fragile")
	target := newSlowTarget(t)
	args := map[string]any{"url": target.URL}
	p, results := c.producer(), c.read("results")
	p.send(
		p.json(job("twice", "fragile", "http", args, "attempts", 2)),
		p.json(job("only-once", "fragile", "http", args, "attempts", 1, "timeout_ms", 3000)),
		p.json(job("by-any", "", "http", args, "attempts", 2, "timeout_ms", 3000, "target", map[string]any{"select": map[string]any{}})),
	)
	target.awaitHits(t, 3)
	startNode(t, m, "spare")
	node.kill()
	close(target.answer)
	other := results.outcome("by-any")
	require.Equal(t, "ok", other.Outcome, "%+v", other)
	require.Equal(t, "spare", other.Node)
	require.Equal(t, 2, other.Attempt)
	startNode(t, m, "fragile")
	r := results.result("twice")
	require.Equal(t, "ok", r["outcome"], "%v", r)
	require.EqualValues(t, 2, r["attempt"])
	r = results.result("only-once")
	require.Equal(t, "lost", r["outcome"], "%v", r)
	require.EqualValues(t, 1, r["attempt"])
	require.EqualValues(t, 5, target.hits.Load())
	m.stop(interrupt)
	results.once(3)
}

// TestOutbox kills the member while a job runs, and the node after it has finished:
// the result is in the node's file, is recorded later, and the job ran once.
func TestOutbox(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	c := newCluster(t, b.broker())
	addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
	m := c.serve(addrs...)
	file := filepath.Join(t.TempDir(), "outbox")
	node := startNode(t, m, "keeper", "--outbox", file)
	target := newSlowTarget(t)
	p, results := c.producer(), c.read("results")
	p.send(p.json(job("kept", "keeper", "http", map[string]any{"url": target.URL}, "ttl_ms", 600_000)))
	target.awaitHits(t, 1)
	m.kill()
	size := func() int64 {
		info, err := os.Stat(file)
		require.NoError(t, err)
		return info.Size()
	}
	empty := size()
	close(target.answer)
	eventually(t, patience, text("the result is not in the file"), func() bool { return size() > empty })
	node.kill()
	require.Zero(t, results.count())

	m = c.serve(addrs...)
	startNode(t, m, "keeper", "--outbox", file)
	r := results.result("kept")
	require.Equal(t, "ok", r["outcome"], "%v", r)
	require.EqualValues(t, 1, r["attempt"])
	require.EqualValues(t, 1, target.hits.Load(), "the job ran again")
	m.stop(interrupt)
	results.once(1)
}
