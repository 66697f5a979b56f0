//go:build linux

package e2e

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// awaitPartitions waits until the member owns so many partitions, rebuilt.
func (m *member) awaitPartitions(n int) {
	m.t.Helper()
	var status struct {
		Member string `json:"member"`
		Shards []struct {
			Member     string `json:"member"`
			Rebuilding bool   `json:"rebuilding"`
		} `json:"shards"`
	}
	eventually(m.t, patience, func() string { return m.name + " has not the partitions that it should have" }, func() bool {
		status.Shards = nil
		if m.get("/v1/status", &status) != 200 {
			return false
		}
		own := 0
		for _, s := range status.Shards {
			switch {
			case s.Member != status.Member:
			case s.Rebuilding:
				return false
			default:
				own++
			}
		}
		return own == n
	})
}

// TestZombieIsFenced stops one of two members under load until the other one has its
// partitions, and lets it go on: what it wants to commit then is refused.
func TestZombieIsFenced(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const jobs, nodes = 6000, 20
		c := newCluster(t, b)
		zombie, other := c.serve("--name", "zombie"), c.serve("--name", "other")
		zombie.awaitPartitions(2)
		other.awaitPartitions(2)
		f := newFleet(t)
		for i := range nodes {
			f.node(nodeID(i), 200*time.Millisecond, []string{zombie.nodes, other.nodes}[i%2])
		}
		zombie.awaitNodes(nodes / 2)
		other.awaitNodes(nodes / 2)
		p, results, marks := c.producer(), c.read("results"), c.read("progress")
		sent := manyJobs(p, jobs, nodes)
		p.send(sent[:jobs/2]...)
		results.await(jobs/20, patience)
		zombie.awaitMetric(1, "roost_transactions_committed_total")
		zombie.signal(syscall.SIGSTOP)
		require.Less(t, results.count(), jobs/2, "stopped too late")
		other.awaitPartitions(4)
		p.send(sent[jobs/2:]...)
		zombie.signal(syscall.SIGCONT)
		results.await(jobs, 2*patience)
		zombie.awaitPartitions(2) // it joins again
		zombie.awaitReady()
		more := manyJobs(p, jobs+200, nodes)[jobs:]
		p.send(more...)
		results.await(jobs+len(more), patience)
		awaitWatermarks(t, append(sent, more...), marks)
		t.Logf("aborted by the zombie: %v, unresolved: %v", zombie.metric("roost_transactions_aborted_total"),
			zombie.metric("roost_transactions_unresolved_total"))
		f.awaitDrained()
		zombie.stop(interrupt)
		other.stop(interrupt)
		requireOK(t, jobs+len(more), results)
	})
}

// leftOpen is a transaction as a member leaves it that dies in the middle of a commit.
type leftOpen struct {
	*kgo.Client
	t testing.TB
}

// leaveOpen begins a transaction under a member's transactional id, with offsets of the
// group, a state record and a result in it.
func (c *cluster) leaveOpen(owner string, partition int32, offset int64) *leftOpen {
	c.t.Helper()
	id := c.group + "-" + owner
	cl := c.plainClient(kgo.TransactionalID(id), kgo.TransactionTimeout(patience), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(c.t, cl.BeginTransaction())
	require.NoError(c.t, cl.ProduceSync(ctx,
		&kgo.Record{Topic: c.topic("state"), Partition: partition, Key: []byte("of a dead member"), Value: []byte{0xff}},
		&kgo.Record{Topic: c.topic("results"), Partition: partition, Key: []byte("of a dead member"), Value: []byte("{}")},
	).FirstErr())
	producer, epoch, err := cl.ProducerID(ctx)
	require.NoError(c.t, err)

	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = id, producer, epoch, c.group
	added, err := add.RequestWith(ctx, cl)
	require.NoError(c.t, err)
	require.NoError(c.t, kerr.ErrorForCode(added.ErrorCode))
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group, commit.Generation = id, producer, epoch, c.group, -1
	rt, rp := kmsg.NewTxnOffsetCommitRequestTopic(), kmsg.NewTxnOffsetCommitRequestTopicPartition()
	rt.Topic, rt.TopicID, rp.Partition, rp.Offset = c.topic("jobs"), c.describe(cl, "jobs").TopicID, partition, offset
	rt.Partitions = append(rt.Partitions, rp)
	commit.Topics = append(commit.Topics, rt)
	committed, err := commit.RequestWith(ctx, cl)
	require.NoError(c.t, err)
	require.NoError(c.t, kerr.ErrorForCode(committed.Topics[0].Partitions[0].ErrorCode))
	return &leftOpen{cl, c.t}
}

// requireFenced checks that it cannot be committed any more.
func (l *leftOpen) requireFenced() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.Error(l.t, l.EndTransaction(ctx, kgo.TryCommit), "the transaction of the dead member was still open")
}

// TestOpenTransactionOfADeadMember has a member die and leave a transaction open that
// would not end for a minute: the next owner ends it.
func TestOpenTransactionOfADeadMember(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const nodes = 4
		c := newCluster(t, b)
		first, second := freeAddr(t), freeAddr(t)
		m := c.serve("--name", "dies", "--nodes-listen", first, "--partitions", "1")
		f := newFleet(t)
		f.nodes(nodes, 0, first, second)
		m.awaitNodes(nodes)
		p, results := c.producer(), c.read("results")
		sent := append(manyJobs(p, 20, nodes), waitingJobs(p, 5, 1)...)
		p.send(sent...)
		results.await(20, patience)
		c.requireAllCommitted(sent)
		m.kill()
		open := c.leaveOpen("dies", 0, 1000)
		later := manyJobs(p, 40, nodes)[20:]
		p.send(later...) // below the offset that would be committed

		m = c.serve("--name", "lives", "--nodes-listen", second, "--partitions", "1")
		started := time.Now()
		results.await(40, patience/2)
		t.Logf("outcomes came after %v", time.Since(started))
		require.EqualValues(t, 5, m.metric("roost_jobs_pending"))
		open.requireFenced()
		f.node(awayID(0), 0, second)
		results.await(45, patience)
		f.awaitDrained()
		m.stop(interrupt)
		requireAllOK(t, 45, results, f)
	})
}
