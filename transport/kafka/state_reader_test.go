package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stateSink keeps what a state reader gives it.
type stateSink struct {
	mu       sync.Mutex
	records  map[int32][]Record
	done     map[int32]int // records of it that had come by then
	blocked  map[int32]int
	since    time.Time
	read     int64
	about    int64
	wrong    string
	onRecord func(r *Record)
	onBlock  func(p int32)
}

func newStateSink() *stateSink {
	return &stateSink{records: map[int32][]Record{}, done: map[int32]int{}, blocked: map[int32]int{}}
}

func (s *stateSink) Records(p int32, rs []Record) {
	s.mu.Lock()
	if _, ok := s.done[p]; ok {
		s.wrong = fmt.Sprintf("records of partition %d after its end", p)
	}
	s.records[p] = append(s.records[p], rs...)
	s.mu.Unlock()
	for i := range rs {
		if s.onRecord != nil {
			s.onRecord(&rs[i])
		}
	}
}

func (s *stateSink) Progress(read, about int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read, s.about = read, about
}

func (s *stateSink) Blocked(p int32, since time.Time) {
	s.mu.Lock()
	s.blocked[p]++
	s.since = since
	s.mu.Unlock()
	if s.onBlock != nil {
		s.onBlock(p)
	}
}

func (s *stateSink) Done(p int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.done[p]; ok {
		s.wrong = fmt.Sprintf("partition %d is done twice", p)
	}
	s.done[p] = len(s.records[p])
}

// keys returns the newest value of each key that is not deleted.
func (s *stateSink) keys(p int32) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]string{}
	for _, r := range s.records[p] {
		if r.Value == nil {
			delete(m, string(r.Key))
		} else {
			m[string(r.Key)] = string(r.Value)
		}
	}
	return m
}

func (s *stateSink) isDone(p int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.done[p]
	return ok
}

func (s *stateSink) timesBlocked(p int32) int { s.mu.Lock(); defer s.mu.Unlock(); return s.blocked[p] }

func readState(t testing.TB, cfg Config, topic string, partitions []int32, s *stateSink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, ReadState(ctx, cfg, topic, partitions, s, testLog(t)))
	require.Empty(t, s.wrong)
	require.Len(t, s.done, len(partitions))
	n := int64(0)
	for _, rs := range s.records {
		n += int64(len(rs))
	}
	require.Equal(t, n, s.read)
	require.GreaterOrEqual(t, s.about, s.read)
}

// readStateAgain does what readState does, and begins anew when the broker compacts the
// topic meanwhile.
func readStateAgain(t testing.TB, cfg Config, topic string, partitions []int32) *stateSink {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		s := newStateSink()
		err := ReadState(ctx, cfg, topic, partitions, s, testLog(t))
		if err == nil {
			return s
		}
		require.ErrorContains(t, err, "was cut while it was read")
		require.Equal(t, ClassRetry, Classify(err))
	}
}

