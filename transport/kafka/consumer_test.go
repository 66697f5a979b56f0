package kafka

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol/record"
)

func TestConsumeCommitRestart(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 4)
		produceN(t, cfg, plan.Jobs, "a", 1000)

		first := newRecorder("first", nil)
		c := runConsumer(t, cfg, plan.Jobs, first, nil)
		eventually(t, func() bool { return first.count() == 1000 }, "all records")
		require.True(t, c.Reachable())

		// Half of each partition is committed; the other half comes again.
		committed := 0
		offsets := map[int32]int64{}
		for p, rs := range first.records {
			for i, r := range rs {
				require.Equal(t, p, r.Partition)
				require.Equal(t, int64(i), r.Offset)
				require.Positive(t, r.TimestampMs)
				require.Equal(t, r.Key, r.Value)
				require.Equal(t, p, record.Partition(r.Key, 4))
			}
			half := len(rs) / 2
			offsets[p] = rs[half].Offset
			committed += half
		}
		require.NoError(t, newRawTx(t, cfg, "tx-"+unique()).commitOffsets(plan.Jobs, offsets, c.Group()))
		eventually(t, func() bool { s := c.Stats(); return len(s.Lag) == 4 && s.Lag[0] == 0 }, "lag is known")
		c.stop(t)()
		require.True(t, first.has("revoked"))
		require.False(t, first.has("lost"))
		require.Nil(t, c.Group())
		require.EqualValues(t, 4, c.Stats().Starts)

		second := newRecorder("second", nil)
		c2 := runConsumer(t, cfg, plan.Jobs, second, nil)
		eventually(t, func() bool { return second.count() >= 1000-committed }, "the uncommitted rest")
		c2.stop(t)()
		require.Equal(t, 1000-committed, second.count())
		for p, rs := range second.records {
			require.Equal(t, int64(len(first.records[p])/2), rs[0].Offset)
		}
	})
}

// The last transaction is committed within Revoked, also at the end of Run.
func TestLastCommitWithinRevoked(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		produceN(t, cfg, plan.Jobs, "a", 10)
		rec := newRecorder("first", nil)
		x := newRawTx(t, cfg, "tx-"+unique())
		var err error
		rec.onRevoked = func([]int32) { err = x.commitOffsets(plan.Jobs, map[int32]int64{0: 7}, rec.c.Group()) }
		r := runConsumer(t, cfg, plan.Jobs, rec, nil)
		eventually(t, func() bool { return rec.count() == 10 }, "all records")
		g := r.Group()
		r.stop(t)()
		require.NoError(t, err)
		require.True(t, rec.has("revoked"))
		require.Error(t, x.commitOffsets(plan.Jobs, map[int32]int64{0: 9}, g), "it has left the group")

		again := newRecorder("second", nil)
		r2 := runConsumer(t, cfg, plan.Jobs, again, nil)
		eventually(t, func() bool { return again.count() > 0 }, "records")
		r2.stop(t)()
		require.EqualValues(t, 7, again.records[0][0].Offset)
	})
}

func TestHeadersAndNulls(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		p := newTestProducer(t, cfg, (&deliveries{}).add)
		value := []byte("value")
		require.NoError(t, p.Produce(Message{Topic: plan.Dead, Partition: 0, Value: value,
			Headers: []Header{{Key: "reason", Value: []byte("why")}, {Key: "empty", Value: []byte{}}, {Key: "null"}}}))
		copy(value, "XXXXX") // Produce has copied it
		require.NoError(t, p.Produce(Message{Topic: plan.Dead, Partition: 0, Key: []byte("k")}))
		flush(t, p)
		rec := newRecorder("c", nil)
		runConsumer(t, cfg, plan.Dead, rec, nil)
		eventually(t, func() bool { return rec.count() == 2 }, "both records")
		rs := rec.records[0]
		require.Equal(t, "value", string(rs[0].Value))
		require.Nil(t, rs[0].Key)
		require.Equal(t, []Header{{Key: "reason", Value: []byte("why")}, {Key: "empty", Value: []byte{}}, {Key: "null"}}, rs[0].Headers)
		require.Nil(t, rs[1].Value)
		require.Equal(t, "k", string(rs[1].Key))
		require.Empty(t, rs[1].Headers)
	})
}

