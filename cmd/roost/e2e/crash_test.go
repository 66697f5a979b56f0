//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

const interrupt = syscall.SIGINT

// manyJobs are jobs for nodes in turn.
func manyJobs(p *producer, jobs, nodes int) []*kgo.Record {
	rs := make([]*kgo.Record, jobs)
	for i := range rs {
		rs[i] = p.json(job(fmt.Sprintf("job-%d", i), nodeID(i%nodes), echoKind, map[string]any{"i": i}))
	}
	return rs
}

// requireAllOK checks that every outcome is ok and logs how many came more than once.
func requireAllOK(t testing.TB, results *reader, f *fleet) {
	t.Helper()
	odd := map[string]int{}
	for _, rec := range results.records() {
		var id = string(rec.Key)
		if o := outcomeOf(t, rec); o != "ok" {
			odd[o]++
			t.Logf("%s: %s", id, rec.Value)
		}
	}
	require.Empty(t, odd, "outcomes that are not ok")
	f.awaitDrained()
	jobs, again := f.ran()
	t.Logf("%d jobs run, %d of them more than once; %d outcomes recorded for %d jobs", jobs, again, results.count(), results.distinct())
}

// TestServerKilled kills the member in the middle of its work and starts it again.
func TestServerKilled(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const jobs, nodes = 10_000, 40
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.nodes(nodes, 5*time.Millisecond, m.nodes)
		m.awaitNodes(nodes)
		p, results := c.producer(), c.read("results")
		sent := manyJobs(p, jobs, nodes)
		p.send(sent[:jobs/2]...)
		results.awaitDistinct(jobs/10, patience)
		m.kill()
		require.Less(t, results.distinct(), jobs, "killed too late")
		c.requireLedger(sent[:jobs/2], idOf, results)
		p.send(sent[jobs/2:]...)

		m = c.serve(addrs...)
		results.awaitDistinct(jobs, 2*patience)
		c.requireAllCommitted(sent)
		requireAllOK(t, results, f)
		require.Equal(t, jobs, results.distinct())
		m.stop(interrupt)
	})
}

// TestServerStopped ends the member in an orderly way under load, with another one
// to go to.
func TestServerStopped(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const jobs, nodes = 3000, 20
		c := newCluster(t, b)
		first, second := freeAddr(t), freeAddr(t)
		m := c.serve("--name", "first", "--nodes-listen", first)
		f := newFleet(t)
		f.nodes(nodes, 50*time.Millisecond, first, second)
		m.awaitNodes(nodes)
		p, results := c.producer(), c.read("results")
		sent := manyJobs(p, jobs, nodes)
		p.send(sent...)
		results.awaitDistinct(jobs/10, patience)
		m.stop(syscall.SIGTERM)
		require.Less(t, results.distinct(), jobs, "stopped too late")
		require.True(t, refused(first) && refused(m.api[len("http://"):]), "a port is still open")
		c.requireLedger(sent, idOf, results)
		n := int64(0)
		for _, offset := range c.committed() {
			n += offset
		}
		require.Positive(t, n, "nothing was committed")

		// The group was left, so the partitions are free at once.
		m = c.serve("--name", "second", "--nodes-listen", second)
		m.awaitNodes(nodes)
		results.awaitDistinct(jobs, 2*patience)
		c.requireAllCommitted(sent)
		requireAllOK(t, results, f)
		m.stop(syscall.SIGTERM)
	})
}

// TestBrokerLate starts the member before its broker.
func TestBrokerLate(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	c := newCluster(t, broker{"embedded", addr})
	p := start(t, "serve", c.args()...)
	p.says(`Kafka is not reachable.*` + addr)
	p.says(`(?s)(Kafka is not reachable.*){2}`)
	require.True(t, p.running())
	startBroker(t, filepath.Join(t.TempDir(), "data"), addr)
	m := serving(p)
	newFleet(t).node("n", 0, m.nodes)
	producer, results := c.producer(), c.read("results")
	producer.send(producer.json(job("late", "n", echoKind, nil)))
	require.Equal(t, "ok", results.result("late")["outcome"])
	m.stop(interrupt)
}

// TestBrokerNever interrupts a member that still waits for its broker.
func TestBrokerNever(t *testing.T) {
	t.Parallel()
	c := newCluster(t, broker{"embedded", freeAddr(t)})
	p := start(t, "serve", c.args()...)
	p.says(`Kafka is not reachable`)
	p.signal(interrupt)
	require.Equal(t, 130, p.wait())
	require.Empty(t, p.out.String())
}

// TestBrokerKilled kills the broker in the middle of the work, and starts it again on
// the same data.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	const jobs, nodes = 3000, 20
	data := filepath.Join(t.TempDir(), "data")
	b := startBroker(t, data, freeAddr(t))
	c := newCluster(t, b.broker())
	m := c.serve()
	f := newFleet(t)
	f.nodes(nodes, 50*time.Millisecond, m.nodes)
	m.awaitNodes(nodes)
	p, results := c.producer(), c.read("results")
	sent := manyJobs(p, jobs, nodes)
	p.send(sent...)
	results.awaitDistinct(jobs/10, patience)
	b.kill()

	m.says(`(?i)unreachable|not reachable`)
	eventually(t, patience, text("the member says that it is ready without a broker"), func() bool {
		return m.get("/readyz", nil) == http.StatusServiceUnavailable
	})
	require.EqualValues(t, nodes, m.metric("roost_sessions"))
	before, _ := f.ran()
	require.Less(t, results.distinct(), jobs, "killed too late")

	startBroker(t, data, b.addr)
	results.awaitDistinct(jobs, 2*patience)
	c.requireAllCommitted(sent)
	requireAllOK(t, results, f)
	m.awaitReady()
	require.Zero(t, f.disconnections(), "nodes noticed the broker's absence")
	require.EqualValues(t, nodes, m.metric("roost_sessions_opened_total"))
	t.Logf("%d jobs had run when the broker was away", before)
	m.stop(interrupt)
}
