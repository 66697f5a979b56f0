package kafka

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

const patience = 30 * time.Second

// onEachBroker runs the test against an embedded broker, and against Apache
// Kafka when ROOST_TEST_KAFKA names one.
func onEachBroker(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Parallel() // they wait, most of the time
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
		test(t, testConfig(t, e.Addr()))
	})
	if addr := os.Getenv("ROOST_TEST_KAFKA"); addr != "" {
		t.Run("apache", func(t *testing.T) {
			t.Parallel()
			test(t, testConfig(t, addr))
		})
	}
}

func startEmbedded(t testing.TB, cfg EmbeddedConfig) *Embedded {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = testLog(t)
	}
	e, err := StartEmbedded(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// testLog does not fail when librdkafka logs after the end of a test.
func testLog(t testing.TB) *zap.Logger {
	if testing.Verbose() {
		return zaptest.NewLogger(t)
	}
	return zap.NewNop()
}

var unique = func() func() string {
	var mu sync.Mutex
	n, start := 0, time.Now().UnixNano()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		n++
		return fmt.Sprintf("t%x-%d.", start, n)
	}
}()

func testConfig(t testing.TB, addr string) Config {
	cfg := DefaultConfig()
	cfg.Bootstrap = addr
	cfg.Group = "group-" + unique()
	cfg.SessionTimeout = 3 * time.Second
	require.NoError(t, cfg.Validate())
	return cfg
}

func makeTopics(t testing.TB, cfg Config, partitions int) TopicPlan {
	t.Helper()
	plan := Topics{Prefix: unique()}.Plan()
	plan.Partitions = partitions
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	info, err := EnsureTopics(ctx, cfg, plan, nil)
	require.NoError(t, err)
	require.Equal(t, partitions, info.Partitions)
	return plan
}

// recorder is a Handler that keeps what it was told. It starts each partition from the
// stable offset, unless manual.
type recorder struct {
	mu      sync.Mutex
	events  []string
	records map[int32][]Record
	owned   map[int32]bool
	name    string
	shared  *journal

	onRecords  func(p int32, rs []Record)
	onRevoked  func(ps []int32)
	onAssigned func(ps []int32)
	onLost     func(ps []int32)

	c      *Consumer
	manual bool
}

func (r *recorder) attach(c *Consumer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.c = c
}

// consumer may be called from any goroutine; r.c is for the handler's.
func (r *recorder) consumer() *Consumer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.c
}

// journal orders the events of several recorders.
type journal struct {
	mu     sync.Mutex
	events []string
}

func (j *journal) add(s string) {
	if j != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.events = append(j.events, s)
	}
}

func newRecorder(name string, j *journal) *recorder {
	return &recorder{name: name, shared: j, records: map[int32][]Record{}, owned: map[int32]bool{}}
}

func (r *recorder) event(what string, ps []int32, own bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range ps {
		r.owned[p] = own
		r.shared.add(fmt.Sprintf("%s %s %d", r.name, what, p))
	}
	r.events = append(r.events, what)
}

func (r *recorder) Assigned(ps []int32) {
	r.event("assigned", ps, true)
	if r.onAssigned != nil {
		r.onAssigned(ps)
	}
	if r.manual {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		if offsets, err := r.c.StableOffsets(ctx, ps); err == nil { // else the consumer has ended
			for p, at := range offsets {
				r.c.Start(p, at)
			}
		}
	}()
}

func (r *recorder) Lost(ps []int32) {
	if r.onLost != nil {
		r.onLost(ps)
	}
	r.event("lost", ps, false)
}
func (r *recorder) Revoked(ps []int32) {
	if r.onRevoked != nil {
		r.onRevoked(ps)
	}
	r.event("revoked", ps, false)
}

func (r *recorder) Records(p int32, rs []Record) {
	r.mu.Lock()
	if !r.owned[p] {
		r.events = append(r.events, "records of a partition not owned")
	}
	r.records[p] = append(r.records[p], rs...)
	r.mu.Unlock()
	if r.onRecords != nil {
		r.onRecords(p, rs)
	}
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, rs := range r.records {
		n += len(rs)
	}
	return n
}

func (r *recorder) ownedCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, own := range r.owned {
		if own {
			n++
		}
	}
	return n
}

func (r *recorder) has(event string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e == event {
			return true
		}
	}
	return false
}

// values returns the multiset of values seen.
func (r *recorder) values() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := map[string]int{}
	for _, rs := range r.records {
		for _, rec := range rs {
			m[string(rec.Value)]++
		}
	}
	return m
}

// running is a consumer that runs until stopped.
type running struct {
	*Consumer
	cancel context.CancelFunc
	done   chan error
}

// newRunning makes a consumer but leaves it to the caller to use it in the
// handler before it runs.
func runConsumer(t testing.TB, cfg Config, topic string, h Handler, before func(*Consumer)) *running {
	t.Helper()
	c, err := NewConsumer(cfg, topic, h, testLog(t))
	require.NoError(t, err)
	if a, ok := h.(interface{ attach(*Consumer) }); ok {
		a.attach(c)
	}
	if before != nil {
		before(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Consumer: c, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- c.Run(ctx) }()
	t.Cleanup(r.stop(t))
	return r
}

func (r *running) stop(t testing.TB) func() {
	return func() {
		r.cancel()
		select {
		case err, ok := <-r.done:
			if ok {
				require.NoError(t, err)
				close(r.done)
			}
		case <-time.After(patience):
			t.Fatal("the consumer does not end")
		}
	}
}

// deliveries collects what a producer reports.
type deliveries struct {
	mu  sync.Mutex
	all []Delivery
}

func (d *deliveries) add(batch []Delivery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, batch...)
}

func (d *deliveries) snapshot() []Delivery {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Delivery(nil), d.all...)
}

func newTestProducer(t testing.TB, cfg Config, onDelivery func([]Delivery)) *Producer {
	t.Helper()
	p, err := NewProducer(cfg, testLog(t), onDelivery)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Close(ctx); err != ErrClosed {
			require.NoError(t, err)
		}
	})
	return p
}

func flush(t testing.TB, p *Producer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, p.Flush(ctx))
}

// produceN produces n records with values prefix0.. and waits for them.
func produceN(t testing.TB, cfg Config, topic, prefix string, n int) {
	t.Helper()
	d := &deliveries{}
	p := newTestProducer(t, cfg, d.add)
	for i := range n {
		v := []byte(fmt.Sprintf("%s%d", prefix, i))
		require.NoError(t, p.Produce(Message{Topic: topic, Partition: PartitionByKey, Key: v, Value: v}))
	}
	flush(t, p)
	require.Len(t, d.snapshot(), n)
	for _, x := range d.snapshot() {
		require.NoError(t, x.Err)
	}
}

func eventually(t testing.TB, cond func() bool, msg string, args ...any) {
	t.Helper()
	require.Eventually(t, cond, patience, 5*time.Millisecond, append([]any{msg}, args...)...)
}
