package kafka

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// epochs collects offsets by the epoch that they were delivered in.
type epochs struct {
	mu  sync.Mutex
	all map[uint64][]int64
}

func (e *epochs) attach(rec *recorder) {
	e.all = map[uint64][]int64{}
	rec.onRecords = func(p int32, rs []Record) {
		e.mu.Lock()
		defer e.mu.Unlock()
		for i := range rs {
			e.all[rec.c.Epoch(p)] = append(e.all[rec.c.Epoch(p)], rs[i].Offset)
		}
	}
}

func (e *epochs) of(epoch uint64) []int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]int64(nil), e.all[epoch]...)
}

func from(first, end int64) []int64 {
	var s []int64
	for o := first; o < end; o++ {
		s = append(s, o)
	}
	return s
}

// Nothing is delivered before Start, and then from where it says; each start is an epoch of
// its own.
func TestStartAndHold(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 2)
		produceN(t, cfg, plan.Jobs, "a", 200)
		rec := newRecorder("c", nil)
		rec.manual = true
		var e epochs
		e.attach(rec)
		r := runConsumer(t, cfg, plan.Jobs, rec, nil)
		require.Zero(t, r.Start(0, 0), "not ours yet")
		eventually(t, func() bool { return rec.ownedCount() == 2 }, "assigned")
		require.Zero(t, r.Start(7, 0))
		r.Hold(7)
		require.Never(t, func() bool { return rec.count() > 0 }, 300*time.Millisecond, 10*time.Millisecond)
		require.Equal(t, 2, r.Stats().Held)

		n, err := r.StableOffset(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, NoOffset, n)
		first := r.Start(0, n)
		require.NotZero(t, first)
		end := func() int64 {
			_, high, err := r.client.QueryWatermarkOffsets(plan.Jobs, 0, 5000)
			require.NoError(t, err)
			return high
		}()
		eventually(t, func() bool { return len(e.of(first)) == int(end) }, "all of it")
		require.Equal(t, from(0, end), e.of(first))
		require.Empty(t, rec.records[1])

		second := r.Start(0, 40)
		require.Greater(t, second, first)
		eventually(t, func() bool { return len(e.of(second)) == int(end)-40 }, "from 40 on")
		require.Equal(t, from(40, end), e.of(second))

		// Held, and started again; what comes meanwhile is not lost.
		r.Hold(0)
		r.Hold(0)
		eventually(t, func() bool { s := r.Stats(); return s.Held == 2 && s.Pauses == 1 }, "held")
		p := newTestProducer(t, cfg, (&deliveries{}).add)
		for range 10 {
			require.NoError(t, p.Produce(Message{Topic: plan.Jobs, Partition: 0, Value: []byte("late")}))
		}
		flush(t, p)
		require.Never(t, func() bool { return len(e.of(second)) != int(end)-40 }, 200*time.Millisecond, 10*time.Millisecond)

		// A pause outlives a start.
		r.Pause(0)
		third := r.Start(0, end-1)
		eventually(t, func() bool { return r.Epoch(0) == third }, "the epoch begins")
		require.Never(t, func() bool { return len(e.of(third)) > 0 }, 200*time.Millisecond, 10*time.Millisecond)
		r.Resume(0)
		eventually(t, func() bool { return len(e.of(third)) == 11 }, "resumed")
		require.Equal(t, from(end-1, end+10), e.of(third))

		// Many at once: the last one counts.
		var last uint64
		for i := range 50 {
			last = r.Start(0, int64(i))
		}
		eventually(t, func() bool { return len(e.of(last)) == int(end)+10-49 }, "the last")
		require.Equal(t, from(49, end+10), e.of(last))
		require.Empty(t, rec.records[1])
		require.Equal(t, 1, r.Stats().Held)
	})
}

