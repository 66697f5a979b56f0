package kafka

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// commitByTheBook does what a caller of Commit has to do, until tx is committed, and
// returns the outcomes on the way.
func commitByTheBook(t testing.TB, tr *Transactor, m *groupMember, tx *Transaction) (ways string, errs []error) {
	t.Helper()
	for deadline := time.Now().Add(4 * patience); ; {
		require.True(t, time.Now().Before(deadline), "no end: %v", errs)
		err := tr.Commit(within(t, patience), tx)
		if err == nil {
			return ways + "committed", errs
		}
		e := txError(t, err)
		ways, errs = ways+e.Outcome.String()+" ", append(errs, err)
		require.Empty(t, e.Rejected, "%v", err)
		if e.StaleGroup { // the member has to join anew
			time.Sleep(10 * time.Millisecond)
			tx.Group = m.metadata(t)
		}
		if e.Outcome == TxUnknown {
			require.NoError(t, tr.Reset(within(t, patience)))
			if done := isCommitted(t, m, tx); done {
				return ways + "committed", errs
			}
		}
	}
}

// isCommitted tells by the offsets, as the owner of a partition does.
func isCommitted(t testing.TB, m *groupMember, tx *Transaction) bool {
	t.Helper()
	for p, o := range tx.Offsets {
		if committedOffset(t, m, tx.Topic, p) != o {
			return false
		}
	}
	return true
}

const once, again, reset = "committed", "aborted committed", "unknown committed"

// faultCases are answers of a broker, given once, and what Commit makes of each.
var faultCases = []struct {
	key   kmsg.Key
	err   *kerr.Error
	want  string
	stale bool
}{
	{kmsg.AddPartitionsToTxn, kerr.NotCoordinator, once, false},
	{kmsg.AddPartitionsToTxn, kerr.CoordinatorNotAvailable, once, false},
	{kmsg.AddPartitionsToTxn, kerr.CoordinatorLoadInProgress, once, false},
	{kmsg.AddPartitionsToTxn, kerr.ConcurrentTransactions, once, false},
	{kmsg.AddPartitionsToTxn, kerr.UnknownTopicOrPartition, once, false},
	{kmsg.AddPartitionsToTxn, kerr.InvalidProducerEpoch, reset, false},
	{kmsg.AddPartitionsToTxn, kerr.ProducerFenced, reset, false},
	{kmsg.AddPartitionsToTxn, kerr.UnknownProducerID, again, false},
	{kmsg.AddPartitionsToTxn, kerr.InvalidProducerIDMapping, again, false},
	{kmsg.AddPartitionsToTxn, kerr.InvalidTxnState, again, false},
	{kmsg.AddPartitionsToTxn, kerr.TopicAuthorizationFailed, again, false},
	{kmsg.AddPartitionsToTxn, kerr.UnknownServerError, again, false},
	{kmsg.Produce, kerr.NotLeaderForPartition, once, false},
	{kmsg.Produce, kerr.KafkaStorageError, once, false},
	{kmsg.Produce, kerr.NotEnoughReplicas, once, false},
	{kmsg.Produce, kerr.NotEnoughReplicasAfterAppend, once, false},
	{kmsg.Produce, kerr.RequestTimedOut, once, false},
	{kmsg.Produce, kerr.InvalidProducerEpoch, reset, false},
	{kmsg.Produce, kerr.UnknownProducerID, again, false},
	{kmsg.Produce, kerr.OutOfOrderSequenceNumber, again, false},
	{kmsg.Produce, kerr.InvalidTxnState, again, false},
	{kmsg.Produce, kerr.UnknownServerError, again, false},
	{kmsg.Produce, kerr.MessageTooLarge, again, false},
	{kmsg.AddOffsetsToTxn, kerr.NotCoordinator, once, false},
	{kmsg.AddOffsetsToTxn, kerr.CoordinatorLoadInProgress, once, false},
	{kmsg.AddOffsetsToTxn, kerr.ConcurrentTransactions, once, false},
	{kmsg.AddOffsetsToTxn, kerr.InvalidProducerEpoch, reset, false},
	{kmsg.AddOffsetsToTxn, kerr.ProducerFenced, reset, false},
	{kmsg.AddOffsetsToTxn, kerr.InvalidProducerIDMapping, again, false},
	{kmsg.AddOffsetsToTxn, kerr.GroupAuthorizationFailed, again, false},
	{kmsg.TxnOffsetCommit, kerr.NotCoordinator, once, false},
	{kmsg.TxnOffsetCommit, kerr.CoordinatorLoadInProgress, once, false},
	{kmsg.TxnOffsetCommit, kerr.RequestTimedOut, once, false},
	{kmsg.TxnOffsetCommit, kerr.IllegalGeneration, again, true},
	{kmsg.TxnOffsetCommit, kerr.UnknownMemberID, again, true},
	{kmsg.TxnOffsetCommit, kerr.RebalanceInProgress, again, true},
	{kmsg.TxnOffsetCommit, kerr.FencedInstanceID, again, true},
	{kmsg.TxnOffsetCommit, kerr.InvalidProducerEpoch, reset, false},
	{kmsg.TxnOffsetCommit, kerr.UnknownServerError, again, false},
	{kmsg.EndTxn, kerr.NotCoordinator, once, false},
	{kmsg.EndTxn, kerr.CoordinatorNotAvailable, once, false},
	{kmsg.EndTxn, kerr.CoordinatorLoadInProgress, once, false},
	{kmsg.EndTxn, kerr.ConcurrentTransactions, once, false},
	{kmsg.EndTxn, kerr.InvalidProducerEpoch, reset, false},
	{kmsg.EndTxn, kerr.ProducerFenced, reset, false},
	{kmsg.EndTxn, kerr.UnknownProducerID, reset, false},
	{kmsg.EndTxn, kerr.InvalidProducerIDMapping, reset, false},
	{kmsg.EndTxn, kerr.InvalidTxnState, reset, false},
	{kmsg.EndTxn, kerr.UnknownServerError, reset, false},
	{kmsg.FindCoordinator, kerr.CoordinatorNotAvailable, "", false}, // asked or not, it must go on
	{kmsg.InitProducerID, kerr.ConcurrentTransactions, "", false},
}

