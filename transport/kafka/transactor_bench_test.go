package kafka

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// batchOf is what a member commits at once: results by key, to 16 partitions.
func batchOf(topic string, n int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		ms[i] = Message{Topic: topic, Partition: PartitionByKey, Key: fmt.Appendf(nil, "job-%d", i), Value: make([]byte, 128)}
	}
	return ms
}

// BenchmarkCommit commits transactions of n messages of 128 bytes and an offset.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 500, 1000, 2000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchBrokers(b, func(b *testing.B, cfg Config) {
				plan := makeTopics(b, cfg, 16)
				m := joinGroup(b, cfg, plan.Jobs)
				eventually(b, func() bool { return len(m.owned()) == 16 }, "assigned")
				tr := readyTransactor(b, cfg, unique())
				tx := &Transaction{Messages: batchOf(plan.Results, n), Topic: plan.Jobs, Offsets: map[int32]int64{0: 1}, Group: m.metadata(b)}
				require.NoError(b, tr.Commit(within(b, patience), tx))
				b.ReportAllocs()
				b.ResetTimer()
				before := cpu()
				for range b.N {
					require.NoError(b, tr.Commit(within(b, patience), tx))
				}
				used := cpu() - before
				b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/commit")
				b.ReportMetric(float64(used.Nanoseconds())/float64(b.N*n), "cpu-ns/message")
				b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "messages/s")
			})
		})
	}
}

// BenchmarkProduceBatches is the same messages by the idempotent producer, with its reports,
// waited for batch by batch.
func BenchmarkProduceBatches(b *testing.B) {
	for _, n := range []int{1000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchBrokers(b, func(b *testing.B, cfg Config) {
				cfg.Linger = time.Millisecond
				plan := makeTopics(b, cfg, 16)
				p := newTestProducer(b, cfg, func([]Delivery) {})
				ms := batchOf(plan.Results, n)
				for i := range ms {
					ms[i].Opaque = i
				}
				b.ReportAllocs()
				b.ResetTimer()
				before := cpu()
				for range b.N {
					for i := range ms {
						mustProduce(p, ms[i])
					}
					flush(b, p)
				}
				used := cpu() - before
				b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/batch")
				b.ReportMetric(float64(used.Nanoseconds())/float64(b.N*n), "cpu-ns/message")
				b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "messages/s")
			})
		})
	}
}