// Records come from the start that was asked for whatever else goes on: rebalances, pauses,
// and starts that overtake one another.
func TestStartsUnderChurn(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.BatchRecords = 7
		const partitions = 4
		plan := makeTopics(t, cfg, partitions)
		produceN(t, cfg, plan.Jobs, "a", 2000)
		rec := newRecorder("c", nil)
		rec.manual = true
		var mu sync.Mutex
		starts := map[uint64]int64{} // by epoch
		next := map[uint64]int64{}
		wrong := ""
		rec.onRecords = func(p int32, rs []Record) {
			mu.Lock()
			defer mu.Unlock()
			e := rec.c.Epoch(p)
			want, ok := next[e]
			if !ok {
				want = starts[e]
			}
			for i := range rs {
				if rs[i].Offset != want && wrong == "" {
					wrong = fmt.Sprintf("epoch %d of partition %d, started at %d: offset %d after %d", e, p, starts[e], rs[i].Offset, want-1)
				}
				want = rs[i].Offset + 1
			}
			next[e] = want
		}
		start := func(p int32, at int64) {
			mu.Lock() // the handler must not see the epoch before it is noted
			defer mu.Unlock()
			if e := rec.c.Start(p, at); e != 0 {
				starts[e] = at
			}
		}
		rec.onAssigned = func(ps []int32) {
			for _, p := range ps {
				start(p, 0)
			}
		}
		r := runConsumer(t, cfg, plan.Jobs, rec, nil)
		eventually(t, func() bool { return rec.ownedCount() == partitions }, "assigned")
		for round := range 3 {
			other := newRecorder("other", nil)
			other.manual = true
			ro := runConsumer(t, cfg, plan.Jobs, other, nil)
			for i := int64(0); other.ownedCount() == 0 || i < 200; i++ {
				p := int32(i % partitions)
				switch i % 5 {
				case 0, 1:
					start(p, i%300)
				case 2:
					r.Pause(p)
				case 3:
					r.Resume(p)
				case 4:
					r.Hold(p)
				}
				time.Sleep(time.Millisecond) // a rate, not a wait
			}
			ro.stop(t)()
			eventually(t, func() bool { return rec.ownedCount() == partitions }, "all again, round %d", round)
			mu.Lock()
			require.Empty(t, wrong)
			mu.Unlock()
		}
		for p := range int32(partitions) {
			r.Resume(p)
			start(p, 100)
		}
		eventually(t, func() bool {
			done := true
			for p := range int32(partitions) {
				_, high, err := r.client.QueryWatermarkOffsets(plan.Jobs, p, 5000)
				mu.Lock()
				done = done && err == nil && next[r.Epoch(p)] == high
				mu.Unlock()
			}
			return done
		}, "all is read in the end")
		mu.Lock()
		defer mu.Unlock()
		require.Empty(t, wrong)
	})
}

// A partition that is not started is not fetched either.
func TestHeldPartitionIsNotFetched(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 1)
	produceN(t, cfg, plan.Jobs, "a", 100)
	lists := e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets, kmsg.Fetch}, Topic: plan.Jobs, Observe: true, Count: -1})
	commits := e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetFetch}, Observe: true, Count: -1, Group: cfg.Group})
	rec := newRecorder("c", nil)
	rec.manual = true
	r := runConsumer(t, cfg, plan.Jobs, rec, nil)
	eventually(t, func() bool { return rec.ownedCount() == 1 }, "assigned")
	require.Never(t, func() bool { return lists.Hits()+commits.Hits() > 0 }, 500*time.Millisecond, 10*time.Millisecond)
	r.Start(0, 90)
	eventually(t, func() bool { return rec.count() == 10 }, "the rest")
	require.Positive(t, lists.Hits())
}

// The committed offset is beyond the end: the topic is read from its beginning, not never.
func TestStartBeyondTheEnd(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		produceN(t, cfg, plan.Jobs, "a", 10)
		rec := newRecorder("c", nil)
		rec.manual = true
		r := runConsumer(t, cfg, plan.Jobs, rec, nil)
		eventually(t, func() bool { return rec.ownedCount() == 1 }, "assigned")
		r.Start(0, 1000)
		eventually(t, func() bool { return rec.count() == 10 }, "all records")
		require.EqualValues(t, 0, rec.records[0][0].Offset)
	})
}

// Starts are repeated when librdkafka refuses them, and wait for brokers that are away.
func TestStartWhileLeaderIsAway(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 1)
	produceN(t, cfg, plan.Jobs, "a", 100)
	rec := newRecorder("c", nil)
	rec.manual = true
	var ep epochs
	ep.attach(rec)
	r := runConsumer(t, cfg, plan.Jobs, rec, nil)
	eventually(t, func() bool { return rec.ownedCount() == 1 }, "assigned")
	h := e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: -1})
	n := r.Start(0, 30)
	eventually(t, func() bool { return h.Hits() > 2 }, "it is tried")
	require.Zero(t, rec.count())
	h.Remove()
	eventually(t, func() bool { return len(ep.of(n)) == 70 }, "it goes on")
	require.Equal(t, from(30, 100), ep.of(n))
}