// Every answer of a broker ends in the right outcome, and the messages are seen once.
func TestFaultsInTransactions(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 2)
	m := joinGroup(t, cfg, plan.Jobs)
	eventually(t, func() bool { return len(m.owned()) == 2 }, "assigned")
	r := readCommitted(t, cfg.Bootstrap, plan.Results)
	var want []string
	for i, c := range faultCases {
		t.Run(fmt.Sprintf("%s %s", c.key.Name(), c.err.Message), func(t *testing.T) {
			tr := readyTransactor(t, cfg, unique())
			fault := e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{c.key}, Err: c.err})
			defer fault.Remove()
			tx := &Transaction{Messages: messages(plan.Results, fmt.Sprintf("%d-", i), 20, 2), Topic: plan.Jobs,
				Offsets: map[int32]int64{0: int64(i), 1: int64(i)}, Group: m.metadata(t)}
			want = append(want, values(tx.Messages)...)
			start := time.Now()
			ways, errs := commitByTheBook(t, tr, m, tx)
			t.Logf("%s in %s: %v", ways, time.Since(start), errs)
			if c.want != "" {
				require.Equal(t, 1, fault.Hits())
				require.Equal(t, c.want, ways, "%v", errs)
			}
			if len(errs) > 0 {
				require.Equal(t, c.stale, txError(t, errs[0]).StaleGroup)
			}
			require.True(t, isCommitted(t, m, tx))
			require.NoError(t, tr.Close(within(t, patience)))
		})
	}
	require.ElementsMatch(t, want, r.settle(t, cfg, plan.Results, 2))
}

// cutListener loses the answers of connections once told to.
type cutListener struct {
	net.Listener
	cut atomic.Bool
}

type cutConn struct {
	net.Conn
	l *cutListener
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cutConn{c, l}, nil
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.l.cut.Load() {
		c.Conn.Close()
	}
	return c.Conn.Write(b)
}

