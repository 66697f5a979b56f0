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

// mixedJobs are jobs of all kinds of target, and how many outcomes they have.
func mixedJobs(p *producer, jobs, nodes int) (rs []*kgo.Record, outcomes int) {
	rs = make([]*kgo.Record, jobs)
	for i := range rs {
		j := job(fmt.Sprintf("job-%d", i), nodeID(i%nodes), echoKind, map[string]any{"i": i})
		switch i % 10 {
		case 3:
			j["target"] = map[string]any{"nodes": []string{nodeID(i % nodes), nodeID((i + 1) % nodes), nodeID((i + 7) % nodes)}}
		case 7:
			j["target"] = map[string]any{"select": map[string]any{"count": 2}}
		}
		rs[i] = p.json(j)
		outcomes += targetsOf(rs[i])
	}
	return rs, outcomes
}

// requireAllOK checks that there are so many outcomes, each once and each of them ok.
func requireAllOK(t testing.TB, n int, results *reader, f *fleet) {
	t.Helper()
	requireOK(t, n, results)
	f.awaitDrained()
	ran, again := f.ran()
	t.Logf("%d assignments run, %d of them more than once by their node; %d outcomes recorded", ran, again, n)
}

// requireOK is requireAllOK without a look at the nodes.
func requireOK(t testing.TB, n int, results *reader) {
	t.Helper()
	odd := map[string]int{}
	for _, o := range results.once(n) {
		if o.Outcome != "ok" {
			odd[o.Outcome]++
			t.Logf("%+v", o)
		}
	}
	require.Empty(t, odd, "outcomes that are not ok")
}

// TestKilledInTheMiddle kills the member twice in the middle of its work.
func TestKilledInTheMiddle(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const jobs, nodes = 10_000, 40
		c := newCluster(t, b)
		addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
		m := c.serve(addrs...)
		f := newFleet(t)
		f.nodes(nodes, 20*time.Millisecond, m.nodes)
		m.awaitNodes(nodes)
		p, results, marks := c.producer(), c.read("results"), c.read("progress")
		sent, outcomes := mixedJobs(p, jobs, nodes)
		for round := range 2 {
			have := results.count()
			p.send(sent[round*jobs/3 : (round+1)*jobs/3]...)
			results.await(have+outcomes/20, patience)
			m.kill()
			results.upToEnd()
			require.Less(t, results.count(), (round+1)*outcomes/3, "killed too late")
			requireWatermarks(t, sent[:(round+1)*jobs/3], marks, results)
			m = c.serve(addrs...)
		}
		p.send(sent[2*jobs/3:]...)
		results.await(outcomes, 2*patience)
		c.requireAllCommitted(sent)
		awaitWatermarks(t, sent, marks)
		f.awaitDrained()
		m.stop(interrupt)

		for _, o := range results.once(outcomes) {
			var i int
			_, err := fmt.Sscanf(o.Job, "job-%d", &i)
			require.NoError(t, err)
			if o.Outcome == "unmatched" && i%10 == 7 { // of a selector, right after a restart: nobody was back in time
				t.Logf("%+v", o)
				continue
			}
			require.Equal(t, "ok", o.Outcome, "%+v", o)
			require.EqualValues(t, o.Job, o.Output.(map[string]any)["id"])
			require.EqualValues(t, o.Node, o.Output.(map[string]any)["node"])
			require.Equal(t, sent[i].Partition, o.Partition, "%+v", o)
			require.Equal(t, sent[i].Offset, o.Offset, "%+v", o)
		}
		ran, again := f.ran()
		t.Logf("%d assignments run, %d of them more than once by their node; %d outcomes", ran, again, outcomes)
		logSlow(t, results)
	})
}

// logSlow logs what took long, and in which attempt it ended.
func logSlow(t testing.TB, results *reader) {
	t.Helper()
	attempts, slow := map[int]int{}, 0
	for _, o := range results.outcomes() {
		attempts[o.Attempt]++
		if o.TimeMs-o.JobMs > 20_000 {
			if slow++; slow <= 5 {
				t.Logf("slow: %+v", o)
			}
		}
	}
	t.Logf("outcomes by attempt: %v; %d took more than 20 s", attempts, slow)
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
		f.nodes(nodes, 200*time.Millisecond, first, second)
		m.awaitNodes(nodes)
		p, results, marks := c.producer(), c.read("results"), c.read("progress")
		sent := manyJobs(p, jobs, nodes)
		p.send(sent...)
		results.await(jobs/10, patience)
		m.stop(syscall.SIGTERM)
		results.upToEnd()
		require.Less(t, results.count(), jobs, "stopped too late")
		require.True(t, refused(first) && refused(m.api[len("http://"):]), "a port is still open")
		requireWatermarks(t, sent, marks, results)
		n := int64(0)
		for _, offset := range c.committed() {
			n += offset
		}
		require.GreaterOrEqual(t, n, int64(results.count()), "outcomes were recorded without their offsets")

		// The group was left, so the partitions are free at once.
		m = c.serve("--name", "second", "--nodes-listen", second)
		m.awaitNodes(nodes)
		results.await(jobs, 2*patience)
		awaitWatermarks(t, sent, marks)
		f.awaitDrained()
		m.stop(syscall.SIGTERM)
		requireAllOK(t, jobs, results, f)
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
	data := filepath.Join(t.TempDir(), "data")
	b := startBroker(t, data, freeAddr(t))
	withoutBroker(t, b, b.kill, func() { startBroker(t, data, b.addr) })
}

// TestBrokerGoneAndBack has the broker say nothing for longer than the group waits for
// a member, and a transaction for its end.
func TestBrokerGoneAndBack(t *testing.T) {
	t.Parallel()
	b := startBroker(t, filepath.Join(t.TempDir(), "data"), freeAddr(t))
	var gone time.Time
	withoutBroker(t, b, func() { gone = time.Now(); b.signal(syscall.SIGSTOP) }, func() {
		const absence = 12 * time.Second // longer than any of the member's own timeouts
		eventually(t, patience, text("time stands still"), func() bool { return time.Since(gone) > absence })
		b.signal(syscall.SIGCONT)
	})
}

// withoutBroker takes the broker away in the middle of the work, and brings it back.
func withoutBroker(t *testing.T, b *brokerProcess, away, back func()) {
	const jobs, nodes = 3000, 20
	c := newCluster(t, b.broker())
	m := c.serve()
	f := newFleet(t)
	f.nodes(nodes, 50*time.Millisecond, m.nodes)
	m.awaitNodes(nodes)
	p, results, marks := c.producer(), c.read("results"), c.read("progress")
	sent := manyJobs(p, jobs, nodes)
	p.send(sent...)
	results.await(jobs/10, patience)
	away()

	m.says(`(?i)unreachable|not reachable`)
	eventually(t, patience, text("the member says that it is ready without a broker"), func() bool {
		return m.get("/readyz", nil) == http.StatusServiceUnavailable
	})
	require.EqualValues(t, nodes, m.metric("roost_sessions"))
	before, _ := f.ran()
	require.Less(t, results.count(), jobs, "gone too late")

	back()
	results.await(jobs, 2*patience)
	c.requireAllCommitted(sent)
	awaitWatermarks(t, sent, marks)
	m.awaitReady()
	require.Zero(t, f.disconnections(), "nodes noticed the broker's absence")
	require.EqualValues(t, nodes, m.metric("roost_sessions_opened_total"))
	t.Logf("%d jobs had run when the broker was away", before)
	f.awaitDrained()
	m.stop(interrupt)
	requireAllOK(t, jobs, results, f)
}