// What is read is what was committed, to the last offset, which markers take.
func TestReadState(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 5)
		x := newRawTx(t, cfg, "tx-"+unique())
		put := func(p int32, k, v string) {
			var value []byte
			if v != "" {
				value = []byte(v)
			}
			x.produce(plan.State, p, []byte(k), value)
		}
		x.begin()
		for i := range 1000 {
			put(0, fmt.Sprint("k", i), "v")
			put(1, fmt.Sprint("k", i%10), fmt.Sprint(i))
		}
		require.NoError(t, x.commit())
		x.begin()
		for i := range 990 {
			put(0, fmt.Sprint("k", i), "") // deleted
		}
		put(3, "aborted", "x")
		x.flush()
		require.NoError(t, x.abort())
		x.begin()
		for i := range 500 {
			put(0, fmt.Sprint("k", i), "")
		}
		put(2, "last", "1")
		require.NoError(t, x.commit())
		x.begin()
		put(2, "last", "2") // ends with an aborted transaction and its marker
		x.flush()
		require.NoError(t, x.abort())

		s := newStateSink()
		readState(t, cfg, plan.State, []int32{0, 1, 2, 3, 4}, s)
		require.Len(t, s.keys(0), 500)
		require.Len(t, s.records[0], 1500)
		require.Equal(t, "997", s.keys(1)["k7"])
		require.Equal(t, map[string]string{"last": "1"}, s.keys(2))
		require.Empty(t, s.records[3])
		require.Empty(t, s.records[4])
		for p, rs := range s.records {
			for i := range rs {
				require.Equal(t, p, rs[i].Partition)
				require.True(t, i == 0 || rs[i].Offset > rs[i-1].Offset)
			}
		}
		require.Empty(t, s.blocked)

		// Some of them, and none.
		s = newStateSink()
		readState(t, cfg, plan.State, []int32{2}, s)
		require.Equal(t, map[string]string{"last": "1"}, s.keys(2))
		require.NoError(t, ReadState(context.Background(), cfg, plan.State, nil, newStateSink(), testLog(t)))
	})
}

// A transaction that is open below the end is waited for, whatever becomes of it; other
// partitions are done meanwhile.
func TestReadStateWaitsForOpenTransaction(t *testing.T) {
	for _, outcome := range []string{"committed", "aborted"} {
		t.Run(outcome, func(t *testing.T) {
			onEachBroker(t, func(t *testing.T, cfg Config) {
				plan := makeTopics(t, cfg, 2)
				x := newRawTx(t, cfg, "tx-"+unique())
				x.begin().produce(plan.State, 0, []byte("k"), []byte("old"))
				x.produce(plan.State, 1, []byte("k"), []byte("old"))
				require.NoError(t, x.commit())
				x.begin().produce(plan.State, 0, []byte("k"), []byte("new")).flush()

				s := newStateSink()
				done := make(chan error, 1)
				started := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				go func() { done <- ReadState(ctx, cfg, plan.State, []int32{0, 1}, s, testLog(t)) }()
				eventually(t, func() bool { return s.isDone(1) && s.timesBlocked(0) >= 2 }, "one is done, one blocked")
				require.False(t, s.isDone(0))
				require.Zero(t, s.timesBlocked(1))
				require.GreaterOrEqual(t, time.Since(s.since), cfg.blockedAfter())
				require.True(t, s.since.After(started))
				want := map[string]string{"k": "old"}
				if outcome == "committed" {
					want["k"] = "new"
					require.NoError(t, x.commit())
				} else {
					require.NoError(t, x.abort())
				}
				require.NoError(t, <-done)
				require.Equal(t, want, s.keys(0))
			})
		})
	}
}

// What is written after the beginning is not waited for, nor handed over.
func TestReadStateEndsAtItsEnd(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.BatchRecords = 10
		plan := makeTopics(t, cfg, 1)
		x := newRawTx(t, cfg, "tx-"+unique())
		x.begin()
		for i := range 100 {
			x.produce(plan.State, 0, []byte(fmt.Sprint(i)), []byte("v"))
		}
		require.NoError(t, x.commit())
		s := newStateSink()
		var once sync.Once
		s.onRecord = func(*Record) {
			once.Do(func() { // read has begun
				x.begin().produce(plan.State, 0, []byte("late"), []byte("v"))
				require.NoError(t, x.commit())
				x.begin().produce(plan.State, 0, []byte("later"), []byte("v")).flush() // and stays open
			})
		}
		readState(t, cfg, plan.State, []int32{0}, s)
		require.Len(t, s.records[0], 100)
		require.NoError(t, x.abort())
	})
}

