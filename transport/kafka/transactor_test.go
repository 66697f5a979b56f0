package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCommitIsVisibleAtOnce(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 4)
		m := joinGroup(t, cfg, plan.Jobs)
		eventually(t, func() bool { return len(m.owned()) == 4 }, "assigned")
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		tr := readyTransactor(t, cfg, unique())
		var all []string
		for i := range int64(3) {
			tx := &Transaction{Messages: messages(plan.Results, unique(), 100, 4),
				Topic: plan.Jobs, Offsets: map[int32]int64{0: i, 3: 10 + i}, Group: m.metadata(t)}
			require.NoError(t, tr.Commit(within(t, patience), tx))
			all = append(all, values(tx.Messages)...)
			require.Equal(t, i, committedOffset(t, m, plan.Jobs, 0))
			require.Equal(t, 10+i, committedOffset(t, m, plan.Jobs, 3))
		}
		require.ElementsMatch(t, all, r.settle(t, cfg, plan.Results, 4))
		s := tr.Stats()
		require.EqualValues(t, 3, s.Transactions)
		require.EqualValues(t, 300, s.Messages)
		require.NotZero(t, s.Bytes)
		require.True(t, s.Reachable)
		require.EqualValues(t, 1, s.Clients)
	})
}

// A message that is too large for the client is named, and nothing of the rest is seen.
func TestRejectedMessagesAbort(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		m := joinGroup(t, cfg, plan.Jobs)
		eventually(t, func() bool { return len(m.owned()) == 2 }, "assigned")
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		tr := readyTransactor(t, cfg, unique())
		tx := &Transaction{Messages: messages(plan.Results, "a", 50, 2),
			Topic: plan.Jobs, Offsets: map[int32]int64{0: 7}, Group: m.metadata(t)}
		small := tx.Messages[20].Value
		tx.Messages[20].Value = make([]byte, cfg.MaxMessageBytes+1)
		tx.Messages[30].Value = make([]byte, 2*cfg.MaxMessageBytes)
		e := txError(t, tr.Commit(within(t, patience), tx))
		require.Equal(t, TxAborted, e.Outcome)
		require.Len(t, e.Rejected, 2)
		require.Equal(t, 20, e.Rejected[0].Index)
		require.Equal(t, 30, e.Rejected[1].Index)
		require.ErrorContains(t, e, "number 20")
		require.ErrorContains(t, e.Rejected[0].Err, "1000004 bytes")
		require.EqualValues(t, -1, committedOffset(t, m, plan.Jobs, 0))

		tx.Messages[20].Value, tx.Messages[30].Value = small, small
		require.NoError(t, tr.Commit(within(t, patience), tx))
		require.EqualValues(t, 7, committedOffset(t, m, plan.Jobs, 0))
		require.ElementsMatch(t, values(tx.Messages), r.settle(t, cfg, plan.Results, 2))
		require.EqualValues(t, 1, tr.Stats().Aborted)
	})
}

// A second transactor with the same id fences the first, whose next commit shows nothing.
func TestSecondTransactorFencesTheFirst(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		id := unique()
		first := readyTransactor(t, cfg, id)
		one := &Transaction{Messages: messages(plan.Results, "one-", 5, 2)}
		require.NoError(t, first.Commit(within(t, patience), one))
		second := readyTransactor(t, cfg, id)
		two := &Transaction{Messages: messages(plan.Results, "two-", 5, 2)}
		e := txError(t, first.Commit(within(t, patience), two))
		require.Equal(t, TxUnknown, e.Outcome)
		require.True(t, e.Fenced)
		require.EqualValues(t, 1, first.Stats().Fenced)
		three := &Transaction{Messages: messages(plan.Results, "three-", 5, 2)}
		require.NoError(t, second.Commit(within(t, patience), three))
		require.ElementsMatch(t, append(values(one.Messages), values(three.Messages)...), r.settle(t, cfg, plan.Results, 2))

		// Only Reset helps, and fences in turn.
		require.Equal(t, TxUnknown, txError(t, first.Commit(within(t, patience), two)).Outcome)
		require.Error(t, first.Init(within(t, patience)))
		require.NoError(t, first.Reset(within(t, patience)))
		require.NoError(t, first.Commit(within(t, patience), two))
		require.Equal(t, TxUnknown, txError(t, second.Commit(within(t, patience), three)).Outcome)
	})
}

