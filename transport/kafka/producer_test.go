package kafka

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
)

func TestDeliveriesCarryOpaqueAndOffset(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		d := &deliveries{}
		p := newTestProducer(t, cfg, d.add)
		for i := range 1000 {
			require.NoError(t, p.Produce(Message{Topic: plan.Results, Partition: 0, Value: []byte("v"), Opaque: i}))
		}
		flush(t, p)
		require.Zero(t, p.Len())
		for i, x := range d.snapshot() {
			require.NoError(t, x.Err)
			require.Equal(t, i, x.Opaque) // one partition: in order
			require.EqualValues(t, i, x.Offset)
			require.EqualValues(t, 0, x.Partition)
		}
		s := p.Stats()
		require.Equal(t, ProducerStats{Produced: 1000, Delivered: 1000, Reachable: true, LastError: s.LastError}, s)
	})
}

// Too large by our own limit is refused at once, by the broker's at delivery;
// both are the record's fault.
func TestTooLargeIsRejected(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		d := &deliveries{}
		p := newTestProducer(t, cfg, d.add)
		err := p.Produce(Message{Topic: plan.Jobs, Value: make([]byte, cfg.MaxMessageBytes+1)})
		require.Equal(t, ClassReject, Classify(err))
		require.ErrorContains(t, err, "1000001 bytes")

		cfg.MaxMessageBytes = 4 << 20
		big := newTestProducer(t, cfg, d.add)
		require.NoError(t, big.Produce(Message{Topic: plan.Jobs, Value: bytes.Repeat([]byte("x"), 3<<20)}))
		flush(t, big)
		require.Len(t, d.snapshot(), 1)
		require.Equal(t, ClassReject, Classify(d.snapshot()[0].Err), "%v", d.snapshot()[0].Err)
		require.NoError(t, big.Produce(Message{Topic: plan.Jobs, Value: []byte("small")})) // it goes on
		flush(t, big)
		require.NoError(t, d.snapshot()[1].Err)
	})
}

func TestQueueFullAndPurgeAtClose(t *testing.T) {
	cfg := testConfig(t, freeAddr(t)) // nobody is there
	cfg.BufferingMaxMessages = 10
	d := &deliveries{}
	p := newTestProducer(t, cfg, d.add)
	for range 10 {
		require.NoError(t, p.Produce(Message{Topic: "x", Partition: PartitionByKey, Value: []byte("v")}))
	}
	err := p.Produce(Message{Topic: "x", Partition: PartitionByKey, Value: []byte("v")})
	require.ErrorIs(t, err, ErrQueueFull)
	require.Equal(t, ClassRetry, Classify(err))
	require.Equal(t, 10, p.Len())

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = p.Close(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, d.snapshot(), 10)
	for _, x := range d.snapshot() {
		require.Equal(t, ClassRetry, Classify(x.Err), "%v", x.Err)
	}
	require.ErrorIs(t, p.Produce(Message{Topic: "x"}), ErrClosed)
	require.ErrorIs(t, p.Close(ctx), ErrClosed)
	require.EqualValues(t, 1, p.Stats().QueueFull)
}

func TestFatalErrorIsReported(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 1)
	d := &deliveries{}
	p := newTestProducer(t, cfg, d.add)
	require.NoError(t, p.Err())
	require.Equal(t, ck.ErrNoError, p.client.TestFatalError(ck.ErrOutOfOrderSequenceNumber, "for the test"))
	<-p.Failed()
	require.Equal(t, ClassFatal, Classify(p.Err()))
	err := p.Produce(Message{Topic: plan.Jobs, Value: []byte("v")})
	require.Equal(t, ClassFatal, Classify(err))
	require.ErrorContains(t, err, "for the test")
}

