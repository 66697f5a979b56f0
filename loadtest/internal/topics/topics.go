// Package topics makes the topics of a measurement, and removes them after it, so that
// a broker is afterwards what it was before.
package topics

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// timeout bounds each function of this package.
const timeout = 20 * time.Second

func client(brokers []string) (*kgo.Client, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ClientID("roost-loadtest"), kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(20*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("--kafka %v: %w", brokers, err)
	}
	return cl, nil
}

// Create makes topics with so many partitions and the broker's own replication, and
// returns when the broker can serve them. A topic that is there already is an error.
func Create(ctx context.Context, brokers []string, partitions int32, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cl, err := client(brokers)
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = int32(timeout.Milliseconds())
	for _, name := range names {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, -1
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("cannot reach Kafka: %w", err)
	}
	for i := range resp.Topics {
		if err := kerr.ErrorForCode(resp.Topics[i].ErrorCode); err != nil {
			return fmt.Errorf("topic %s cannot be created: %w", resp.Topics[i].Topic, err)
		}
	}
	for {
		up, err := served(ctx, cl, names)
		if err == nil && up {
			up, err = answer(ctx, cl, partitions, names)
		}
		if err != nil || up {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topics %v were created, but have no leaders: %w", names, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// served reports whether all partitions of the topics have a leader.
func served(ctx context.Context, cl *kgo.Client, names []string) (bool, error) {
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return false, fmt.Errorf("topics %v: %w", names, err)
	}
	for _, t := range resp.Topics {
		if t.ErrorCode != 0 || len(t.Partitions) == 0 {
			return false, nil
		}
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return false, nil
			}
		}
	}
	return len(resp.Topics) == len(names), nil
}

// answer reports whether the leaders of all partitions know that they are leaders: a
// broker tells of a topic in its metadata before.
func answer(ctx context.Context, cl *kgo.Client, partitions int32, names []string) (bool, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for _, name := range names {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = name
		for p := range partitions {
			q := kmsg.NewListOffsetsRequestTopicPartition()
			q.Partition, q.Timestamp = p, -1
			t.Partitions = append(t.Partitions, q)
		}
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		if kerr.IsRetriable(err) {
			return false, nil
		}
		return false, fmt.Errorf("topics %v: %w", names, err)
	}
	n := 0
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode == 0 {
				n++
			}
		}
	}
	return n == len(names)*int(partitions), nil
}

// Delete removes topics and consumer groups. Those that are not there are no error.
func Delete(ctx context.Context, brokers, groups []string, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cl, err := client(brokers)
	if err != nil {
		return err
	}
	defer cl.Close()
	return errors.Join(deleteTopics(ctx, cl, names), deleteGroups(ctx, cl, groups))
}

func deleteTopics(ctx context.Context, cl *kgo.Client, names []string) error {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = int32(timeout.Milliseconds())
	req.TopicNames = slices.Clone(names)
	for _, name := range names {
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return fmt.Errorf("topics %v cannot be deleted: %w", names, err)
	}
	var errs []error
	for _, t := range resp.Topics {
		err := kerr.ErrorForCode(t.ErrorCode)
		if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) && t.Topic != nil {
			errs = append(errs, fmt.Errorf("topic %s cannot be deleted: %w", *t.Topic, err))
		}
	}
	return errors.Join(errs...)
}

// deleteGroups tries again while a group is not empty: who left it, or was killed, is
// a member until the broker has noticed.
func deleteGroups(ctx context.Context, cl *kgo.Client, groups []string) error {
	if len(groups) == 0 {
		return nil
	}
	for {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = groups
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return fmt.Errorf("groups %v cannot be deleted: %w", groups, err)
		}
		var last error
		for _, g := range resp.Groups {
			err := kerr.ErrorForCode(g.ErrorCode)
			if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
				last = fmt.Errorf("group %s cannot be deleted: %w", g.Group, err)
			}
		}
		if last == nil || !errors.Is(last, kerr.NonEmptyGroup) {
			return last
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(100 * time.Millisecond):
		}
	}
}
