//go:build !race

package kafka

import (
	"testing"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
)

// TestQueueingAllocatesNothing: what a transaction's messages cost is librdkafka's alone.
func TestQueueingAllocatesNothing(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1") // nobody: they stay in the queue
	m := cfg.common()
	m["queue.buffering.max.messages"] = 1_000_000
	p, err := ck.NewProducer(&m)
	require.NoError(t, err)
	defer p.Close()
	out, err := newOutbox(p)
	require.NoError(t, err)
	defer out.close()
	ms := batchOf("topic", 1000)
	for i := range ms {
		ms[i].Headers = []Header{{Key: "content-type", Value: []byte("application/msgpack")}}
	}
	produce := func() {
		n, err := out.produce(ms)
		require.NoError(t, err)
		require.Equal(t, len(ms), n)
	}
	produce()
	require.LessOrEqual(t, testing.AllocsPerRun(20, produce), 20.0, "for 1000 messages")
	require.NoError(t, p.Purge(ck.PurgeQueue))
}