// A member that the group has moved on from cannot commit any more.
func TestStaleGroupIsRefused(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 4)
		first := joinGroup(t, cfg, plan.Jobs)
		eventually(t, func() bool { return len(first.owned()) == 4 }, "assigned")
		tr := readyTransactor(t, cfg, unique())
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		tx := func(prefix string, offset int64, g *GroupMetadata) *Transaction {
			return &Transaction{Messages: messages(plan.Results, prefix, 10, 4), Topic: plan.Jobs,
				Offsets: map[int32]int64{0: offset, 1: offset, 2: offset, 3: offset}, Group: g}
		}
		before := first.metadata(t)
		require.NoError(t, tr.Commit(within(t, patience), tx("first", 5, before)))
		second := joinGroup(t, cfg, plan.Jobs)
		eventually(t, func() bool { return len(first.owned()) == 2 && len(second.owned()) == 2 }, "shared")
		e := txError(t, tr.Commit(within(t, patience), tx("stale", 6, before)))
		require.Equal(t, TxAborted, e.Outcome)
		require.True(t, e.StaleGroup, "%v", e)
		require.EqualValues(t, 5, committedOffset(t, second, plan.Jobs, second.owned()[0]))
		now := first.metadata(t)
		require.NoError(t, tr.Commit(within(t, patience), tx("now", 7, now)), "the same client goes on with the new generation")
		first.leave()
		eventually(t, func() bool { return len(second.owned()) == 4 }, "taken over")
		e = txError(t, tr.Commit(within(t, patience), tx("gone", 8, now)))
		require.Equal(t, TxAborted, e.Outcome)
		require.True(t, e.StaleGroup, "%v", e)
		require.EqualValues(t, 7, committedOffset(t, second, plan.Jobs, 0))
		want := append(values(messages("", "first", 10, 1)), values(messages("", "now", 10, 1))...)
		require.ElementsMatch(t, want, r.settle(t, cfg, plan.Results, 4))
		require.EqualValues(t, 1, tr.Stats().Clients)
	})
}

// What a dead client left open holds readers back until it is fenced.
func TestFenceEndsAnOpenTransaction(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.TransactionTimeout = 5 * time.Minute
		plan := makeTopics(t, cfg, 1)
		m := joinGroup(t, cfg, plan.Jobs)
		eventually(t, func() bool { return len(m.owned()) == 1 }, "assigned")
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		id := unique()
		dead := newTransactor(t, cfg, id)
		leaveOpen(t, dead, &Transaction{Messages: messages(plan.Results, "open", 3, 1),
			Topic: plan.Jobs, Offsets: map[int32]int64{0: 3}, Group: m.metadata(t)})
		produceN(t, cfg, plan.Results, "after", 1)
		require.Never(t, func() bool { return r.has("after0") }, 300*time.Millisecond, 20*time.Millisecond)
		start := time.Now()
		require.NoError(t, Fence(within(t, patience), cfg, id, testLog(t)))
		t.Logf("fenced after %s", time.Since(start))
		eventually(t, func() bool { return r.has("after0") }, "readers go on")
		t.Logf("seen after %s", time.Since(start))
		require.EqualValues(t, -1, committedOffset(t, m, plan.Jobs, 0))
		require.Equal(t, []string{"after0"}, r.values())
	})
}

// leaveOpen brings everything to the broker but the commit, and lets the client die.
func leaveOpen(t testing.TB, tr *Transactor, tx *Transaction) {
	t.Helper()
	ctx := within(t, patience)
	require.NoError(t, tr.Init(ctx))
	rejected, err := tr.fill(ctx, tr.client.Load(), tx)
	require.NoError(t, err)
	require.Empty(t, rejected)
	tr.discard()
	tr.open = false // Close must not abort it
}

// Without a fence the transaction lasts for its timeout.
func TestOpenTransactionTimesOut(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.TransactionTimeout = 2 * time.Second
		plan := makeTopics(t, cfg, 1)
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		leaveOpen(t, newTransactor(t, cfg, unique()), &Transaction{Messages: messages(plan.Results, "open", 3, 1)})
		start := time.Now()
		require.Empty(t, r.settle(t, cfg, plan.Results, 1))
		t.Logf("seen after %s", time.Since(start))
	})
}

// A context that ends before the commit aborts; the transactor goes on.
func TestCommitWithEndedContext(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		tr := readyTransactor(t, cfg, unique())
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		e := txError(t, tr.Commit(ended, &Transaction{Messages: messages(plan.Results, "a", 10, 1)}))
		require.Equal(t, TxAborted, e.Outcome)
		require.ErrorIs(t, e, context.Canceled)
		b := &Transaction{Messages: messages(plan.Results, "b", 10, 1)}
		require.NoError(t, tr.Commit(within(t, patience), b))
		require.Equal(t, values(b.Messages), r.settle(t, cfg, plan.Results, 1))
	})
}