// A topic that does not exist any more needs a restart, which creates it.
func TestUnknownTopicIsFatal(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	cfg.Properties = map[string]string{"topic.metadata.propagation.max.ms": "200"}
	d := &deliveries{}
	p := newTestProducer(t, cfg, d.add)
	require.NoError(t, p.Produce(Message{Topic: "none", Partition: PartitionByKey, Value: []byte("v")}))
	flush(t, p)
	require.Len(t, d.snapshot(), 1)
	require.Equal(t, ClassFatal, Classify(d.snapshot()[0].Err), "%v", d.snapshot()[0].Err)
	<-p.Failed()
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Class
	}{
		{nil, ClassRetry},
		{errors.New("any"), ClassRetry},
		{ck.NewError(ck.ErrTransport, "", false), ClassRetry},
		{ck.NewError(ck.ErrUnknown, "", false), ClassRetry},
		{ck.NewError(ck.ErrTopicAuthorizationFailed, "", false), ClassRetry},
		{ck.NewError(ck.ErrMsgSizeTooLarge, "", false), ClassReject},
		{ck.NewError(ck.ErrInvalidRecord, "", false), ClassReject},
		{ck.NewError(ck.ErrTransport, "", true), ClassFatal},
		{ck.NewError(ck.ErrUnknownTopic, "", false), ClassFatal},
		{wrap("x", ck.NewError(ck.ErrMsgSizeTooLarge, "", false)), ClassReject},
		{ErrQueueFull, ClassRetry},
		{ErrClosed, ClassFatal},
	} {
		require.Equal(t, c.want, Classify(c.err), "%v", c.err)
	}
	require.Equal(t, "retry reject fatal", ClassRetry.String()+" "+ClassReject.String()+" "+ClassFatal.String())
}

func TestConfigRefusals(t *testing.T) {
	ok := DefaultConfig()
	ok.Bootstrap = "a:9092, [::1]:9093"
	ok.Properties = map[string]string{"security.protocol": "SSL"}
	require.NoError(t, ok.Validate())
	for want, change := range map[string]func(*Config){
		"Bootstrap is empty":           func(c *Config) { c.Bootstrap = " " },
		`"nohost"`:                     func(c *Config) { c.Bootstrap = "nohost" },
		"1 to 65535":                   func(c *Config) { c.Bootstrap = "a:0" },
		"host is empty":                func(c *Config) { c.Bootstrap = ":9092" },
		"ClientID":                     func(c *Config) { c.ClientID = "" },
		"Group is":                     func(c *Config) { c.Group = "" },
		"SessionTimeout is":            func(c *Config) { c.SessionTimeout = 0 },
		"MaxPollInterval (2s)":         func(c *Config) { c.MaxPollInterval = 2 * time.Second },
		"Linger is":                    func(c *Config) { c.Linger = -1 },
		"BatchRecords is":              func(c *Config) { c.BatchRecords = 0 },
		"QueuedMaxKBytes is":           func(c *Config) { c.QueuedMaxKBytes = 0 },
		"BufferingMaxKBytes is":        func(c *Config) { c.BufferingMaxKBytes = 0 },
		"BufferingMaxKBytes (10":       func(c *Config) { c.BufferingMaxKBytes = 10 },
		"BufferingMaxMessages is":      func(c *Config) { c.BufferingMaxMessages = 0 },
		"MaxMessageBytes is":           func(c *Config) { c.MaxMessageBytes = 1 },
		`"group.id" is set by Roost`:   func(c *Config) { c.Properties = map[string]string{"group.id": "x"} },
		`"acks" is set by Roost`:       func(c *Config) { c.Properties = map[string]string{"acks": "1"} },
		`"partitioner" is set`:         func(c *Config) { c.Properties = map[string]string{"partitioner": "random"} },
		`"transactional.id" is set`:    func(c *Config) { c.Properties = map[string]string{"transactional.id": "x"} },
		`"go.batch.producer" is not a`: func(c *Config) { c.Properties = map[string]string{"go.batch.producer": "true"} },
	} {
		cfg := ok
		change(&cfg)
		require.ErrorContains(t, cfg.Validate(), want)
		_, err := NewProducer(cfg, testLog(t), func([]Delivery) {})
		require.ErrorContains(t, err, want)
	}
	_, err := NewProducer(ok, testLog(t), nil)
	require.ErrorContains(t, err, "onDelivery")
}
