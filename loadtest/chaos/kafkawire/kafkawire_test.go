package kafkawire

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "topic"

// start returns a proxy before a broker of its own.
func start(t *testing.T, mend bool) *Proxy {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	p, err := New(mend)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	p.SetTarget(c.ListenAddrs()[0])
	return p
}

func client(t *testing.T, p *Proxy, opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(p.Addr()), kgo.DefaultProduceTopic(topic), kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(10 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond })}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestNames sees that clients learn no other address than the proxy's.
func TestNames(t *testing.T) {
	p := start(t, false)
	cl := client(t, p)
	host, port, err := net.SplitHostPort(p.Addr())
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)

	md, err := kmsg.NewPtrMetadataRequest().RequestWith(deadline(t), cl)
	require.NoError(t, err)
	require.Len(t, md.Brokers, 1)
	require.Equal(t, fmt.Sprint(host, n), fmt.Sprint(md.Brokers[0].Host, md.Brokers[0].Port))
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = "group", []string{"group"}
	found, err := find.RequestWith(deadline(t), cl)
	require.NoError(t, err)
	require.Len(t, found.Coordinators, 1)
	require.Equal(t, fmt.Sprint(host, n), fmt.Sprint(found.Coordinators[0].Host, found.Coordinators[0].Port))
	described, err := kmsg.NewPtrDescribeClusterRequest().RequestWith(deadline(t), cl)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(host, n), fmt.Sprint(described.Brokers[0].Host, described.Brokers[0].Port))
}

// count reads the topic and returns how many records it has.
func count(t *testing.T, p *Proxy, want int) {
	t.Helper()
	reader := client(t, p, kgo.ConsumeTopics(topic))
	seen := 0
	for ctx := deadline(t); seen < want; {
		seen += len(reader.PollFetches(ctx).Records())
		require.NoError(t, ctx.Err(), "%d of %d", seen, want)
	}
	require.Equal(t, want, seen)
}

// TestProduce troubles an idempotent producer in every way: each record is written
// once.
func TestProduce(t *testing.T) {
	p := start(t, false)
	cl := client(t, p, kgo.ProducerLinger(0))
	require.NoError(t, cl.ProduceSync(deadline(t), kgo.StringRecord("first")).FirstErr())
	for _, tr := range []Trouble{
		{Do: Answer, Code: kerr.NotLeaderForPartition.Code, Count: 2},
		{Do: AnswerAfter, Code: kerr.RequestTimedOut.Code, Count: 1},
		{Do: DropBefore, Count: 2},
		{Do: DropAfter, Count: 2},
		{Do: Late, Delay: 50 * time.Millisecond, Count: 2},
	} {
		tr.Key, tr.Within = kmsg.Produce, time.Minute
		p.Add(tr)
	}
	for range 20 {
		require.NoError(t, cl.ProduceSync(deadline(t), kgo.StringRecord("more")).FirstErr())
	}
	require.Empty(t, p.list, "all of it has happened")
	count(t, p, 21)
}