func TestTransactionRefusals(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 1)
	_, err := NewTransactor(cfg, "", testLog(t))
	require.ErrorContains(t, err, "transactional id is empty")
	bad := cfg
	bad.TransactionTimeout = time.Second
	_, err = NewTransactor(bad, "x", testLog(t))
	require.ErrorContains(t, err, "TransactionTimeout is 1s")
	m := joinGroup(t, cfg, plan.Jobs)
	eventually(t, func() bool { return len(m.owned()) == 1 }, "assigned")
	tr := readyTransactor(t, cfg, unique())
	for want, tx := range map[string]*Transaction{
		"is empty":              {},
		"no topic or no group":  {Topic: plan.Jobs, Offsets: map[int32]int64{0: 1}},
		"a group and no offset": {Messages: messages(plan.Results, "a", 1, 1), Group: m.metadata(t)},
		"a negative partition":  {Topic: plan.Jobs, Offsets: map[int32]int64{0: -1}, Group: m.metadata(t)},
	} {
		e := txError(t, tr.Commit(within(t, patience), tx))
		require.Equal(t, TxFatal, e.Outcome)
		require.ErrorContains(t, e, want)
	}
	require.NoError(t, tr.Close(within(t, patience)))
	for _, err := range []error{tr.Init(within(t, patience)), tr.Reset(within(t, patience)), tr.Close(within(t, patience)),
		tr.Commit(within(t, patience), &Transaction{Messages: messages(plan.Results, "a", 1, 1)})} {
		require.ErrorIs(t, err, ErrClosed)
	}
}

// A batch beyond the size of the queue waits for room in it, in order.
func TestTransactionLargerThanTheQueue(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		const n = 100_000
		cfg.BufferingMaxMessages = 5000
		plan := makeTopics(t, cfg, 4)
		tr := readyTransactor(t, cfg, unique())
		tx := &Transaction{Messages: messages(plan.Results, "m", n, 4)}
		start := time.Now()
		require.NoError(t, tr.Commit(within(t, patience), tx))
		t.Logf("%d messages in %s", n, time.Since(start))
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		seen := r.settle(t, cfg, plan.Results, 4)
		require.Len(t, seen, n)
		var last [4]int // by partition
		for _, v := range seen {
			var i int
			_, err := fmt.Sscanf(v, "m%d", &i)
			require.NoError(t, err)
			require.GreaterOrEqual(t, i, last[i%4])
			last[i%4] = i
		}
	})
}

// Partitions that were added while the transactor lives are found, and those that do not
// exist are no fault of the message.
func TestPartitionsAddedLater(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		tr := readyTransactor(t, cfg, unique())
		require.NoError(t, tr.Commit(within(t, patience), &Transaction{Messages: messages(plan.Results, "a", 4, 2)}))
		e := txError(t, tr.Commit(within(t, patience), &Transaction{Messages: messages(plan.Results, "never", 8, 8)}))
		require.Equal(t, TxAborted, e.Outcome)
		require.Empty(t, e.Rejected)
		growTopic(t, cfg, plan.Results, 8)
		b := &Transaction{Messages: messages(plan.Results, "b", 8, 8)}
		eventually(t, func() bool { return tr.Commit(within(t, patience), b) == nil }, "found")
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		require.ElementsMatch(t, append(values(messages("", "a", 4, 1)), values(b.Messages)...), r.settle(t, cfg, plan.Results, 8))
	})
}

// A topic that does not exist aborts, again and again, until it does.
func TestTopicCreatedLater(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.TransactionTimeout = 3 * time.Second
		cfg.Properties = map[string]string{"topic.metadata.propagation.max.ms": "500"}
		name := unique() + "later"
		tr := readyTransactor(t, cfg, unique())
		tx := &Transaction{Messages: []Message{{Topic: name, Partition: PartitionByKey, Key: []byte("k"), Value: []byte("v")}}}
		e := txError(t, tr.Commit(within(t, patience), tx))
		require.Equal(t, TxAborted, e.Outcome)
		t.Log(e)
		require.Empty(t, e.Rejected)
		createTopic(t, cfg, name)
		eventually(t, func() bool { return tr.Commit(within(t, patience), tx) == nil }, "found")
	})
}
