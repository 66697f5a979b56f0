package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// newTransactor makes one that is not initialised; it is closed at the end.
func newTransactor(t testing.TB, cfg Config, id string) *Transactor {
	t.Helper()
	tr, err := NewTransactor(cfg, id, testLog(t))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = tr.Close(ctx)
	})
	return tr
}

func readyTransactor(t testing.TB, cfg Config, id string) *Transactor {
	t.Helper()
	tr := newTransactor(t, cfg, id)
	require.NoError(t, tr.Init(within(t, patience)))
	return tr
}

// messages are n of them with values prefix0.., in turn to the partitions of the topic.
func messages(topic, prefix string, n, partitions int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		v := []byte(fmt.Sprintf("%s%d", prefix, i))
		ms[i] = Message{Topic: topic, Partition: int32(i % partitions), Key: v, Value: v}
	}
	return ms
}

func values(ms []Message) []string {
	var vs []string
	for _, m := range ms {
		vs = append(vs, string(m.Value))
	}
	return vs
}

func txError(t testing.TB, err error) *TxError {
	t.Helper()
	var e *TxError
	require.True(t, errors.As(err, &e), "%v", err)
	return e
}

// reader reads a topic from its beginning, read_committed.
type reader struct {
	mu   sync.Mutex
	seen []string
	ends map[string]bool // end marks, see settle
}

func readCommitted(t testing.TB, addr string, topics ...string) *reader {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topics...), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	r := &reader{ends: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fs := cl.PollFetches(ctx)
			r.mu.Lock()
			fs.EachRecord(func(rec *kgo.Record) {
				if v := string(rec.Value); strings.HasPrefix(v, endMark) {
					r.ends[v] = true
				} else {
					r.seen = append(r.seen, v)
				}
			})
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done; cl.Close() })
	return r
}

func (r *reader) values() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

func (r *reader) has(value string) bool { return slices.Contains(r.values(), value) }

const endMark = "end of "

// settle writes an end mark to each partition and waits until all of them are seen: what
// comes before has been seen by then, or never will be. It returns that.
func (r *reader) settle(t testing.TB, cfg Config, topic string, partitions int) []string {
	t.Helper()
	marks := messages(topic, endMark+unique(), partitions, partitions)
	d := &deliveries{}
	p := newTestProducer(t, cfg, d.add)
	for _, m := range marks {
		require.NoError(t, p.Produce(m))
	}
	flush(t, p)
	eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, m := range marks {
			if !r.ends[string(m.Value)] {
				return false
			}
		}
		return true
	}, "the end of the topic is seen")
	return r.values()
}

// groupMember is a raw member of the group.
type groupMember struct {
	c *ck.Consumer

	mu       sync.Mutex
	assigned map[int32]bool
	quit     chan struct{}
	done     chan struct{}
}

func joinGroup(t testing.TB, cfg Config, topic string) *groupMember {
	t.Helper()
	c, err := ck.NewConsumer(&ck.ConfigMap{
		"bootstrap.servers": cfg.Bootstrap, "group.id": cfg.Group, "enable.auto.commit": false,
		"auto.offset.reset": "earliest", "isolation.level": "read_committed",
		"partition.assignment.strategy": "cooperative-sticky",
		"session.timeout.ms":            int(cfg.SessionTimeout.Milliseconds()), "heartbeat.interval.ms": 100,
		"max.poll.interval.ms": 60000, "enable.metrics.push": false, "log_level": 0,
		"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 100,
	})
	require.NoError(t, err)
	m := &groupMember{c: c, assigned: map[int32]bool{}, quit: make(chan struct{}), done: make(chan struct{})}
	require.NoError(t, c.Subscribe(topic, func(c *ck.Consumer, ev ck.Event) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch e := ev.(type) {
		case ck.AssignedPartitions:
			for _, tp := range e.Partitions {
				m.assigned[tp.Partition] = true
			}
			return c.IncrementalAssign(e.Partitions)
		case ck.RevokedPartitions:
			for _, tp := range e.Partitions {
				delete(m.assigned, tp.Partition)
			}
			return c.IncrementalUnassign(e.Partitions)
		}
		return nil
	}))
	go func() {
		defer close(m.done)
		for {
			select {
			case <-m.quit:
				return
			default:
				c.Poll(20)
			}
		}
	}()
	t.Cleanup(m.leave)
	return m
}

func (m *groupMember) leave() {
	select {
	case <-m.quit:
	default:
		close(m.quit)
		<-m.done
		_ = m.c.Close()
	}
}

func (m *groupMember) owned() []int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.assigned))
}

func (m *groupMember) metadata(t testing.TB) *GroupMetadata {
	t.Helper()
	meta, err := m.c.GetConsumerGroupMetadata()
	require.NoError(t, err)
	return &GroupMetadata{meta: meta}
}

// committedOffset asks the broker; -1: none.
func committedOffset(t testing.TB, m *groupMember, topic string, partition int32) int64 {
	t.Helper()
	var offset int64
	eventually(t, func() bool {
		tps, err := m.c.Committed([]ck.TopicPartition{{Topic: &topic, Partition: partition}}, 5000)
		if err != nil || tps[0].Error != nil {
			return false
		}
		offset = max(-1, int64(tps[0].Offset))
		return true
	}, "the committed offset is known")
	return offset
}

func setTopic(t testing.TB, cfg Config, topic, name, value string) {
	t.Helper()
	a, err := ck.NewAdminClient(&ck.ConfigMap{"bootstrap.servers": cfg.Bootstrap, "enable.metrics.push": false})
	require.NoError(t, err)
	defer a.Close()
	res, err := a.IncrementalAlterConfigs(within(t, patience), []ck.ConfigResource{{Type: ck.ResourceTopic, Name: topic,
		Config: []ck.ConfigEntry{{Name: name, Value: value, IncrementalOperation: ck.AlterConfigOpTypeSet}}}})
	require.NoError(t, err)
	require.Equal(t, ck.ErrNoError, res[0].Error.Code())
}

func growTopic(t testing.TB, cfg Config, topic string, partitions int) {
	t.Helper()
	a, err := ck.NewAdminClient(&ck.ConfigMap{"bootstrap.servers": cfg.Bootstrap, "enable.metrics.push": false})
	require.NoError(t, err)
	defer a.Close()
	res, err := a.CreatePartitions(within(t, patience), []ck.PartitionsSpecification{{Topic: topic, IncreaseTo: partitions}})
	require.NoError(t, err)
	require.Equal(t, ck.ErrNoError, res[0].Error.Code())
}

func createTopic(t testing.TB, cfg Config, topic string) {
	t.Helper()
	a, err := ck.NewAdminClient(&ck.ConfigMap{"bootstrap.servers": cfg.Bootstrap, "enable.metrics.push": false})
	require.NoError(t, err)
	defer a.Close()
	res, err := a.CreateTopics(within(t, patience), []ck.TopicSpecification{{Topic: topic, NumPartitions: 1, ReplicationFactor: 1}})
	require.NoError(t, err)
	require.Equal(t, ck.ErrNoError, res[0].Error.Code())
}
