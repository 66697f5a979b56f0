package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// setupTimeout bounds each question to Kafka before the first job.
const setupTimeout = 10 * time.Second

// linger is how long a batch waits for more records. It adds to every latency, so it is
// as short as keeps batches at high rates large.
const linger = time.Millisecond

// fetchWait is how long the broker holds a fetch when there is nothing. It answers at
// the first committed byte; should it miss one, this is how late the reader may be.
const fetchWait = 20 * time.Millisecond

// newClient makes the client for both directions. Results are read committed, as their
// readers do: an outcome counts once its transaction has ended.
func newClient(brokers []string, most int) (*kgo.Client, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ClientID("roost-loadtest"),
		kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(100*time.Millisecond),       // a leader that is not one yet is asked for again soon
		kgo.RecordPartitioner(kgo.ManualPartitioner()), // the partition of each node is known beforehand
		kgo.ProducerLinger(linger),
		kgo.ProducerBatchCompression(kgo.NoCompression()), // args would compress like no real ones
		kgo.MaxBufferedRecords(most+1),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxPartitionBytes(4<<20),
		kgo.FetchMinBytes(1),
		kgo.FetchMaxWait(fetchWait),
	)
	if err != nil {
		return nil, fmt.Errorf("--kafka %v: %w", brokers, err)
	}
	return cl, nil
}

// Partitions returns how many partitions a topic has.
func Partitions(ctx context.Context, brokers []string, topic string) (int32, error) {
	cl, err := newClient(brokers, 1)
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	return partitions(ctx, cl, topic)
}

// partitions returns how many partitions a topic has.
func partitions(ctx context.Context, cl *kgo.Client, topic string) (int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, fmt.Errorf("cannot reach Kafka: %w", err)
	}
	if len(resp.Topics) != 1 {
		return 0, fmt.Errorf("Kafka does not describe topic %s", topic)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			return 0, fmt.Errorf("Kafka has no topic %s: start the server first, which makes its topics, or check --topic-prefix", topic)
		}
		return 0, fmt.Errorf("topic %s: %w", topic, err)
	}
	n := int32(len(resp.Topics[0].Partitions))
	if n == 0 {
		return 0, fmt.Errorf("topic %s has no partitions", topic)
	}
	return n, nil
}

// endOffsets returns where the next record of each partition will lie.
func endOffsets(ctx context.Context, cl *kgo.Client, topic string, n int32) (map[int32]kgo.Offset, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = 1 // read committed
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for p := range n {
		q := kmsg.NewListOffsetsRequestTopicPartition()
		q.Partition, q.Timestamp = p, -1
		t.Partitions = append(t.Partitions, q)
	}
	req.Topics = append(req.Topics, t)
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("end offsets of %s: %w", topic, err)
	}
	out := make(map[int32]kgo.Offset, n)
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("end offset of %s/%d: %w", topic, p.Partition, err)
			}
			out[p.Partition] = kgo.NewOffset().At(p.Offset)
		}
	}
	if len(out) != int(n) {
		return nil, fmt.Errorf("end offsets of %s: %d of %d partitions answered", topic, len(out), n)
	}
	return out, nil
}