func TestPauseHoldsBackOnePartition(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.BatchRecords = 10
		const each = 2000
		plan := makeTopics(t, cfg, 2)
		p := newTestProducer(t, cfg, (&deliveries{}).add)
		for i := range each {
			for part := range int32(2) {
				require.NoError(t, p.Produce(Message{Topic: plan.Jobs, Partition: part, Value: []byte(fmt.Sprint(i))}))
			}
		}
		flush(t, p)

		var counts [2]atomic.Int64
		var hold atomic.Bool
		hold.Store(true)
		rec := newRecorder("c", nil)
		var c *Consumer
		rec.onRecords = func(part int32, rs []Record) {
			if counts[part].Add(int64(len(rs))) >= 50 && part == 0 && hold.Load() {
				c.Pause(0)
				c.Pause(0) // idempotent
			}
		}
		r := runConsumer(t, cfg, plan.Jobs, rec, func(x *Consumer) { c = x })
		eventually(t, func() bool { return counts[1].Load() == each }, "the other partition goes on")
		eventually(t, func() bool { return c.Stats().Paused == 1 }, "paused")
		held := counts[0].Load()
		require.GreaterOrEqual(t, held, int64(50))
		require.LessOrEqual(t, held, int64(50+2*cfg.BatchRecords))
		require.EqualValues(t, 1, c.Stats().Pauses)
		require.Never(t, func() bool { return counts[0].Load() != held }, 300e6, 10e6)
		c.Pause(77) // not ours: nothing

		hold.Store(false)
		r.Resume(0)
		eventually(t, func() bool { return rec.count() == 2*each }, "all records after resume")
		require.EqualValues(t, 0, c.Stats().Paused)
		for _, rs := range rec.records {
			for i, x := range rs {
				require.EqualValues(t, i, x.Offset) // nothing twice, nothing lost, in order
			}
		}
	})
}

// Revoke in good order: the first member commits, and only then has the second
// one the partition, and starts behind the commit.
func TestRebalanceBetweenTwoMembers(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		const partitions = 6
		plan := makeTopics(t, cfg, partitions)
		produceN(t, cfg, plan.Jobs, "a", 600)
		j := &journal{}
		a, b := newRecorder("a", j), newRecorder("b", j)
		commitAtRevoke(t, cfg, plan.Jobs, a)
		commitAtRevoke(t, cfg, plan.Jobs, b)

		ra := runConsumer(t, cfg, plan.Jobs, a, nil)
		eventually(t, func() bool { return a.count() == 600 }, "a has all")
		rb := runConsumer(t, cfg, plan.Jobs, b, nil)
		eventually(t, func() bool { return a.ownedCount() == 3 && b.ownedCount() == 3 }, "three partitions each")

		produceN(t, cfg, plan.Jobs, "b", 600)
		eventually(t, func() bool { return a.count()+b.count() == 1200 }, "both read on")
		requireHandovers(t, j, partitions)
		for v, n := range b.values() {
			require.Equal(t, 1, n)
			require.Equal(t, "b", v[:1], "a committed at the revoke")
		}

		ra.stop(t)()
		eventually(t, func() bool { return b.ownedCount() == partitions }, "b has all partitions")
		produceN(t, cfg, plan.Jobs, "c", 600)
		eventually(t, func() bool { return a.count()+b.count() == 1800 }, "b reads on")
		requireHandovers(t, j, partitions)
		require.False(t, a.has("lost") || b.has("lost"))
		require.False(t, a.has("records of a partition not owned") || b.has("records of a partition not owned"))
		rb.stop(t)()
	})
}

// commitAtRevoke has the recorder commit what it has of the partitions that it gives up.
func commitAtRevoke(t *testing.T, cfg Config, topic string, rec *recorder) {
	x := newRawTx(t, cfg, "tx-"+unique())
	rec.onRevoked = func(ps []int32) {
		offsets := map[int32]int64{}
		rec.mu.Lock()
		for _, p := range ps {
			if rs := rec.records[p]; len(rs) > 0 {
				offsets[p] = rs[len(rs)-1].Offset + 1
			}
		}
		rec.mu.Unlock()
		if len(offsets) > 0 {
			assert.NoError(t, x.commitOffsets(topic, offsets, rec.c.Group()))
		}
	}
}

// requireHandovers checks that no partition is assigned while it is owned.
func requireHandovers(t *testing.T, j *journal, partitions int) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	owner := map[int]string{}
	for _, e := range j.events {
		var who, what string
		var p int
		_, err := fmt.Sscanf(e, "%s %s %d", &who, &what, &p)
		require.NoError(t, err)
		if what == "assigned" {
			require.Empty(t, owner[p], "%v: partition assigned while owned", j.events)
			owner[p] = who
		} else {
			require.Equal(t, who, owner[p], "%v", j.events)
			delete(owner, p)
		}
	}
	require.Len(t, owner, partitions)
}

func TestConsumerRefusals(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1")
	_, err := NewConsumer(cfg, "", newRecorder("c", nil), testLog(t))
	require.ErrorContains(t, err, "topic")
	cfg.Properties = map[string]string{"no.such.property": "1"}
	_, err = NewConsumer(cfg, "x", newRecorder("c", nil), testLog(t))
	require.ErrorContains(t, err, "no.such.property")
	require.Equal(t, ClassFatal, Classify(err))

	// Run ends with its context even when no broker was ever there; twice is refused.
	cfg.Properties = nil
	c, err := NewConsumer(cfg, "x", newRecorder("c", nil), testLog(t))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, c.Run(ctx))
	require.Equal(t, ClassFatal, Classify(c.Run(ctx)))
	require.False(t, c.Reachable())
}