// cuttable starts a broker whose answers can be lost.
func cuttable(t *testing.T) (*kfake.Cluster, *cutListener, Config) {
	l := &cutListener{}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID(EmbeddedClusterID),
		kfake.GroupMinSessionTimeout(time.Second), kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			var err error
			l.Listener, err = net.Listen(network, "127.0.0.1:0")
			return l, err
		}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return cluster, l, testConfig(t, cluster.ListenAddrs()[0])
}

// The coordinator goes away at each step of a transaction: Commit returns in time, for some
// calls of librdkafka do not, and goes on when the coordinator is back.
func TestCoordinatorGoesAway(t *testing.T) {
	cluster, l, cfg := cuttable(t)
	plan := makeTopics(t, cfg, 2)
	m := joinGroup(t, cfg, plan.Jobs)
	eventually(t, func() bool { return len(m.owned()) == 2 }, "assigned")
	r := readCommitted(t, cfg.Bootstrap, plan.Results)
	tr := readyTransactor(t, cfg, unique())
	var want []string
	for i, key := range []kmsg.Key{kmsg.AddPartitionsToTxn, kmsg.Produce, kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit, kmsg.EndTxn} {
		cluster.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
			l.cut.Store(true)
			return nil, net.ErrClosed, true
		})
		tx := &Transaction{Messages: messages(plan.Results, fmt.Sprintf("%d-", i), 20, 2), Topic: plan.Jobs,
			Offsets: map[int32]int64{0: int64(i), 1: int64(i)}, Group: m.metadata(t)}
		want = append(want, values(tx.Messages)...)
		start := time.Now()
		e := txError(t, tr.Commit(within(t, time.Second), tx))
		took := time.Since(start)
		t.Logf("%s: %s after %s: %v", key.Name(), e.Outcome, took, e)
		require.Less(t, took, 10*time.Second)
		l.cut.Store(false)
		if key == kmsg.EndTxn {
			require.Equal(t, TxUnknown, e.Outcome)
			require.NoError(t, tr.Reset(within(t, patience)))
		} else {
			require.Equal(t, TxAborted, e.Outcome)
		}
		eventually(t, func() bool { return len(m.owned()) == 2 }, "back")
		if e.Outcome == TxUnknown && isCommitted(t, m, tx) {
			continue // the client that was given up came through before the next one
		}
		tx.Group = m.metadata(t)
		ways, errs := commitByTheBook(t, tr, m, tx)
		t.Logf("%s: then %s %v", key.Name(), ways, errs)
	}
	require.NoError(t, tr.Close(within(t, patience)))
	require.ElementsMatch(t, want, r.settle(t, cfg, plan.Results, 2))
}

// The broker commits, and the answer is lost: the client asks again and learns it.
func TestLostAnswerOfCommit(t *testing.T) {
	cluster, l, cfg := cuttable(t)
	plan := makeTopics(t, cfg, 2)
	r := readCommitted(t, cfg.Bootstrap, plan.Results)
	tr := readyTransactor(t, cfg, unique())
	for _, keep := range []time.Duration{100 * time.Millisecond, 3 * time.Second} {
		cluster.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
			cluster.DropControl()
			l.cut.Store(true)
			time.AfterFunc(keep, func() { l.cut.Store(false) })
			return nil, nil, false
		})
		tx := &Transaction{Messages: messages(plan.Results, fmt.Sprint(keep), 10, 2)}
		require.NoError(t, tr.Commit(within(t, patience), tx))
	}
	// Not asked again in time: unknown, until Reset.
	cluster.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.DropControl()
		l.cut.Store(true)
		return nil, nil, false
	})
	start := time.Now()
	e := txError(t, tr.Commit(within(t, 2*time.Second), &Transaction{Messages: messages(plan.Results, "unknown", 1, 1)}))
	require.Equal(t, TxUnknown, e.Outcome)
	t.Logf("unknown after %s: %v", time.Since(start), e)
	require.Error(t, tr.Reset(within(t, 200*time.Millisecond)), "nobody is there")
	require.Equal(t, TxUnknown, txError(t, tr.Commit(within(t, patience), &Transaction{Messages: messages(plan.Results, "x", 1, 1)})).Outcome)
	l.cut.Store(false)
	require.NoError(t, tr.Reset(within(t, patience)))
	require.True(t, r.has("unknown0") || len(r.settle(t, cfg, plan.Results, 2)) == 21)
}

