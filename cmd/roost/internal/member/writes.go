package member

import (
	"context"
	"fmt"
	"strconv"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol/record"
	"github.com/roost-server/roost/transport/kafka"
)

// contentTypes are the headers of what we write, by encoding.
var contentTypes = [...][]kafka.Header{
	record.Msgpack: {{Key: record.HeaderContentType, Value: []byte(record.Msgpack.ContentType())}},
	record.JSON:    {{Key: record.HeaderContentType, Value: []byte(record.JSON.ContentType())}},
}

// message turns a shard's write into a record for Kafka.
func (c *committer) message(partition uint32, w *shard.Write) kafka.Message {
	m := kafka.Message{Partition: kafka.PartitionByKey, Key: w.Key, Value: w.Value}
	switch w.Stream {
	case shard.State:
		m.Topic, m.Partition = c.topics.State, int32(partition)
	case shard.Dead:
		m.Topic, m.Key, m.Value = c.topics.Dead, w.Record.Key, w.Record.Value
		m.Headers = deadHeaders(c.topics.Jobs, partition, w.Record, w.Reason)
	case shard.Progress:
		m.Topic, m.Headers = c.topics.Progress, contentTypes[w.Encoding]
	default:
		m.Topic, m.Headers = c.topics.Results, contentTypes[w.Encoding]
	}
	return m
}

// deadHeaders say why a record was refused and where it lay, beside its own headers.
func deadHeaders(topic string, partition uint32, r *actors.Record, reason string) []kafka.Header {
	headers := make([]kafka.Header, 0, 5+len(r.Headers))
	headers = append(headers,
		kafka.Header{Key: record.HeaderReason, Value: []byte(reason)},
		kafka.Header{Key: record.HeaderTopic, Value: []byte(topic)},
		kafka.Header{Key: record.HeaderPartition, Value: strconv.AppendUint(nil, uint64(partition), 10)},
		kafka.Header{Key: record.HeaderOffset, Value: strconv.AppendInt(nil, r.Offset, 10)})
	if r.ContentType != "" {
		headers = append(headers, kafka.Header{Key: record.HeaderContentType, Value: []byte(r.ContentType)})
	}
	for _, h := range r.Headers {
		headers = append(headers, kafka.Header(h))
	}
	return headers
}

// ours reports whether a header is of those that a dead record gets. A job record that
// was a dead one before, and is still wrong, gets new ones.
func ours(key string) bool {
	switch key {
	case record.HeaderReason, record.HeaderTopic, record.HeaderPartition, record.HeaderOffset:
		return true
	}
	return false
}

// submitter writes the records that the API takes to the jobs topic.
type submitter struct {
	producer *kafka.Producer
	topic    string
}

// submitted is what a submission waits on.
type submitted struct{ done chan error }

// Submit writes a job record, to the partition given or by its key, and waits until
// Kafka has it.
func (s *submitter) Submit(ctx context.Context, j *record.Job, partition int32) error {
	value, err := record.AppendJob(nil, j)
	if err != nil {
		return err
	}
	w := &submitted{done: make(chan error, 1)}
	if err := s.producer.Produce(kafka.Message{Topic: s.topic, Partition: partition, Key: []byte(j.Key()), Value: value,
		Headers: contentTypes[j.Encoding], Opaque: w}); err != nil {
		return fmt.Errorf("submit job %q: %w", j.ID, err)
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// delivered is called by the producer's goroutine with what Kafka said.
func (s *submitter) delivered(ds []kafka.Delivery) {
	for i := range ds {
		if w, ok := ds[i].Opaque.(*submitted); ok {
			w.done <- ds[i].Err
		}
	}
}
