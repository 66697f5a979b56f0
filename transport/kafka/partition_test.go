package kafka

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol/record"
)

// The producer must put keys where record.Partition says, for shards and nodes are
// found by it.
func TestPartitionMatchesProducer(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		const partitions = 7
		plan := makeTopics(t, cfg, partitions)
		d := &deliveries{}
		p := newTestProducer(t, cfg, d.add)
		for i := range 500 {
			key := []byte(fmt.Sprintf("%x", i*i*i))[:min(1+i%9, len(fmt.Sprintf("%x", i*i*i)))]
			if i%10 == 0 {
				key = []byte{byte(i), 0xff, 0x80, byte(i >> 8)}
			}
			require.NoError(t, p.Produce(Message{Topic: plan.Jobs, Partition: PartitionByKey, Key: key, Value: key, Opaque: string(key)}))
		}
		flush(t, p)
		used := map[int32]bool{}
		for _, x := range d.snapshot() {
			require.NoError(t, x.Err)
			require.Equal(t, record.Partition(x.Opaque.(string), partitions), x.Partition, "key %q", x.Opaque)
			used[x.Partition] = true
		}
		require.Len(t, used, partitions)
	})
}
