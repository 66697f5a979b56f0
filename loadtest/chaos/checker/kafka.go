package checker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topics are the names of Roost's topics.
type Topics struct{ Jobs, Results, Dead, Progress, State string }

// NewTopics returns the names with a prefix such as "roost.".
func NewTopics(prefix string) Topics {
	return Topics{prefix + "jobs", prefix + "results", prefix + "dead", prefix + "progress", prefix + "state"}
}

var errNoTopic = errors.New("there is no such topic")

func newClient(brokers []string, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.ClientID("chaos-checker"),
		kgo.DisableClientMetrics(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the ends of transactions
		kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.FetchMaxPartitionBytes(4 << 20),
		kgo.RetryTimeout(5 * time.Second),
		kgo.MetadataMinAge(100 * time.Millisecond), // a broker may just have been restarted
	}, opts...)...)
}

// partitionsOf returns how many partitions a topic has.
func partitionsOf(ctx context.Context, cl *kgo.Client, topic string) (int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, err
	}
	if len(resp.Topics) != 1 {
		return 0, fmt.Errorf("topic %s: Kafka does not describe it", topic)
	}
	err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return 0, fmt.Errorf("topic %s: %w", topic, errNoTopic)
	}
	return int32(len(resp.Topics[0].Partitions)), err
}

// Where a log begins and ends, for offsets.
const (
	earliest = -2
	latest   = -1
)

// offsets asks for the first or the end offset of each partition, of all records,
// committed or not.
func offsets(ctx context.Context, cl *kgo.Client, which int64, partitions map[string]int32) (map[string][]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	out := map[string][]int64{}
	missing := 0
	for topic, n := range partitions {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		out[topic] = make([]int64, n)
		for p := range n {
			q := kmsg.NewListOffsetsRequestTopicPartition()
			q.Partition, q.Timestamp = p, which
			t.Partitions = append(t.Partitions, q)
			missing++
		}
		req.Topics = append(req.Topics, t)
	}
	for _, shard := range cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, shard.Err
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("offsets of %s/%d: %w", t.Topic, p.Partition, err)
				}
				out[t.Topic][p.Partition] = p.Offset
				missing--
			}
		}
	}
	if missing > 0 {
		return nil, fmt.Errorf("offsets: %d partitions without an answer", missing)
	}
	return out, nil
}

// stuckAfter is how long a topic may show no new committed record before its end: a
// transaction that a dead producer left open ends by itself long before.
const stuckAfter = 60 * time.Second

// readAll hands every committed record of a topic to fn, those of one partition in
// order, control records too. It returns the end offsets, which are of the moment of
// the call.
func readAll(ctx context.Context, brokers []string, topic string, fn func(*kgo.Record)) ([]int64, error) {
	cl, err := newClient(brokers)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	n, err := partitionsOf(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	begins, err := offsets(ctx, cl, earliest, map[string]int32{topic: n})
	if err != nil {
		return nil, err
	}
	ends, err := offsets(ctx, cl, latest, map[string]int32{topic: n})
	if err != nil {
		return nil, err
	}
	end := ends[topic]
	at := map[int32]kgo.Offset{}
	open := map[int32]bool{}
	for p := range n {
		if begins[topic][p] < end[p] {
			at[p], open[p] = kgo.NewOffset().At(begins[topic][p]), true
		}
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: at})
	moved := time.Now()
	for len(open) > 0 {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		fetches.EachRecord(func(r *kgo.Record) {
			moved = time.Now()
			if r.Offset >= end[r.Partition] {
				delete(open, r.Partition)
				return
			}
			fn(r)
			if r.Offset == end[r.Partition]-1 {
				delete(open, r.Partition)
			}
		})
		if time.Since(moved) > stuckAfter {
			return nil, fmt.Errorf("topic %s: nothing new for %v, and partitions %v are not read to their ends %v: is a transaction left open?", topic, stuckAfter, open, end)
		}
	}
	return end, nil
}

// committedOffsets returns what a group has committed; -1 where nothing is.
func committedOffsets(ctx context.Context, brokers []string, group, topic string, n int32) ([]int64, error) {
	cl, err := newClient(brokers)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.RequireStable = group, true
	t := kmsg.NewOffsetFetchRequestTopic()
	t.Topic = topic
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic = topic
	for p := range n {
		t.Partitions = append(t.Partitions, p)
		gt.Partitions = append(gt.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	g.Topics = append(g.Topics, gt)
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = -1
	}
	for _, g := range resp.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return nil, err
		}
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				out[p.Partition] = p.Offset
			}
		}
	}
	for _, t := range resp.Topics { // brokers of before version 8 of the request
		for _, p := range t.Partitions {
			out[p.Partition] = p.Offset
		}
	}
	return out, nil
}

// EndOffsets returns the end offset of each partition of a topic, of all records.
func EndOffsets(ctx context.Context, brokers []string, topic string) ([]int64, error) {
	cl, err := newClient(brokers)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	n, err := partitionsOf(ctx, cl, topic)
	if err != nil {
		return nil, err
	}
	ends, err := offsets(ctx, cl, latest, map[string]int32{topic: n})
	return ends[topic], err
}
