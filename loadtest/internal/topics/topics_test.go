package topics

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCreateAndDelete(t *testing.T) {
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "other"))
	require.NoError(t, err)
	defer b.Close()
	ctx, brokers := context.Background(), b.ListenAddrs()
	require.NoError(t, Create(ctx, brokers, 5, "a", "b"))
	require.ErrorIs(t, Create(ctx, brokers, 5, "c", "b"), kerr.TopicAlreadyExists)

	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("a"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer cl.Close()
	require.NoError(t, cl.ProduceSync(ctx, &kgo.Record{Topic: "a", Value: []byte("x")}).FirstErr())
	poll, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	require.Len(t, cl.PollFetches(poll).Records(), 1)
	names := func() []string {
		up, err := served(ctx, cl, []string{"a", "b", "other"})
		require.NoError(t, err)
		if up {
			return []string{"a", "b", "other"}
		}
		up, err = served(ctx, cl, []string{"other"})
		require.NoError(t, err)
		require.True(t, up)
		return []string{"other"}
	}
	require.Len(t, names(), 3)

	// The group goes once its member has left.
	left := make(chan error, 1)
	go func() { left <- Delete(ctx, brokers, []string{"g", "unknown"}, "a", "b", "c", "unknown") }()
	require.Eventually(t, func() bool { return len(names()) == 1 }, 10*time.Second, 10*time.Millisecond)
	select {
	case err := <-left:
		require.Fail(t, "the group has a member still", "%v", err)
	default:
	}
	cl.LeaveGroup()
	require.NoError(t, <-left)
	require.NoError(t, Delete(ctx, brokers, []string{"g"}, "a", "b"), "what is gone already is no error")
}

func TestBrokersThatAreNotThere(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	require.ErrorContains(t, Create(ctx, []string{"127.0.0.1:1"}, 1, "a"), "cannot reach Kafka")
	require.ErrorContains(t, Delete(ctx, []string{"127.0.0.1:1"}, []string{"g"}, "a"), "cannot be deleted")
	require.ErrorContains(t, Create(ctx, []string{"a b:x"}, 1, "a"), "--kafka [a b:x]")
}
