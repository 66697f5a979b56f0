package kafka

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestAbortedRecordsStayHiddenInFullFetches checks that a reader whose answers are full does
// not get what aborted transactions left.
func TestAbortedRecordsStayHiddenInFullFetches(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 4)
	writer, err := kgo.NewClient(kgo.SeedBrokers(e.Addr()), kgo.TransactionalID("writer"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer writer.Close()
	value := make([]byte, 1000)
	for round := range 20 {
		commit := kgo.TransactionEndTry(round%4 == 3)
		require.NoError(t, writer.BeginTransaction())
		for i := range 200 {
			r := &kgo.Record{Topic: plan.Jobs, Partition: int32(i % 4), Key: fmt.Append(nil, bool(commit)), Value: value}
			require.NoError(t, writer.ProduceSync(t.Context(), r).FirstErr())
		}
		require.NoError(t, writer.EndTransaction(t.Context(), commit))
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(e.Addr()), kgo.ConsumeTopics(plan.Jobs), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(20_000), kgo.FetchMaxPartitionBytes(15_000))
	require.NoError(t, err)
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for got := 0; got < 5*200; {
		fetches := reader.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			require.Equal(t, "true", string(r.Key))
			got++
		})
	}
}