func TestReadStateRefusals(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := ReadState(ctx, cfg, "no-"+unique(), []int32{0}, newStateSink(), testLog(t))
		require.Error(t, err)
		require.NoError(t, ctx.Err(), "it does not wait for the topic")
		plan := makeTopics(t, cfg, 1)
		err = ReadState(ctx, cfg, plan.State, []int32{0, 5}, newStateSink(), testLog(t))
		require.Error(t, err)
		require.NoError(t, ctx.Err())
	})
	bad := testConfig(t, "127.0.0.1:1")
	bad.Group = ""
	require.ErrorContains(t, ReadState(context.Background(), bad, "x", []int32{0}, newStateSink(), testLog(t)), "Group")
	bad.Group = "g"
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	require.ErrorIs(t, ReadState(ctx, bad, "x", []int32{0}, newStateSink(), testLog(t)), why, "the brokers are away")
}

// The broker goes away in the midst of it and comes back.
func TestReadStateOverRestart(t *testing.T) {
	dir := t.TempDir()
	e := startEmbedded(t, EmbeddedConfig{Listen: freeAddr(t), DataDir: dir})
	cfg := testConfig(t, e.Addr())
	cfg.QueuedMaxKBytes = 64 // so that most of it is not fetched before
	cfg.BatchRecords = 50
	cfg.Properties = map[string]string{"fetch.message.max.bytes": "16384", "fetch.max.bytes": "1000000"}
	plan := makeTopics(t, cfg, 2)
	x := newRawTx(t, cfg, "tx-"+unique())
	const each = 5000
	for b := range 10 {
		x.begin()
		for i := range each / 10 {
			for p := range int32(2) {
				x.produce(plan.State, p, []byte(fmt.Sprint(b, "-", i)), make([]byte, 100))
			}
		}
		require.NoError(t, x.commit())
	}
	x.close()
	s := newStateSink()
	n := 0
	s.onRecord = func(*Record) {
		if n++; n == 1000 {
			require.NoError(t, e.Close())
			time.AfterFunc(500*time.Millisecond, func() {
				e2, err := StartEmbedded(EmbeddedConfig{Listen: e.Addr(), DataDir: dir, Log: testLog(t)})
				if err == nil {
					t.Cleanup(func() { require.NoError(t, e2.Close()) })
				}
			})
		}
	}
	readState(t, cfg, plan.State, []int32{0, 1}, s)
	require.Len(t, s.keys(0), each)
	require.Len(t, s.keys(1), each)
	require.Len(t, s.records[0], each, "nothing twice")
}

// BenchmarkReadState reads b.N records of 250 bytes of 16 partitions.
func BenchmarkReadState(b *testing.B) {
	benchBrokers(b, func(b *testing.B, cfg Config) {
		plan := makeTopics(b, cfg, 16)
		x := newRawTx(b, cfg, "tx-"+unique(), "queue.buffering.max.messages", "1000000", "linger.ms", "20")
		x.begin()
		value := make([]byte, 230)
		for i := range b.N {
			x.produce(plan.State, int32(i%16), fmt.Appendf(nil, "key-of-a-job-%07d", i), value)
			if i%50_000 == 49_999 {
				require.NoError(b, x.commit())
				x.begin()
			}
		}
		require.NoError(b, x.commit())
		x.close()
		all := make([]int32, 16)
		for i := range all {
			all[i] = int32(i)
		}
		b.ReportAllocs()
		b.ResetTimer()
		before := cpu()
		c := &countSink{}
		ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
		defer cancel()
		require.NoError(b, ReadState(ctx, cfg, plan.State, all, c, testLog(b)))
		require.Equal(b, b.N, c.n)
		report(b, before)
		b.ReportMetric(float64(c.last.Milliseconds()), "ms-to-last-record")
	})
}

type countSink struct {
	n     int
	start time.Time
	last  time.Duration
}

func (c *countSink) Records(_ int32, rs []Record) {
	if c.n == 0 {
		c.start = time.Now()
	}
	c.n += len(rs)
	c.last = time.Since(c.start)
}
func (c *countSink) Progress(_, _ int64)      {}
func (c *countSink) Blocked(int32, time.Time) {}
func (c *countSink) Done(int32)               {}