// TestTransactions does the same to transactions that a consumer group takes part in.
func TestTransactions(t *testing.T) {
	p := start(t, false)
	require.NoError(t, client(t, p).ProduceSync(deadline(t), kgo.StringRecord("in")).FirstErr())
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(p.Addr()), kgo.DefaultProduceTopic(topic), kgo.TransactionalID("id"),
		kgo.ConsumeTopics(topic), kgo.ConsumerGroup("group"), kgo.DisableClientMetrics(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer s.Close()
	for _, key := range []kmsg.Key{kmsg.FindCoordinator, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.OffsetFetch, kmsg.ListOffsets, kmsg.Fetch,
		kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit, kmsg.EndTxn, kmsg.Heartbeat} {
		code := kerr.CoordinatorLoadInProgress.Code
		if key == kmsg.ListOffsets || key == kmsg.Fetch {
			code = kerr.NotLeaderForPartition.Code
		}
		p.Add(Trouble{Key: key, Count: 1, Within: time.Minute, Do: Answer, Code: code})
		p.Add(Trouble{Key: key, Count: 1, Within: time.Minute, Do: DropAfter})
	}
	ctx := deadline(t)
	for done := false; !done; {
		fetches := s.PollFetches(ctx)
		require.NoError(t, ctx.Err())
		if fetches.NumRecords() == 0 {
			continue
		}
		require.NoError(t, s.Begin())
		s.Produce(ctx, kgo.StringRecord("out"), nil)
		done, err = s.End(ctx, kgo.TryCommit)
		require.NoError(t, err)
	}
}

// TestMend has a group member vanish while it waits to join: it does not keep the
// others out.
func TestMend(t *testing.T) {
	p := start(t, true)
	require.NoError(t, client(t, p).ProduceSync(deadline(t), kgo.StringRecord("in")).FirstErr())
	join := func(cl *kgo.Client, id string) (*kmsg.JoinGroupResponse, error) {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Group, req.MemberID, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = "group", id, "consumer", 6000, 60_000
		protocol := kmsg.NewJoinGroupRequestProtocol()
		protocol.Name = "range"
		req.Protocols = append(req.Protocols, protocol)
		return req.RequestWith(deadline(t), cl)
	}
	leader := client(t, p)
	first, err := join(leader, "")
	require.NoError(t, err)
	one, err := join(leader, first.MemberID)
	require.NoError(t, err)
	require.Zero(t, one.ErrorCode)
	other, err := kgo.NewClient(kgo.SeedBrokers(p.Addr()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	second, err := join(other, "")
	require.NoError(t, err)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = join(other, second.MemberID) // it waits for the leader to join again
	}()
	require.Eventually(t, func() bool {
		p.mender.mu.Lock()
		defer p.mender.mu.Unlock()
		return p.mender.members[second.MemberID] != nil
	}, 20*time.Second, time.Millisecond)
	other.Close()
	<-gone
	two, err := join(leader, first.MemberID)
	require.NoError(t, err)
	require.Zero(t, two.ErrorCode)
	require.Eventually(t, func() bool { return p.Mended() > 0 || len(p.mender.overdue()) == 0 && !p.mender.knows(second.MemberID) }, 20*time.Second, 10*time.Millisecond)
}

func (m *mender) knows(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.members[id] != nil
}

// TestHeal ends what would go on.
func TestHeal(t *testing.T) {
	p := start(t, false)
	cl := client(t, p, kgo.RecordRetries(0), kgo.DisableIdempotentWrite())
	p.Add(Trouble{Key: kmsg.Produce, Count: 1000, Within: time.Minute, Do: Answer, Code: kerr.InvalidRequiredAcks.Code})
	require.ErrorIs(t, cl.ProduceSync(deadline(t), kgo.StringRecord("refused")).FirstErr(), kerr.InvalidRequiredAcks)
	p.Heal()
	require.NoError(t, cl.ProduceSync(deadline(t), kgo.StringRecord("taken")).FirstErr())
	p.Add(Trouble{Key: kmsg.Produce, Count: 1000, Within: 0, Do: Answer, Code: kerr.InvalidRequiredAcks.Code})
	require.NoError(t, cl.ProduceSync(deadline(t), kgo.StringRecord("too late for trouble")).FirstErr())
	count(t, p, 2)
}

// TestFailed sees that every answer that is made up can be read, in every version.
func TestFailed(t *testing.T) {
	for _, key := range []kmsg.Key{kmsg.Produce, kmsg.Fetch, kmsg.ListOffsets, kmsg.OffsetFetch, kmsg.FindCoordinator, kmsg.JoinGroup,
		kmsg.Heartbeat, kmsg.SyncGroup, kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn, kmsg.EndTxn, kmsg.TxnOffsetCommit} {
		for version := range kmsg.RequestForKey(int16(key)).MaxVersion() + 1 {
			req := kmsg.RequestForKey(int16(key))
			req.SetVersion(version)
			resp := failed(filled(req), 42)
			if resp == nil {
				require.True(t, key == kmsg.AddPartitionsToTxn && version >= 4, "%v version %d", key, version) // between brokers
				continue
			}
			back := req.ResponseKind()
			back.SetVersion(version)
			require.NoError(t, back.ReadFrom(resp.AppendTo(nil)), "%s version %d", key.Name(), version)
		}
	}
	require.Nil(t, failed(kmsg.NewPtrMetadataRequest(), 42))
}

// filled gives a request something that can fail.
func filled(req kmsg.Request) kmsg.Request {
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		r.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: make([]kmsg.ProduceRequestTopicPartition, 2)}}
	case *kmsg.FetchRequest:
		r.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: make([]kmsg.FetchRequestTopicPartition, 2)}}
	case *kmsg.ListOffsetsRequest:
		r.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: make([]kmsg.ListOffsetsRequestTopicPartition, 2)}}
	case *kmsg.OffsetFetchRequest:
		r.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "group"}}
	case *kmsg.FindCoordinatorRequest:
		r.CoordinatorKeys = []string{"group"}
	case *kmsg.AddPartitionsToTxnRequest:
		if r.Version < 4 {
			r.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: topic, Partitions: []int32{0, 1}}}
		}
	case *kmsg.TxnOffsetCommitRequest:
		r.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: topic, Partitions: make([]kmsg.TxnOffsetCommitRequestTopicPartition, 2)}}
	}
	return req
}