// While the broker is away Commit gives up in time, and says that nothing was committed;
// after it is back the same transaction goes through.
func TestBrokerAwayBeforeCommit(t *testing.T) {
	dir := t.TempDir()
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0", DataDir: dir})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 2)
	tr := readyTransactor(t, cfg, unique())
	first := &Transaction{Messages: messages(plan.Results, "first", 10, 2)}
	require.NoError(t, tr.Commit(within(t, patience), first))
	require.NoError(t, e.Close())
	second := &Transaction{Messages: messages(plan.Results, "second", 10, 2)}
	for range 3 {
		start := time.Now()
		err := txError(t, tr.Commit(within(t, time.Second), second))
		require.Equal(t, TxAborted, err.Outcome)
		t.Logf("after %s: %v", time.Since(start), err)
	}
	eventually(t, func() bool { return !tr.Reachable() }, "absence is seen")
	startEmbedded(t, EmbeddedConfig{Listen: e.Addr(), DataDir: dir})
	require.NoError(t, tr.Commit(within(t, patience), second))
	require.True(t, tr.Reachable())
	r := readCommitted(t, cfg.Bootstrap, plan.Results)
	require.ElementsMatch(t, append(values(first.Messages), values(second.Messages)...), r.settle(t, cfg, plan.Results, 2))
}

// A topic that takes less than the client sends: what is really too large is found; and when
// it was the request that was too large, requests become smaller.
func TestSmallTopicLimit(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		setTopic(t, cfg, plan.Results, "max.message.bytes", "40000")
		r := readCommitted(t, cfg.Bootstrap, plan.Results)
		tr := readyTransactor(t, cfg, unique())
		tx := &Transaction{Messages: append(messages(plan.Results, "a", 300, 1), messages(plan.Dead, "d", 5, 1)...)}
		for i := range tx.Messages {
			tx.Messages[i].Value = append(tx.Messages[i].Value, make([]byte, 1000)...)
		}
		for _, i := range []int{7, 9, 200} {
			tx.Messages[i].Value = make([]byte, 45000+i)
		}
		tx.Messages[302].Value = make([]byte, 50000) // its topic takes it
		e := txError(t, tr.Commit(within(t, patience), tx))
		require.Equal(t, TxAborted, e.Outcome)
		var found []int
		for _, x := range e.Rejected {
			found = append(found, x.Index)
		}
		require.Equal(t, []int{7, 9, 200}, found, "%v", e)
		for _, i := range found {
			tx.Messages[i].Value = []byte("small")
		}
		tries := 0
		eventually(t, func() bool {
			tries++
			err := tr.Commit(within(t, patience), tx)
			if err != nil {
				e := txError(t, err)
				require.Equal(t, TxAborted, e.Outcome)
				require.Empty(t, e.Rejected)
			}
			return err == nil
		}, "it goes through in smaller requests")
		t.Logf("%d tries, requests of %d bytes", tries, tr.batchBytes)
		require.Less(t, tr.batchBytes, 40000)
		require.ElementsMatch(t, values(tx.Messages[:300]), r.settle(t, cfg, plan.Results, 1))
	})
}

// Credentials and settings that no retry helps are told at once.
func TestHopelessInit(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	for _, err := range []*kerr.Error{kerr.TransactionalIDAuthorizationFailed, kerr.InvalidTransactionTimeout} {
		tr := newTransactor(t, cfg, unique())
		fault := e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: err, TopLevel: true, Count: -1})
		got := tr.Init(within(t, patience))
		require.Equal(t, ClassFatal, Classify(got), "%v", got)
		require.Equal(t, TxFatal, txError(t, tr.Commit(within(t, patience), &Transaction{Messages: messages("x", "x", 1, 1)})).Outcome)
		fault.Remove()
		require.NoError(t, tr.Init(within(t, patience)), "it was put right")
	}
	cfg.Properties = map[string]string{"no.such": "property"}
	_, err := NewTransactor(cfg, "x", testLog(t))
	require.Equal(t, ClassFatal, Classify(err))
}
